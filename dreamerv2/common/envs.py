"""Environments, and `make_env`, which builds the one that a task's name asks for."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.atari import Atari
from dreamerv2.common.errors import UsageError
from dreamerv2.common.parallel import Async
from dreamerv2.common.suites import DMC, Crafter
from dreamerv2.common.toys import ToyCatch, ToyReach
from dreamerv2.common.wrappers import (
    ActionRepeat,
    NormalizeAction,
    OneHotAction,
    OneHotSpace,
    RenderImage,
    ResizeImage,
    TimeLimit,
    Wrapper,
    signal_spaces,
    with_signals,
)

__all__ = [
    "DMC",
    "ActionRepeat",
    "Async",
    "Atari",
    "Crafter",
    "GymWrapper",
    "NormalizeAction",
    "OneHotAction",
    "OneHotSpace",
    "RenderImage",
    "ResizeImage",
    "TimeLimit",
    "ToyCatch",
    "ToyReach",
    "Wrapper",
    "make_env",
]


def make_env(config: Any, seed: int, train: bool = True) -> Any:
    """The environment of `config.task`, "suite_name", wrapped and ready for a Driver.

    Actions are one-hot vectors or lie in [-1, 1]; `config.time_limit` is applied.
    Equal seeds give equal episodes; a training and an evaluation environment of one
    seed (0 or more) differ. The action space is seeded, too.

    Raises UsageError for an unknown suite or name, naming the nearest, and for a
    missing optional package, with the command that installs it.
    """
    suite, _, name = config.task.partition("_")
    if suite not in SUITES or not name:
        raise UsageError(
            f"Unknown task {config.task!r}: expected SUITE_NAME with a suite of "
            f"{', '.join(SUITES)}; the nearest is {_nearest(suite, SUITES, 1)}."
        )
    seed = int(np.random.SeedSequence([seed, int(train)]).generate_state(1)[0])
    env = SUITES[suite](name, config, seed, train)
    kind = OneHotAction if hasattr(env.act_space["action"], "n") else NormalizeAction
    env = TimeLimit(kind(env), config.time_limit)
    env.act_space["action"].seed(seed)
    return env


def _make_atari(name: str, config: Any, seed: int, train: bool) -> Any:
    return Atari(
        name,
        config.action_repeat,
        config.render_size,
        config.atari_grayscale,
        all_actions=config.atari_all_actions,
        seed=seed,
    )


def _make_toy(name: str, config: Any, seed: int, train: bool) -> Any:
    if name == "catch":
        env = ToyCatch(seed, size=config.render_size)
    elif name == "reach":
        env = ToyReach(seed, _sees_image(config), config.render_size)
    else:
        near = _nearest(name, ["catch", "reach"], 1)
        raise UsageError(f"Unknown toy {name!r}: did you mean toy_{near}?")
    return ActionRepeat(env, config.action_repeat)


def _make_dmc(name: str, config: Any, seed: int, train: bool) -> Any:
    return DMC(
        name,
        config.action_repeat,
        config.render_size,
        config.dmc_camera,
        _sees_image(config),
        seed,
    )


def _make_crafter(name: str, config: Any, seed: int, train: bool) -> Any:
    if name not in ("reward", "noreward"):
        near = _nearest(name, ["reward", "noreward"], 1)
        raise UsageError(f"Unknown task crafter_{name}: did you mean crafter_{near}?")
    if config.action_repeat != 1:
        raise UsageError("Crafter holds no action: use --action_repeat 1.")
    return Crafter(name == "reward", config.render_size, seed)


def _make_gym(name: str, config: Any, seed: int, train: bool) -> Any:
    try:
        env = gymnasium.make(name, disable_env_checker=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{name} needs a package that is missing: {error}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = _nearest(name, gymnasium.registry, 3)
        raise UsageError(
            f"Gymnasium has no environment {name!r}: the nearest are {near}."
        ) from error
    env = ResizeImage(GymWrapper(env, seed=seed), config.render_size)
    return ActionRepeat(env, config.action_repeat)


# One entry per suite: (name, config, seed, train) -> environment, before its actions
# are normalized and its time is limited.
SUITES: dict[str, Callable[[str, Any, int, bool], Any]] = {
    "atari": _make_atari,
    "dmc": _make_dmc,
    "toy": _make_toy,
    "gym": _make_gym,
    "crafter": _make_crafter,
}


def _sees_image(config: Any) -> bool:
    """Whether the encoder uses an image: rendering it is slow, so only then."""
    return bool(re.match(config.encoder.cnn_keys, "image"))


def _nearest(name: str, names: Iterable[str], count: int) -> str:
    return ", ".join(difflib.get_close_matches(name, list(names), count, cutoff=0.0))


class GymWrapper:
    """Any gymnasium environment, or one of the older gym, in our own interface.

    Observations may be a box or a dict of boxes. A discrete one becomes a one-hot
    vector; keys of other kinds are left out. Floats become float32 and signed integers
    int32. Actions may be a box, discrete, or a dict of these. A truncation sets is_last
    alone. The arrays and dicts of the environment are copied, never changed.

    Args:
      env: the environment.
      obs_key: name of an observation that is no dict; by default `image` for three
        dimensions, else `vector`.
      act_key: name of an action that is no dict.
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
        spaces = getattr(env.observation_space, "spaces", None)
        self._obs_key = None
        if not isinstance(spaces, dict):
            image = len(env.observation_space.shape or ()) == 3
            self._obs_key = obs_key or ("image" if image else "vector")
            spaces = {self._obs_key: env.observation_space}
        self._discrete = {k: v for k, v in spaces.items() if hasattr(v, "n")}
        self._observed = {k: s for k, v in spaces.items() if (s := _obs_space(v))}
        if not self._observed:
            raise UsageError(
                f"Expected a box or a dict of boxes, but the observations of {env} "
                f"are {env.observation_space}."
            )
        self.obs_space = {**self._observed, **signal_spaces()}
        spaces = getattr(env.action_space, "spaces", None)
        self._act_key = None if isinstance(spaces, dict) else act_key
        self._actions = spaces if self._act_key is None else {act_key: env.action_space}
        self.act_space = {k: _act_space(v) for k, v in self._actions.items()}

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
        obs = result[0] if isinstance(result, tuple) else result
        return with_signals(self._convert(obs), is_first=True)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """The next observation."""
        given = {
            k: int(action[k]) + int(getattr(v, "start", 0))
            if hasattr(v, "n")
            else action[k]
            for k, v in self._actions.items()
        }
        result = self._env.step(given[self._act_key] if self._act_key else given)
        if len(result) == 5:
            obs, reward, terminal, truncated, info = result
        else:
            obs, reward, done, info = result
            truncated = bool(info.get("TimeLimit.truncated", False))
            terminal = done and not truncated
        last = bool(terminal) or bool(truncated)
        terminal = bool(info.get("is_terminal", terminal))
        return with_signals(self._convert(obs), reward, False, last, terminal)

    def render(self) -> np.ndarray:
        """The environment's picture, (H, W, 3) uint8; it must be made to render."""
        if isinstance(self._env, gymnasium.Env):
            image = self._env.render()
        else:
            image = self._env.render(mode="rgb_array")
        return np.asarray(image)

    def state_dict(self) -> None:
        """None: Gymnasium has no way to save an environment."""

    def _convert(self, obs: Any) -> dict[str, np.ndarray]:
        obs = {self._obs_key: obs} if self._obs_key else obs
        result = {}
        for key, space in self._observed.items():
            value = obs[key]
            if key in self._discrete:
                start = getattr(self._discrete[key], "start", 0)
                value = np.arange(space.shape[0]) == value - start
            result[key] = np.array(value, space.dtype)
        return result


def _obs_space(space: Any) -> Box | None:
    """The box in which an observation is given; None if there is none for it.

    Spaces are told apart by their attributes, since those of the older gym and those of
    gymnasium are different classes.
    """
    if hasattr(space, "n") and not space.shape:
        return Box(0, 1, (int(space.n),), np.float32)
    if not (hasattr(space, "low") and hasattr(space, "high")):
        return None
    dtype = np.dtype(space.dtype)
    if np.issubdtype(dtype, np.floating):
        dtype = np.dtype(np.float32)
    elif np.issubdtype(dtype, np.signedinteger):
        dtype = np.dtype(np.int32)
    return Box(space.low.astype(dtype), space.high.astype(dtype), dtype=dtype)


def _act_space(space: Any) -> Box | Discrete:
    if hasattr(space, "n") and not space.shape:
        return Discrete(int(space.n))
    if hasattr(space, "low") and hasattr(space, "high"):
        return Box(space.low, space.high, dtype=space.dtype)
    raise UsageError(f"Expected box or discrete actions, but got {space}.")


def _takes_seed(env: Any) -> bool:
    parameters = inspect.signature(env.reset).parameters.values()
    return any(p.name == "seed" or p.kind == p.VAR_KEYWORD for p in parameters)
