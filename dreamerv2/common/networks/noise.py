"""The one place where the networks draw random numbers."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

NoiseFn = Callable[[str, str, Sequence[int]], Tensor]
"""Called as ``noise(name, kind, shape)``; see :class:`Noise`."""


class Noise:
    """Draws on one device from one seeded stream, for every network of an agent:
    float32.

    Each draw has a name (``observe_post``, ``task/imagine_state``), a kind and a shape,
    so that a test can hand the networks recorded noise by passing any other callable of
    the same form. Kinds: ``normal``; ``uniform`` in [0, 1); and ``gumbel``, so that
    argmax(logits + noise) is a categorical sample, without waiting for the device.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self._device = torch.device(device)
        self._generator = torch.Generator(self._device).manual_seed(seed)

    def __call__(self, name: str, kind: str, shape: Sequence[int]) -> Tensor:
        empty = torch.empty(tuple(shape), dtype=torch.float32, device=self._device)
        if kind == "gumbel":
            return self._exponential(empty).log_().neg_()
        if kind == "normal":
            return empty.normal_(generator=self._generator)
        if kind == "uniform":
            return empty.uniform_(generator=self._generator)
        raise ValueError(
            f"Unknown kind of noise '{kind}' for '{name}': expected gumbel, normal "
            "or uniform."
        )

    def _exponential(self, empty: Tensor) -> Tensor:
        """Draw what -log makes Gumbel; the clamps keep a drawn zero from giving an
        infinity, which would win or lose every argmax."""
        tiny = torch.finfo(torch.float32).tiny
        if empty.device.type == "cpu":  # Where exponential_ takes four times as long.
            uniform = empty.uniform_(generator=self._generator)
            return uniform.clamp_(min=tiny).log_().neg_()
        # Not run without a GPU.
        return empty.exponential_(generator=self._generator).clamp_(min=tiny)

    @property
    def generator(self) -> torch.Generator:
        """The generator drawn from, which a CUDA graph has to be told."""
        return self._generator

    def renew(self, state: dict) -> None:
        """Go on from a state with a new generator: one that was in a CUDA graph's
        capture when that failed may be of no more use."""
        self._generator = torch.Generator(self._device)
        self.load_state_dict(state)

    def state_dict(self) -> dict:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self._generator.set_state(state["generator"].cpu())


def scoped(noise: NoiseFn, prefix: str) -> NoiseFn:
    """Return the same source of noise, with ``prefix/`` before every name."""
    return lambda name, kind, shape: noise(f"{prefix}/{name}", kind, shape)
