"""Environments, and `make_env`, which builds the one that a task's name asks for."""

from __future__ import annotations

import difflib
import inspect
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py import roms
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.parallel import Async
from dreamerv2.common.resize import AreaResize
from dreamerv2.common.suites import Crafter
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
        image = bool(re.match(config.encoder.cnn_keys, "image"))
        env = ToyReach(seed, image, config.render_size)
    else:
        near = _nearest(name, ["catch", "reach"], 1)
        raise UsageError(f"Unknown toy {name!r}: did you mean toy_{near}?")
    return ActionRepeat(env, config.action_repeat)


def _make_crafter(name: str, config: Any, seed: int, train: bool) -> Any:
    if name not in ("reward", "noreward"):
        near = _nearest(name, ["reward", "noreward"], 1)
        raise UsageError(f"Unknown task crafter_{name}: did you mean crafter_{near}?")
    env = Crafter(name == "reward", config.render_size, seed)
    return ActionRepeat(env, config.action_repeat)


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
    "toy": _make_toy,
    "gym": _make_gym,
    "crafter": _make_crafter,
}


def _nearest(name: str, names: Iterable[str], count: int) -> str:
    return ", ".join(difflib.get_close_matches(name, list(names), count, cutoff=0.0))


class Atari:
    """An Atari game with the protocol of Machado et al. (2018).

    Each action is held for `action_repeat` frames, whose rewards are summed; at each
    frame the emulator ignores it with probability 0.25 and repeats the one before
    (`sticky`). A reset plays 1 to `noops` frames of doing nothing. The picture is the
    maximum over the last two frames, since games draw some sprites in every other one,
    then each pixel of `size` (height, width) is the mean over the area it covers. The
    loss of a life ends nothing. There is no time limit: see TimeLimit.

    Actions are indexes into the actions that the game uses, or into all 18 with
    `all_actions`. Observations: `image` (*size, 1 or 3) and `ram` (128,), uint8.

    Args:
      name: of the game, as in "space_invaders"; only letters and digits matter.
    """

    # The emulator's settings and its lists of games are shared by all threads.
    LOCK = threading.Lock()

    def __init__(
        self,
        name: str,
        action_repeat: int = 4,
        size: tuple[int, int] = (64, 64),
        grayscale: bool = True,
        noops: int = 30,
        sticky: bool = True,
        all_actions: bool = False,
        seed: int | None = None,
    ):
        if action_repeat < 1:
            raise ValueError(f"action_repeat must be at least 1: {action_repeat}.")
        self._repeat = action_repeat
        self._noops = noops
        self._random = np.random.default_rng(seed)
        with self.LOCK:
            ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
            self._ale = ale_py.ALEInterface()
            self._ale.setInt("random_seed", int(self._random.integers(2**31)))
            self._ale.setFloat("repeat_action_probability", 0.25 if sticky else 0.0)
            self._ale.loadROM(_find_rom(name))
        if all_actions:
            self._actions = self._ale.getLegalActionSet()
        else:
            self._actions = self._ale.getMinimalActionSet()
        channels = () if grayscale else (3,)
        screen = (*self._ale.getScreenDims(), *channels)
        self._grab = (
            self._ale.getScreenGrayscale if grayscale else self._ale.getScreenRGB
        )
        self._frames = np.zeros((2, *screen), np.uint8)
        self._resize = AreaResize(screen[:2], size)
        self._shape = (*(int(n) for n in size), 1 if grayscale else 3)
        self._over = True
        self.obs_space = {
            "image": Box(0, 255, self._shape, np.uint8),
            "ram": Box(0, 255, (128,), np.uint8),
            **signal_spaces(),
        }
        self.act_space = {"action": Discrete(len(self._actions))}

    def reset(self) -> dict[str, Any]:
        """A new game, after its no-ops."""
        self._ale.reset_game()
        # A game that ends while nothing is done starts again.
        for _ in range(self._random.integers(1, self._noops + 1) if self._noops else 0):
            self._ale.act(0)
            if self._ale.game_over(with_truncation=False):
                self._ale.reset_game()
        self._over = False
        self._grab(self._frames[0])
        self._frames[1] = self._frames[0]
        return with_signals(self._obs(), is_first=True)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """Hold `action["action"]`, an index, for action_repeat frames."""
        if self._over:
            raise RuntimeError("The episode has ended or never began: call reset().")
        chosen = self._actions[int(action["action"])]
        reward, last = 0, self._repeat - 1
        for frame in range(self._repeat):
            reward += self._ale.act(chosen)
            self._over = self._ale.game_over(with_truncation=False)
            # Grabbing a frame costs a quarter of emulating it, so only what is shown.
            if frame >= last - 1 or self._over:
                self._grab(self._frames[frame % 2])
            if self._over:
                break
        if self._repeat == 1 or (self._over and frame < last):
            # There is one frame to show; the other place holds an old one.
            self._frames[1 - frame % 2] = self._frames[frame % 2]
        obs = self._obs()
        return with_signals(obs, reward, is_last=self._over, is_terminal=self._over)

    def render(self) -> np.ndarray:
        """The screen in full size and colour, (210, 160, 3) uint8 for most games."""
        return self._ale.getScreenRGB()

    def close(self) -> None:
        """Nothing to free: the emulator goes with this object."""

    def _obs(self) -> dict[str, np.ndarray]:
        image = self._resize(self._frames.max(0)).reshape(self._shape)
        return {"image": image, "ram": self._ale.getRAM()}


def _find_rom(name: str) -> Any:
    """The path of a game's ROM; raises UsageError for games that cannot be played."""
    games = {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids()}
    key = re.sub("[^a-z0-9]", "", name.lower())
    if key not in games:
        near = [games[k] for k in difflib.get_close_matches(key, games, 3, cutoff=0.0)]
        raise UsageError(
            f"Unknown Atari game {name!r}: the nearest are {', '.join(near)}."
        )
    path = roms.get_rom_path(games[key])
    if key in ("combat", "joust", "mazecraze", "warlords"):
        # The emulator would end the whole program.
        raise UsageError(
            f"The Atari game {games[key]!r} is for two players only: choose another."
        )
    return path


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
