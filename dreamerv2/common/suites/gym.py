"""Any gymnasium environment, or one of the older gym, in our own interface."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.suites.interface import signal_spaces, with_signals
from dreamerv2.common.suites.spaces import FlatAction, FlatObservation


class GymWrapper:
    """Any gymnasium environment, or one of the older gym, in our own interface.

    Observations and actions may be nested: see FlatObservation and FlatAction, by which
    they become images and vectors, and one index or one vector. A truncation sets
    is_last alone. The arrays and dicts of the environment are copied, never changed.

    Args:
      env: the environment.
      obs_key: name of an observation that is no dict; by default `image` for one, else
        `vector`.
      act_key: name of the action.
      seed: of the first reset; the following ones go on from there.
    """

    def __init__(
        self,
        env: Any,
        obs_key: str | None = None,
        act_key: str = "action",
        seed: int | None = None,
    ):
        self._env = env
        self._seed = seed
        self._observation = FlatObservation(env.observation_space, obs_key)
        self._action = FlatAction(env.action_space)
        self._act_key = act_key
        self.obs_space = {**self._observation.spaces, **signal_spaces()}
        self.act_space = {act_key: self._action.space}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._env, name)

    def reset(self) -> dict[str, Any]:
        """The first observation; the seed goes into the first reset."""
        seed, self._seed = self._seed, None
        if seed is None:
            result = self._env.reset()
        elif _takes_seed(self._env):
            result = self._env.reset(seed=seed)
        else:
            self._env.seed(seed)
            result = self._env.reset()
        # Gymnasium gives (obs, info), gym the observation alone.
        obs = result[0] if _is_pair(result) else result
        return with_signals(self._observation(obs), is_first=True)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """The next observation."""
        result = self._env.step(self._action(action[self._act_key]))
        if len(result) == 5:
            obs, reward, terminal, truncated, info = result
        else:
            obs, reward, done, info = result
            truncated = bool(info.get("TimeLimit.truncated", False))
            terminal = done and not truncated
        last = bool(terminal) or bool(truncated)
        terminal = bool(info.get("is_terminal", terminal))
        return with_signals(self._observation(obs), reward, False, last, terminal)

    def render(self) -> np.ndarray:
        """The environment's picture, (H, W, 3) uint8; it must be made to render."""
        if isinstance(self._env, gymnasium.Env):
            image = self._env.render()
        else:
            image = self._env.render(mode="rgb_array")
        return np.asarray(image)

    def state_dict(self) -> None:
        """None: Gymnasium has no way to save an environment."""


def _is_pair(result: Any) -> bool:
    """Whether a reset gave (obs, info), rather than an observation that is a tuple."""
    return (
        isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    )


def _takes_seed(env: Any) -> bool:
    parameters = inspect.signature(env.reset).parameters.values()
    return any(p.name == "seed" or p.kind == p.VAR_KEYWORD for p in parameters)
