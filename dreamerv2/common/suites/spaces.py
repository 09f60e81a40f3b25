"""Spaces of any nesting as what the agent can take: vectors, images, one action.

Spaces are told apart by their attributes, since those of the older gym and those of
gymnasium are different classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import signal_spaces

MOST_ACTIONS = 512  # Combinations; more are better left to the environment to reduce.


class FlatObservation:
    """Nested observations as a flat dict of images and vectors.

    Dicts and tuples may be nested; the names on the way are joined by `_`, as in
    robot_joints or view_0. A discrete value becomes a one-hot vector, a multi-discrete
    one the one-hot vectors of its parts in a row, a multi-binary one a vector. Boxes of
    three dimensions are images, uint8 ones of two are images of one channel, and others
    become vectors. Floats become float32 and signed integers int32. What is none of
    these, as text, is left out. `spaces` maps each name to its box.

    Args:
      space: of the observations.
      key: name of an observation that is no dict; by default `image` or `vector`.

    Raises UsageError where nothing is left.
    """

    def __init__(self, space: Any, key: str | None = None):
        self._parts: dict[str, tuple[tuple, Callable[[Any], np.ndarray]]] = {}
        self.spaces: dict[str, Box] = {}
        taken = {*signal_spaces(), "action"}
        for path, leaf in leaves(space):
            if (made := _observed(leaf)) is None:
                continue
            box, convert = made
            name = "_".join(str(p) for p in path)
            if isinstance(getattr(space, "spaces", None), tuple | list):
                name = f"part_{name}"
            name = name or key or ("image" if len(box.shape) == 3 else "vector")
            # Modules of the network are named after it: no dots.
            name = name.replace("/", "_").replace(".", "_")
            while name in taken:
                name = f"obs_{name}"
            taken.add(name)
            self.spaces[name], self._parts[name] = box, (path, convert)
        if not self.spaces:
            raise UsageError(
                "Expected a box, discrete values, or dicts and tuples of these, but "
                f"the observations are {space}."
            )

    def __call__(self, obs: Any) -> dict[str, np.ndarray]:
        """New arrays, one per name in `spaces`."""
        result = {}
        for name, (path, convert) in self._parts.items():
            value = obs
            for step in path:
                value = value[step]
            result[name] = np.array(convert(value), self.spaces[name].dtype)
        return result


class FlatAction:
    """One discrete or one continuous action for a space of any nesting.

    Discrete, multi-discrete and multi-binary spaces, and dicts and tuples of these,
    become one discrete `space` of all their combinations; boxes, and dicts and tuples
    of them, become one box of one dimension.

    Raises UsageError for a mix of both, for more than 512 combinations, and for other
    kinds.
    """

    def __init__(self, space: Any):
        self._nested = space
        self._leaves = [leaf for _, leaf in leaves(space)]
        kinds = {_is_box(leaf) for leaf in self._leaves}
        if not self._leaves or any(_counts(x) is None for x in self._leaves):
            raise UsageError(f"Expected box or discrete actions, but got {space}.")
        if len(kinds) > 1:
            raise UsageError(
                f"The actions {space} mix boxes and discrete ones, but the agent has "
                "actions of one kind: wrap the environment so that they are all boxes "
                "or all discrete."
            )
        self._boxes = kinds == {True}
        self._sizes = [n for leaf in self._leaves for n in _counts(leaf)]
        if self._boxes:
            self.space: Box | Discrete = _joined(self._leaves)
            return
        total = int(np.prod(self._sizes, dtype=np.float64).clip(max=2**53))
        if total > MOST_ACTIONS:
            raise UsageError(
                f"The actions {space} have {total} combinations, but at most "
                f"{MOST_ACTIONS} can be told apart: wrap the environment so that it "
                "has fewer."
            )
        self.space = Discrete(total)

    def __call__(self, action: Any) -> Any:
        """What the environment takes, for an index or a vector (n,)."""
        if self._boxes:
            flat = np.asarray(action).reshape(-1)
        else:
            flat = np.array(np.unravel_index(int(action), self._sizes))
        values, start = [], 0
        for leaf in self._leaves:
            count = self._width(leaf)
            values.append(_given(leaf, flat[start : start + count]))
            start += count
        return _nest(self._nested, iter(values))

    def _width(self, leaf: Any) -> int:
        return int(np.prod(leaf.shape)) if self._boxes else len(_counts(leaf))


def leaves(space: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """The spaces that are no dicts or tuples, each with the way to it."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        yield path, space
        return
    items = inner.items() if isinstance(inner, dict) else enumerate(inner)
    for name, part in items:
        yield from leaves(part, (*path, name))


