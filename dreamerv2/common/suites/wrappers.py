"""Wrappers around a single environment, and the spaces that all of them speak.

An environment here is any object with `obs_space` and `act_space` (dicts of
gymnasium spaces), `reset() -> obs` and `step({"action": ...}) -> obs`. Besides its own
keys every observation holds the four signals of `signal_spaces`.

An environment that can be saved has `state_dict()`, whose value holds plain types,
bytes and arrays, and `load_state_dict(state)`, after which it goes on as it did then,
random numbers included. Others lack them, or give None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.suites.resize import AreaResize


def signal_spaces() -> dict[str, Box]:
    """The spaces of what every observation holds besides its own keys.

    reward: float32, the sum since the last observation, 0 at a reset.
    is_first: bool, this is the observation of a reset.
    is_last: bool, the episode ends here, for whatever reason.
    is_terminal: bool, the value after this observation is zero. A time limit or a
        truncation sets is_last alone.
    """
    return {
        "reward": Box(-np.inf, np.inf, (), np.float32),
        "is_first": Box(0, 1, (), bool),
        "is_last": Box(0, 1, (), bool),
        "is_terminal": Box(0, 1, (), bool),
    }


def with_signals(
    obs: dict[str, np.ndarray],
    reward: float = 0.0,
    is_first: bool = False,
    is_last: bool = False,
    is_terminal: bool = False,
) -> dict[str, Any]:
    """A new dict of `obs` and the four signals, in the types of `signal_spaces`."""
    return {
        **obs,
        "reward": np.float32(reward),
        "is_first": bool(is_first),
        "is_last": bool(is_last),
        "is_terminal": bool(is_terminal),
    }


def state_of(env: Any) -> dict[str, Any] | None:
    """The state of an environment, or None for one that cannot be saved."""
    get = getattr(env, "state_dict", None)
    return None if get is None else get()


class OneHotSpace(Box):
    """Vectors of `n` float32 numbers, one of them 1 and the others 0.

    `discrete` is True, which is how the agent tells it from continuous actions. Samples
    are uniform, follow `seed()`, and the space pickles by itself.
    """

    discrete = True

    def __init__(self, n: int, seed: int | None = None):
        self.n = int(n)
        super().__init__(0.0, 1.0, (self.n,), np.float32, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """A uniformly drawn one-hot vector, (n,) float32."""
        if mask is not None or probability is not None:
            raise ValueError("OneHotSpace draws uniformly; it takes no mask.")
        return np.eye(self.n, dtype=np.float32)[self.np_random.integers(self.n)]

    def contains(self, x: Any) -> bool:
        """Whether `x` has shape (n,), one element of 1 and zeros otherwise."""
        x = np.asarray(x)
        if x.shape != (self.n,):
            return False
        return bool(np.allclose(x, np.eye(self.n)[int(np.argmax(x))]))

    def __repr__(self) -> str:
        return f"OneHotSpace({self.n})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, OneHotSpace) and self.n == other.n


class Wrapper:
    """Passes everything on to the environment inside; subclasses change a part.

    Names that begin with an underscore are not passed on: they belong to one object.
    A missing attribute is an AttributeError, so that `hasattr` and pickling work.
    """

    def __init__(self, env: Any):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._env, name)

    def state_dict(self) -> dict[str, Any] | None:
        """The state of the environment inside; None if it cannot be saved."""
        return state_of(self._env)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned."""
        self._env.load_state_dict(state)


class TimeLimit(Wrapper):
    """Ends episodes after `duration` steps; 0 means no limit.

    The limit sets is_last and leaves is_terminal as the environment gave it, so an
    episode that truly ends at the limit stays terminal. Stepping an episode that has
    ended raises RuntimeError.
    """

    def __init__(self, env: Any, duration: int):
        if duration < 0:
            raise ValueError(f"A time limit must be at least 0, but got {duration}.")
        super().__init__(env)
        self._duration = duration
        self._step: int | None = None

    def reset(self) -> dict[str, Any]:
        """Start an episode and its clock."""
        self._step = 0
        return self._env.reset()

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """One step; is_last is set where the limit is reached."""
        if self._step is None:
            raise RuntimeError("The episode has ended or never began: call reset().")
        obs = self._env.step(action)
        self._step += 1
        if self._duration and self._step >= self._duration:
            obs = {**obs, "is_last": True}
        if obs["is_last"]:
            self._step = None
        return obs

    def state_dict(self) -> dict[str, Any] | None:
        """The clock and the state of the environment inside, or None."""
        inside = state_of(self._env)
        return None if inside is None else {"step": self._step, "inside": inside}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned."""
        self._env.load_state_dict(state["inside"])
        self._step = state["step"]


class ActionRepeat(Wrapper):
    """Holds each action for `amount` steps, or until the episode ends.

    Rewards are summed; the last observation is returned.
    """

    def __init__(self, env: Any, amount: int):
        if amount < 1:
            raise ValueError(f"action_repeat must be at least 1, but got {amount}.")
        super().__init__(env)
        self._amount = amount

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """Up to `amount` steps with one action."""
        reward = 0.0
        for _ in range(self._amount):
            obs = self._env.step(action)
            reward += float(obs["reward"])
            if obs["is_last"]:
                break
        return {**obs, "reward": np.float32(reward)}


class NormalizeAction(Wrapper):
    """Maps actions in [-1, 1] to the environment's finite bounds, and clips to them.

    Dimensions with an infinite bound are passed on unchanged.
    """

    def __init__(self, env: Any, key: str = "action"):
        super().__init__(env)
        self._key = key
        space = env.act_space[key]
        self._mask = np.isfinite(space.low) & np.isfinite(space.high)
        # In float64, so that -1 and 1 land on the bounds exactly.
        self._low = np.where(self._mask, space.low, -1).astype(np.float64)
        self._high = np.where(self._mask, space.high, 1).astype(np.float64)
        low = np.where(self._mask, -1, space.low).astype(np.float32)
        high = np.where(self._mask, 1, space.high).astype(np.float32)
        self._dtype = space.dtype
        self._space = Box(low, high, dtype=np.float32)

    @property
    def act_space(self) -> dict[str, Any]:
        """The environment's, with bounds of -1 and 1 where they were finite."""
        return {**self._env.act_space, self._key: self._space}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """One step with the action in the environment's own bounds."""
        given = np.asarray(action[self._key], np.float64)
        scaled = (given + 1) / 2 * (self._high - self._low) + self._low
        scaled = np.clip(scaled, self._low, self._high)
        scaled = np.where(self._mask, scaled, given).astype(self._dtype)
        return self._env.step({**action, self._key: scaled})


