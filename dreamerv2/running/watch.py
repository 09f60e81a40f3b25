"""Numbers gone wrong: counted on the device, looked at now and then."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import torch
from torch import Tensor

from dreamerv2.common.errors import RunFailed
from dreamerv2.common.files import write_atomically

BATCH = "nonfinite_batch.npz"


class Watch:
    """Counts the updates whose losses or gradients are not finite; `patience` in a row
    end the run, and the batch of the last goes to `folder`. Only `check` waits."""

    def __init__(self, patience: int, folder: Path):
        self._patience, self._path = patience, folder / BATCH
        self._names: list[str] = []
        # Bad updates of each name since the last check; then those in a row until now.
        self._counts: Tensor | None = None
        self._updates = 0
        self._batch: Mapping[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        """Take one update's metrics, 0-d tensors, and the batch that it was of.
        Overflow in float16 is no fault while there is a loss scale to be lowered."""
        names = [k for k in metrics if k.endswith(("_loss", "_grad_norm"))]
        values = torch.stack([metrics[name].float() for name in names])
        bad = ~torch.isfinite(values)
        for index, name in enumerate(names):
            scale = metrics.get(name.removesuffix("_grad_norm") + "_loss_scale")
            if scale is not None and name.endswith("_grad_norm"):
                bad[index] &= scale <= 1
        if names != self._names or self._counts is None:
            self._names = names
            self._counts = torch.zeros(len(names) + 1, device=values.device)
        row = (self._counts[-1:] + 1) * bad.any()
        self._counts = torch.cat([self._counts[:-1] + bad, row])
        self._updates, self._batch = self._updates + 1, batch

    def check(self, step: int) -> None:
        """Print what was not finite since the last check; RunFailed if the last
        updates, `patience` or more, all were bad."""
        if self._counts is None:
            return
        *counts, row = (int(count) for count in self._counts.tolist())
        bad = {k: n for k, n in zip(self._names, counts, strict=True) if n}
        updates, self._updates = self._updates, 0
        self._counts[:-1] = 0
        if not bad:
            return
        listed = ", ".join(f"{name} in {n}" for name, n in bad.items())
        listed = f"Not finite among {updates} updates until step {step}: {listed}"
        if row < self._patience:
            print(f"{listed}; such gradients are not followed, and the run goes on.")
            return
        arrays = {k: torch.as_tensor(x).cpu().numpy() for k, x in self._batch.items()}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomically(self._path, lambda file: file.write(content.getvalue()))
        raise RunFailed(
            f"{listed}, and the last {row} in a row were bad, so that the run ends "
            f"with its last good checkpoint kept and the batch in {self._path}: go on "
            "from there with a lower learning rate or --precision 32."
        )


def check_actions(outputs: dict[str, Any], step: SupportsInt) -> dict[str, Any]:
    """Return what a policy gave; RunFailed if its actions are not finite."""
    if not np.isfinite(outputs["action"]).all():
        raise RunFailed(
            f"The policy's actions are not finite at step {int(step)}, so the run ends "
            "with its last good checkpoint kept: go on from there with a lower "
            "learning rate or --precision 32."
        )
    return outputs


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number in these tensors is finite. Waits for the device."""
    tensors = [x for x in tensors if x.is_floating_point() and x.numel()]
    if not tensors:
        return True
    norms = torch._foreach_norm(tensors, float("inf"))
    return bool(torch.stack([norm.double() for norm in norms]).isfinite().all())
