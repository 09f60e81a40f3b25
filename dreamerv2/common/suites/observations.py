"""Observations of any space as a flat dict of images and vectors, each checked."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites import spaces
from dreamerv2.common.suites.images import image_layout
from dreamerv2.common.suites.interface import signal_spaces

MOST_CHOICES = 2**16  # Numbers of a one-hot vector.

Convert = Callable[[str, np.ndarray], np.ndarray]


class FlatObservation:
    """Nested observations as a flat dict of images and vectors.

    The names of nested dicts and tuples are joined by `_`, as in robot_joints or
    view_0. A discrete value becomes a one-hot vector, a multi-discrete one those of its
    parts in a row, a multi-binary one a vector; boxes become images (see
    `image_layout`) or vectors, floats float32, integers but uint8 int32. `spaces` maps
    each name to its box. UsageError where nothing is left, and, when called, for what
    the space does not say and numbers that would have to change."""

    def __init__(self, space: Any):
        self._keys = {key for key, _ in spaces.parts_of(space) or ()}
        self._parts: dict[str, tuple[spaces.Path, Any, Convert]] = {}
        self.spaces: dict[str, Box] = {}
        taken = {*signal_spaces(), "action"}
        for path, leaf in spaces.leaf_spaces(space):
            name = "_".join(str(p) for p in path)
            if path and isinstance(path[0], int):
                name = f"part_{name}"
            if (made := _flat(name or "observation", leaf)) is None:
                warnings.warn(
                    f"The observation {name!r}, {spaces.shown(leaf)}, holds neither "
                    "numbers nor choices, so it is left out.",
                    stacklevel=3,
                )
                continue
            box, convert = made
            name = name or ("image" if len(box.shape) == 3 else "vector")
            # Modules of the network are named after it: no dots.
            name = name.replace("/", "_").replace(".", "_")
            while name in taken:
                name = f"obs_{name}"
            taken.add(name)
            self.spaces[name], self._parts[name] = box, (path, leaf, convert)
        if not self.spaces:
            raise UsageError(
                "Expected a box, discrete values, dicts and tuples of these, but the "
                f"observations are {spaces.shown(space)}: wrap the environment."
            )

    def __call__(self, obs: Any) -> dict[str, np.ndarray]:
        """Return new arrays, one per name in `spaces`."""
        if self._keys and isinstance(obs, Mapping):
            # Once: keys that the space lacks would not be seen.
            if others := sorted(map(str, obs.keys() - self._keys)):
                raise UsageError(
                    f"The environment observes {', '.join(others)}, of which its space "
                    "does not know: add it to the space, or leave it out."
                )
            self._keys = set()
        result = {}
        for name, (path, leaf, convert) in self._parts.items():
            value = _numbers(name, _at(obs, path), leaf)
            result[name] = np.array(convert(name, value), self.spaces[name].dtype)
        return result


def _at(obs: Any, path: spaces.Path) -> Any:
    for key in path:
        try:
            obs = obs[key]
        except (KeyError, IndexError, TypeError):
            kind = type(obs).__name__
            found = f" with {', '.join(map(str, obs))}" if isinstance(obs, dict) else ""
            raise UsageError(
                f"The environment's observation lacks {key!r}, which its space has: it "
                f"is a {kind}{found}; give what the space says, or correct the space."
            ) from None
    return obs


def _numbers(name: str, value: Any, leaf: Any) -> np.ndarray:
    """Return the value as an array, checked against the space but for its bounds."""
    try:
        array = np.asarray(value)
    except Exception:  # Of a tensor elsewhere, or of lists that are no array.
        array = np.asarray(None)
    shape, kind = tuple(leaf.shape or ()), np.dtype(leaf.dtype).kind
    if array.dtype.kind not in "biuf":
        raise wrong(name, f"is a {type(value).__name__}, no array of numbers", leaf)
    if array.shape != shape:
        raise wrong(name, f"has shape {array.shape}", leaf)
    if array.dtype.kind == "f" and kind != "f":
        raise wrong(name, f"holds {array.dtype} numbers", leaf)
    return array


def wrong(name: str, found: str, space: Any) -> UsageError:
    """Return the error for an observation that is not what its space says."""
    said = spaces.shown(space)
    if spaces.is_box(space):
        low, high = spaces.bounds(space)
        said = f"{space.dtype} of shape {space.shape} in [{low:g}, {high:g}]"
    return UsageError(
        f"The environment's observation {name!r} {found}, but its space says "
        f"{said}: give what the space says, or correct the space."
    )


def _flat(name: str, leaf: Any) -> tuple[Box, Convert] | None:
    """Return the box in which a leaf is given, and what makes its values, or None."""
    if spaces.is_box(leaf):
        return _flat_box(name, leaf)
    if (counts := spaces.choices(leaf)) is None or not counts:
        return None
    start, size = np.ravel(getattr(leaf, "start", 0)), sum(counts)
    if size > MOST_CHOICES:
        raise UsageError(
            f"The observation {name!r} has {size} possible values, and at most "
            f"{MOST_CHOICES} can be told apart: have the environment give numbers."
        )
    binary = bool(leaf.shape) and not hasattr(leaf, "nvec")
    places = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)

    def convert(name: str, value: np.ndarray) -> np.ndarray:
        index = np.ravel(value).astype(np.int64) - start
        if (index < 0).any() or (index >= counts).any():
            raise wrong(name, f"is {spaces.shown(value)}", leaf)
        if binary:
            return index
        result = np.zeros(size, np.float32)
        result[places + index] = 1
        return result

    return Box(0, 1, (len(counts) if binary else size,), np.float32), convert


def _flat_box(name: str, leaf: Any) -> tuple[Box, Convert] | None:
    dtype = np.dtype(leaf.dtype)
    if 0 in leaf.shape:
        return None
    vector = (int(np.prod(leaf.shape)),), np.ravel
    shape, arrange = image_layout(name, leaf) or vector
    if dtype.kind in "fb":
        stored, info = np.dtype(np.float32), np.finfo(np.float32)
    else:
        stored = np.dtype(np.uint8 if dtype == np.uint8 else np.int32)
        info = np.iinfo(stored)
    least, most = (0, 1) if dtype.kind == "b" else (info.min, info.max)
    ends = (np.broadcast_to(x, leaf.shape).astype(float) for x in (leaf.low, leaf.high))
    low, high = (
        arrange(np.where(np.isinf(x), x, np.clip(x, info.min, info.max))).astype(stored)
        for x in ends
    )

    def convert(name: str, value: np.ndarray) -> np.ndarray:
        if value.dtype not in (stored, bool):
            ends = value.min(), value.max()
            if np.isfinite(ends).all() and not least <= ends[0] <= ends[1] <= most:
                found = f"holds numbers from {ends[0]:g} to {ends[1]:g}"
                if ends[0] < leaf.low.min() or leaf.high.max() < ends[1]:
                    raise wrong(name, found, leaf)
                raise UsageError(
                    f"The environment's observation {name!r} {found}, which do not fit "
                    f"into {stored}: have the environment give smaller ones."
                )
        return arrange(value)

    return Box(low, high, shape, stored.type), convert