class OneHotAction(Wrapper):
    """Takes one-hot vectors where the environment takes an index.

    Anything but a one-hot vector raises ValueError: a soft vector would hide a fault of
    the policy.
    """

    def __init__(self, env: Any, key: str = "action"):
        super().__init__(env)
        self._key = key
        if not hasattr(env.act_space[key], "n"):
            raise ValueError(
                f"OneHotAction needs a discrete action space for {key!r}, "
                f"but got {env.act_space[key]}."
            )
        self._space = OneHotSpace(env.act_space[key].n)

    @property
    def act_space(self) -> dict[str, Any]:
        """The environment's, with a OneHotSpace."""
        return {**self._env.act_space, self._key: self._space}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """One step with the index of the action."""
        given = action[self._key]
        if not self._space.contains(given):
            raise ValueError(
                f"Expected a one-hot vector of {self._space.n} numbers, got {given}."
            )
        return self._env.step({**action, self._key: int(np.argmax(given))})

    def oracle(self) -> np.ndarray:
        """The best action as a one-hot vector, for environments that know it."""
        return np.eye(self._space.n, dtype=np.float32)[self._env.oracle()]


class ResizeImage(Wrapper):
    """Resizes every image, (H, W) or (H, W, C), to `size` (height, width), nearest.

    The pixel whose centre is nearest is taken, so values and dtypes stay as they are.
    """

    def __init__(self, env: Any, size: tuple[int, int] = (64, 64)):
        super().__init__(env)
        size = (int(size[0]), int(size[1]))
        self._index = {
            key: np.ix_(
                *(_nearest(n, m) for n, m in zip(space.shape[:2], size, strict=True))
            )
            for key, space in env.obs_space.items()
            if len(space.shape) in (2, 3) and space.shape[:2] != size
        }

    @property
    def obs_space(self) -> dict[str, Any]:
        """The environment's, with the new sizes."""
        spaces = dict(self._env.obs_space)
        for key, index in self._index.items():
            low, high = spaces[key].low[index], spaces[key].high[index]
            spaces[key] = Box(low, high, dtype=spaces[key].dtype)
        return spaces

    def reset(self) -> dict[str, Any]:
        """The first observation, resized."""
        return self._resize(self._env.reset())

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """The next observation, resized."""
        return self._resize(self._env.step(action))

    def _resize(self, obs: dict[str, Any]) -> dict[str, Any]:
        return {**obs, **{key: obs[key][at] for key, at in self._index.items()}}


def _nearest(old: int, new: int) -> np.ndarray:
    """For each of `new` pixels the index of the old one under its centre."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64)


class RenderImage(Wrapper):
    """Adds what `render()` gives, (H, W, 3) uint8, as an observation named `key`.

    With `size` (height, width) it is resized, each pixel the mean over the area that it
    covers: thin lines stay. Rendering is often slower than the environment: wrap only
    where the image is used.
    """

    def __init__(
        self, env: Any, key: str = "image", size: tuple[int, int] | None = None
    ):
        super().__init__(env)
        if key in env.obs_space:
            raise ValueError(f"The environment already has an observation {key!r}.")
        self._key = key
        env.reset()  # Many environments can only be rendered once they have begun.
        self._shape = np.asarray(env.render()).shape
        if len(self._shape) != 3:
            raise ValueError("Its render() gives no picture (H, W, 3)")
        self._resize = None
        if size is not None:
            self._resize = AreaResize(self._shape[:2], size)
            self._shape = (int(size[0]), int(size[1]), self._shape[2])

    @property
    def obs_space(self) -> dict[str, Any]:
        """The environment's and the image."""
        return {**self._env.obs_space, self._key: Box(0, 255, self._shape, np.uint8)}

    def reset(self) -> dict[str, Any]:
        """The first observation, with its image."""
        return self._with_image(self._env.reset())

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """The next observation, with its image."""
        return self._with_image(self._env.step(action))

    def _with_image(self, obs: dict[str, Any]) -> dict[str, Any]:
        image = np.array(self._env.render(), np.uint8)
        return {**obs, self._key: self._resize(image) if self._resize else image}
