"""Actions of any space as one index or one vector, and what they are called."""

import re
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.spaces import choices, is_box, leaf_spaces, nest, shown

MOST_ACTIONS = 512  # Combinations; more are better left to the environment to reduce.
_UNBOUNDED = 1e30  # Float bounds from here on stand for none.

# Environments that do not say what their actions mean.
_NAMES = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "noop", "right"),
    "Acrobot": ("left", "noop", "right"),
    "LunarLander": ("noop", "left", "up", "right"),
    "FrozenLake": ("left", "down", "right", "up"),
    "CliffWalking": ("up", "right", "down", "left"),
    "Taxi": ("down", "up", "right", "left", "pickup", "dropoff"),
}


def action_names(env: Any) -> list[str]:
    """Return the names that an environment gives its discrete actions, if any."""
    base = getattr(env, "unwrapped", None)
    names = getattr(env, "action_names", None)
    if names is None and hasattr(base, "get_action_meanings"):
        names = base.get_action_meanings()
    if names is None:  # MiniGrid's.
        names = getattr(getattr(base, "actions", None), "__members__", None)
    if names:
        return [str(name) for name in names]
    match = re.match(r"[A-Za-z]+", getattr(getattr(base, "spec", None), "id", ""))
    return list(_NAMES.get(match[0], ())) if match else []


class FlatAction:
    """One discrete or one continuous action for a space of any nesting.

    Discrete spaces of all kinds become one `space` of all their combinations, boxes one
    of one dimension, in float64, which holds 32-bit integers. UsageError for a mix,
    more than 512 combinations, and a bound on one side alone."""

    def __init__(self, space: Any):
        self._nested = space
        self._leaves = [leaf for _, leaf in leaf_spaces(space)]
        self._boxes = [leaf for leaf in self._leaves if is_box(leaf)]
        self._sizes = [n for leaf in self._leaves for n in choices(leaf) or ()]
        known = all(is_box(leaf) or choices(leaf) for leaf in self._leaves)
        if not self._leaves or not known:
            raise UsageError(
                f"Expected box or discrete actions, but got {shown(space)}: wrap the "
                "environment so that it has such."
            )
        if self._boxes and self._sizes:
            raise UsageError(
                f"The actions {shown(space)} mix boxes and discrete ones: wrap the "
                "environment so that they are all of one kind."
            )
        sizes = [np.prod(leaf.shape or (), dtype=int) for leaf in self._leaves]
        self._cuts = np.cumsum(sizes)[:-1]
        self.space: Box | Discrete = self._box() if self._boxes else self._discrete()

    def __call__(self, action: Any) -> Any:
        """Return what the environment takes, for an index or a vector (n,)."""
        if self._boxes:
            make, flat = _boxed, np.asarray(action, np.float64).reshape(-1)
        else:
            make, flat = _chosen, np.array(np.unravel_index(int(action), self._sizes))
        parts = np.split(flat, self._cuts)
        return nest(self._nested, map(make, self._leaves, parts))

    def _discrete(self) -> Discrete:
        total = int(np.prod(self._sizes, dtype=np.float64).clip(max=2**53))
        if total > MOST_ACTIONS:
            raise UsageError(
                f"The actions {shown(self._nested)} have {total} combinations, but at "
                f"most {MOST_ACTIONS} are possible: wrap the environment to have fewer."
            )
        return Discrete(total)

    def _box(self) -> Box:
        """Join the boxes; what is beyond all use is no bound."""
        lows, highs = [], []
        for box in self._boxes:
            low, high = (np.ravel(x).astype(np.float64) for x in (box.low, box.high))
            is_float = np.dtype(box.dtype).kind == "f"
            lows.append(np.where(is_float & (low <= -_UNBOUNDED), -np.inf, low))
            highs.append(np.where(is_float & (high >= _UNBOUNDED), np.inf, high))
        low, high = np.concatenate(lows), np.concatenate(highs)
        if not low.size or (np.isfinite(low) != np.isfinite(high)).any():
            raise UsageError(
                f"The actions {shown(self._nested)} have a bound on one side alone, or "
                "there are none: wrap the environment so that all are bounded, or not."
            )
        return Box(low, high, dtype=np.float64)


def _chosen(leaf: Any, values: np.ndarray) -> Any:
    if not leaf.shape:
        return int(values[0]) + int(getattr(leaf, "start", 0))
    return (values.reshape(leaf.shape) + getattr(leaf, "start", 0)).astype(leaf.dtype)


def _boxed(leaf: Any, values: np.ndarray) -> np.ndarray:
    """Return the action of a box, rounded for whole numbers, within its bounds."""
    values, dtype = values.reshape(leaf.shape), np.dtype(leaf.dtype)
    if dtype.kind == "f":
        return np.asarray(np.clip(values.astype(dtype), leaf.low, leaf.high), dtype)
    # By Python's integers, as float64 lacks the ends of 64-bit ones.
    rounded = [int(v) for v in np.rint(values).flat]
    ends = zip(rounded, np.ravel(leaf.low), np.ravel(leaf.high), strict=True)
    clipped = [min(max(v, int(low)), int(high)) for v, low, high in ends]
    return np.array(clipped, dtype).reshape(leaf.shape)
