"""Any gymnasium environment, or one of the older gym, in our own interface."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.actions import FlatAction
from dreamerv2.common.suites.checks import read_flag, read_reward, refuse_many
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.observations import FlatObservation
from dreamerv2.common.suites.spaces import parts_of
from dreamerv2.common.suites.wrappers import Wrapper


class GymWrapper(Wrapper):
    """Any gymnasium environment, or one of the older gym, see FlatObservation and
    FlatAction. The `seed` goes into the first reset; a truncation sets is_last alone.
    UsageError, here and later, for what is not as either interface says."""

    def __init__(self, env: Any, seed: int | None = None):
        refuse_many(env)
        super().__init__(env)
        self._seed = seed
        self._observation = FlatObservation(env.observation_space)
        self._action = FlatAction(env.action_space)
        self.obs_space = {**self._observation.spaces, **signal_spaces()}
        self.act_space = {"action": self._action.space}

    def seed(self, seed: int) -> None:
        """Put another seed into the next reset."""
        self._seed = seed

    def reset(self) -> Obs:
        seed, self._seed = self._seed, None
        result = self._begin(seed)
        # Gymnasium gives (obs, info), gym the observation alone.
        obs = result[0] if self._is_pair(result) else result
        return with_signals(self._observation(obs), is_first=True)

    def step(self, action: Action) -> Obs:
        result = self._env.step(self._action(action["action"]))
        count = len(result) if isinstance(result, tuple | list) else 0
        if count not in (4, 5):
            raise UsageError(
                f"The environment's step() gave {count or type(result).__name__} "
                "values, but expected are five: have it give observation, reward, "
                "terminated, truncated and info."
            )
        obs, reward, terminal, truncated, info = (*result[:3], *result[-2:])
        info = {} if info is None else info
        if not isinstance(info, Mapping):
            raise UsageError(
                "The last value of the environment's step() is a "
                f"{type(info).__name__}, but info is expected: have it give a dict."
            )
        terminal = read_flag("terminated", terminal)
        if count == 4:  # Of gym, where one flag tells the end.
            truncated = terminal and bool(info.get("TimeLimit.truncated", False))
            terminal = terminal and not truncated
        last = terminal or read_flag("truncated", truncated)
        terminal = bool(info.get("is_terminal", terminal)) and last
        reward = read_reward(reward)
        return with_signals(self._observation(obs), reward, False, last, terminal)

    def render(self) -> np.ndarray:
        """Draw the environment, (H, W, 3) uint8; it must be made to render."""
        old = not isinstance(self._env, gymnasium.Env)
        return np.asarray(self._env.render(**{"mode": "rgb_array"} if old else {}))

    def state_dict(self) -> None:
        """Return None: Gymnasium has no way to save an environment."""

    def _begin(self, seed: int | None) -> Any:
        wrappers, inner = [], self._env
        while isinstance(inner, gymnasium.Wrapper):
            wrappers.append(inner)
            inner = inner.env
        seeded = {} if seed is None else {"seed": seed}
        if seeded and not all(_accepts(env, seeded) for env in (*wrappers, inner)):
            seeded = {}
            if callable(getattr(self._env, "seed", None)):
                self._env.seed(seed)
            else:
                warnings.warn(
                    f"The reset() of {type(inner).__name__} takes no seed, so its "
                    "episodes are others in each run.",
                    stacklevel=3,
                )
        try:
            return self._env.reset(**seeded)
        except TypeError as error:
            # Gymnasium's wrappers hand on both.
            given = {"seed": seed, "options": None} if wrappers else seeded
            if _accepts(inner, given):
                raise
            raise UsageError(
                f"The reset() of {type(inner).__name__} does not take what it is given "
                f"({error}): write it as reset(self, *, seed=None, options=None)."
            ) from error

    def _is_pair(self, result: Any) -> bool:
        """Check that this is (obs, info), not an observation that is a tuple."""
        if not (isinstance(result, tuple) and len(result) == 2):
            return False
        obs, info = result
        parts = parts_of(self._env.observation_space) or []
        if [key for key, _ in parts] == [0, 1] and parts_of(parts[1][1]) is not None:
            return isinstance(obs, tuple)
        return info is None or isinstance(info, Mapping)


def _accepts(env: Any, arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(env.reset).bind(**arguments)
    except TypeError:
        return False
    return True
