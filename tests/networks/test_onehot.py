"""Rows of weights for one-hot latents: the numbers of the product, by less work."""

import pytest
import torch
import torch.nn.functional as F
from agent_tools import make_agent, make_batch
from torch.utils.flop_counter import FlopCounterMode

from dreamerv2.common.networks import onehot
from dreamerv2.common.networks.onehot import find_ones, stack_ones
from dreamerv2.common.torchutils import named_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

N, S, C, UNITS = 40, 4, 3, 5


def one_hot(seed=0, dtype=torch.float64):
    """Latents (N, S, C), of which one class of the last is never taken."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(C, (N, S), generator=generator)
    index[:, -1] = index[:, -1].clamp(max=C - 2)
    return F.one_hot(index, C).to(dtype)


def test_the_sum_of_rows_is_the_product_and_has_its_gradients():
    latents, weight = one_hot(), torch.randn(UNITS, S * C, dtype=torch.float64)
    flat = latents.flatten(1).requires_grad_()
    weight.requires_grad_()
    found = find_ones(latents).product(flat, weight)
    expected = F.linear(flat, weight)
    torch.testing.assert_close(found, expected)
    seed = torch.randn(N, UNITS, dtype=torch.float64)
    grads = [torch.autograd.grad(y, [flat, weight], seed) for y in (found, expected)]
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not grads[0][1][:, -1].any() and grads[0][1][:, :-1].all()


def test_ones_of_many_steps_are_those_of_each():
    steps = [one_hot(seed) for seed in range(3)]
    weight = torch.randn(UNITS, S * C, dtype=torch.float64)
    ones = stack_ones([find_ones(latents) for latents in steps])
    assert ones.columns.shape == (3, N, S) and ones.width == S * C
    latents = torch.stack(steps)[1:].flatten(0, 1).flatten(1)
    found = ones[1:].product(latents, weight)
    torch.testing.assert_close(found, F.linear(latents, weight))
    assert stack_ones([None, None]) is None


def test_latents_that_are_no_numbers_take_some_rows():
    latents = torch.full((N, S, C), torch.nan)
    columns = find_ones(latents).columns
    assert (columns // C == torch.arange(S)).all()


def test_the_product_stays_where_it_is_faster_or_in_16_bits():
    latents = one_hot()
    assert find_ones(latents[: onehot.FEWEST - 1]) is None
    assert find_ones(latents.to("meta")) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert find_ones(latents) is None
    assert find_ones(latents) is not None


@pytest.mark.parametrize("behavior", ["greedy", "Plan2Explore", "ModelLoss"])
@pytest.mark.parametrize("mode", ["reinforce", "dynamics", "both"])
def test_an_update_by_rows_is_one_by_products_with_fewer_of_them(
    mode, behavior, monkeypatch
):
    changes = {
        **{"actor_grad": mode, "expl_behavior": behavior, "expl_extr_scale": 0.5},
        **{"slow_baseline": False, "precision": "float64"},
    }
    found, flops = [], []
    for fewest in (onehot.FEWEST, 10**9):
        monkeypatch.setattr(onehot, "FEWEST", fewest)
        agent = make_agent(changes)
        with FlopCounterMode(display=False) as counter:
            metrics = agent.train(make_batch())
        flops.append(counter.get_total_flops())
        found.append({**named_tensors(agent.state_dict()), **metrics})
    assert flops[0] < 0.95 * flops[1]
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-9, atol=1e-12)
