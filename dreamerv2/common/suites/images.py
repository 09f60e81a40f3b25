"""Which boxes are images, how their axes lie, and how their values are scaled."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.spaces import bounds

SMALLEST = 16  # Pixels per side; a smaller matrix of numbers is no picture.

Arrange = Callable[[np.ndarray], np.ndarray]


def image_layout(name: str, space: Any) -> tuple[tuple[int, int, int], Arrange] | None:
    """Return an image's shape (H, W, C) and what brings its values there, or None.
    Boxes of three dimensions are images, (H, W, C) or (C, H, W), those of four stacks
    of them, whose channels are joined. A box of two is a gray one if its bounds are
    those of pixels; small boards are none. UsageError for axes that cannot be told."""
    shape = tuple(space.shape)
    if len(shape) == 2:
        pixels, large = bounds(space), min(shape) >= SMALLEST
        binary = pixels == (0, 1) or np.dtype(space.dtype) == np.uint8
        if pixels == (0, 255) or (large and binary):
            return (*shape, 1), lambda x: x[..., None]
    if len(shape) not in (3, 4) or 0 in shape:
        return None
    if (last := _channels_last(shape[-3:])) is None:
        raise UsageError(
            f"The observation {name!r} of shape {shape} may be an image (H, W, C) or "
            "(C, H, W): have the environment give fewer channels, or a vector."
        )

    def arrange(x: np.ndarray) -> np.ndarray:
        x = x if last else np.moveaxis(x, -3, -1)  # (..., H, W, C)
        if x.ndim == 4:
            x = np.moveaxis(x, 0, -2)  # (H, W, frames, C)
        return x.reshape(*x.shape[:2], -1)

    return arrange(np.empty(shape, bool)).shape, arrange


def image_range(space: Any) -> tuple[float, float] | None:
    """Return the bounds by which values become [-0.5, 0.5]; None for bytes, vectors."""
    is_bytes = np.dtype(space.dtype) == np.uint8
    if not (len(space.shape) == 3 or is_bytes):
        return None
    low, high = bounds(space)
    usual = is_bytes and (low, high) == (0, 255)
    return None if usual or not 0 < high - low < np.inf else (low, high)


def _channels_last(shape: tuple[int, ...]) -> bool | None:
    """Tell (H, W, C) from (C, H, W): channels are fewest, or beside equal sides."""
    a, b, c = shape
    if c < min(a, b) or (a == b != c and not a < min(b, c)):
        return True
    return False if a < min(b, c) or (b == c != a) else None
