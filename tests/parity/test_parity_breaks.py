"""The comparison with the reference sees a fault: each of these makes it fail."""

from pathlib import Path

import pytest
import torch
from recordings import compare_file

from dreamerv2.common.networks.layers import GRUCell, LayerNorm
from dreamerv2.common.networks.rssm import EnsembleRSSM
from dreamerv2.common.torchutils import Optimizer

FOLDER = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("one_thread")


def failing(name, updates=2):
    """Quantities of a file that are beyond their limit."""
    path = FOLDER / f"{name}.npz"
    return {row.quantity for row in compare_file(path, None, updates) if not row.passed}


def test_nothing_fails_as_it_is():
    assert not failing("units")
    assert not failing("gaussian_vectors")
    assert not failing("discrete_pixels")


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_another_layer_norm_epsilon_fails(monkeypatch, eps):
    monkeypatch.setattr(LayerNorm, "EPS", eps)
    assert failing("units") == {"gru/output"}
    assert {"embed", "post/deter", "grads/rssm"} <= failing("gaussian_vectors")
    assert {"post/deter", "grads/rssm"} <= failing("discrete_pixels")


def bias_corrected_adam(self, grads):
    """torch.optim.Adam's: m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)."""
    b1, b2 = self.BETAS
    m, v = self._slots["m"], self._slots["v"]
    m.lerp_(grads, 1 - b1)
    v.mul_(b2).addcmul_(grads, grads, value=1 - b2)
    root = v.sqrt() / (1 - b2**self._step).sqrt().to(v.dtype) + self._eps
    self._descend(m / root, self._lr / (1 - b1**self._step))


def test_a_bias_corrected_adam_epsilon_fails(monkeypatch):
    monkeypatch.setattr(Optimizer, "_adam", bias_corrected_adam)
    assert failing("units") == {"optimizer/adam/parameters"}
    assert {"params1/actor", "params1/critic"} <= failing("gaussian_vectors")
    # What comes before the first step is as it was.
    assert "grads/rssm" not in failing("gaussian_vectors", updates=1)


def test_a_swapped_kl_balance_fails(monkeypatch):
    right = EnsembleRSSM.kl_loss

    def swapped(self, post, prior, forward, balance, free, free_avg, **more):
        return right(self, post, prior, forward, 1 - balance, free, free_avg, **more)

    monkeypatch.setattr(EnsembleRSSM, "kl_loss", swapped)
    # Where both terms are the same number, the gradients alone tell.
    assert {"kl/0/gradients", "kl/5/gradients"} <= failing("units")
    assert "grads/rssm" in failing("gaussian_vectors")
    assert "grads/rssm" in failing("discrete_pixels")


def test_a_missing_bias_of_the_update_gate_fails(monkeypatch):
    monkeypatch.setattr(GRUCell, "UPDATE_BIAS", 0.0)
    assert failing("units") == {"gru/output"}
    assert {"post/deter", "prior/deter", "feat"} <= failing("discrete_pixels")


def test_weight_decay_after_the_step_fails(monkeypatch):
    def decay_last(self):
        self._step += 1
        getattr(self, f"_{self._opt}")(self._grads)
        torch._foreach_mul_(self._decayed, 1 - self._wd)

    monkeypatch.setattr(Optimizer, "_decay_and_step", decay_last)
    kinds = ("adam", "nadam", "adamax", "momentum")
    assert {f"optimizer/{kind}/parameters" for kind in kinds} <= failing("units")
