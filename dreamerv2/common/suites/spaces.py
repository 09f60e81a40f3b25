"""Spaces of any nesting, told apart by attributes, as gym has classes of its own."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium.spaces import OneOf

Path = tuple[Any, ...]  # Keys of dicts and places in tuples, from the outside in.


def parts_of(space: Any) -> list[tuple[Any, Any]] | None:
    """Return the (key, space) pairs of a dict, or of a tuple; None for other spaces."""
    inner = space if isinstance(space, dict) else getattr(space, "spaces", None)
    if inner is None or isinstance(space, OneOf):
        return None
    return list(inner.items() if hasattr(inner, "items") else enumerate(inner))


def leaf_spaces(space: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the spaces that are no dicts or tuples, each with the way to it."""
    if (parts := parts_of(space)) is None:
        yield path, space
        return
    for key, part in parts:
        yield from leaf_spaces(part, (*path, key))


def nest(space: Any, values: Iterator[Any]) -> Any:
    """Put values, in the order of `leaf_spaces`, into the form of the space."""
    if (parts := parts_of(space)) is None:
        return next(values)
    nested = {key: nest(part, values) for key, part in parts}
    named = isinstance(space, dict) or hasattr(space.spaces, "items")
    return nested if named else tuple(nested.values())


def shown(space: Any) -> str:
    """Describe a space in one line, for a message."""
    text = " ".join(str(space).split())
    return text if len(text) < 200 else f"{text[:200]} ..."


def is_box(space: Any) -> bool:
    """Check that a space has bounds."""
    return hasattr(space, "low") and hasattr(space, "high")


def choices(space: Any) -> list[int] | None:
    """Return how many values each part of a discrete space has; None for others."""
    if hasattr(space, "nvec"):
        return [int(n) for n in np.ravel(space.nvec)]
    if is_box(space) or isinstance(space, OneOf) or not hasattr(space, "n"):
        return None
    return [2] * int(np.prod(space.shape)) if space.shape else [int(space.n)]


def bounds(space: Any) -> tuple[float, float]:
    """Return the lowest and the highest bound of a box."""
    return float(np.min(space.low)), float(np.max(space.high))