def _nest(space: Any, values: Iterator[Any]) -> Any:
    """The values, in the order of `leaves`, in the form of the space."""
    inner = getattr(space, "spaces", None)
    if inner is None:
        return next(values)
    if isinstance(inner, dict):
        return {name: _nest(part, values) for name, part in inner.items()}
    return tuple(_nest(part, values) for part in inner)


def _is_box(space: Any) -> bool:
    return hasattr(space, "low") and hasattr(space, "high")


def _counts(space: Any) -> list[int] | None:
    """Choices of each part of a discrete space; those of a box are not counted."""
    if hasattr(space, "nvec"):
        return [int(n) for n in np.ravel(space.nvec)]
    if _is_box(space):
        return []
    if hasattr(space, "n"):
        size = int(np.prod(space.shape or ()))
        return [2] * size if space.shape else [int(space.n)]
    return None


def _given(leaf: Any, values: np.ndarray) -> Any:
    """The action of one leaf, in the type and shape of its space."""
    start = getattr(leaf, "start", 0)
    if not _is_box(leaf) and not leaf.shape:
        return int(values[0]) + int(start)
    if np.issubdtype(leaf.dtype, np.integer) and _is_box(leaf):
        values = np.rint(values)
    return (values.reshape(leaf.shape) + start).astype(leaf.dtype)


def _joined(boxes: list[Any]) -> Box:
    """One box (n,) for several of any shape."""
    floats = [b.dtype for b in boxes if np.issubdtype(b.dtype, np.floating)]
    dtype = np.result_type(*floats) if floats else np.dtype(np.float32)
    low = np.concatenate([np.ravel(b.low).astype(dtype) for b in boxes])
    high = np.concatenate([np.ravel(b.high).astype(dtype) for b in boxes])
    return Box(low, high, dtype=dtype.type)


def _observed(space: Any) -> tuple[Box, Callable[[Any], np.ndarray]] | None:
    """The box in which a leaf is given, and what makes its values; None for none."""
    if _is_box(space):
        return _observed_box(space)
    counts = _counts(space)
    if counts is None:
        return None
    if space.shape and not hasattr(space, "nvec"):  # Multi-binary.
        return Box(0, 1, (len(counts),), np.float32), np.ravel
    start = np.ravel(getattr(space, "start", 0))
    places = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    size = sum(counts)

    def one_hot(value: Any) -> np.ndarray:
        result = np.zeros(size, np.float32)
        result[places + np.ravel(value).astype(np.int64) - start] = 1
        return result

    return Box(0, 1, (size,), np.float32), one_hot


def _observed_box(space: Any) -> tuple[Box, Callable[[Any], np.ndarray]]:
    dtype = np.dtype(space.dtype)
    shape = tuple(space.shape)
    if len(shape) == 2 and dtype == np.uint8:
        shape = (*shape, 1)
    elif len(shape) != 3:
        shape = (int(np.prod(shape)),)
    if dtype.kind in "fb":
        dtype = np.dtype(np.float32)
    elif np.issubdtype(dtype, np.signedinteger):
        dtype = np.dtype(np.int32)
    low, high = (np.reshape(x, shape).astype(dtype) for x in (space.low, space.high))
    box = Box(low, high, dtype=dtype.type)
    return box, lambda value: np.reshape(value, shape)
