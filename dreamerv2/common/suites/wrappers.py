"""Wrappers around a single environment; see `interface.Env` for what that is."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.suites.interface import Action, Env, Obs, close, state_of
from dreamerv2.common.suites.resize import AreaResize


class OneHotSpace(Box):
    """Vectors of `n` float32 numbers, one 1, the others 0; `discrete` tells of them."""

    discrete = True

    def __init__(self, n: int, seed: int | None = None):
        self.n = int(n)
        super().__init__(0.0, 1.0, (self.n,), np.float32, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> np.ndarray:
        """Draw a one-hot vector uniformly, (n,) float32."""
        if mask is not None or probability is not None:
            raise ValueError("OneHotSpace draws uniformly; it takes no mask.")
        return np.eye(self.n, dtype=np.float32)[self.np_random.integers(self.n)]

    def contains(self, x: Any) -> bool:
        """Check that `x` has shape (n,), one element of 1 and zeros otherwise."""
        x = np.asarray(x)
        near = x.shape == (self.n,) and abs(x.max() - 1) < 1e-5
        return bool(near and np.abs(x).sum() - x.max() < 1e-5)

    def __repr__(self) -> str:
        return f"OneHotSpace({self.n})"

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, OneHotSpace) and self.n == other.n


class Wrapper:
    """Pass everything on to the environment inside, but for private names."""

    def __init__(self, env: Env):
        self._env = env

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return getattr(self._env, name)

    def reset(self) -> Obs:
        return self._observed(self._env.reset())

    def step(self, action: Action) -> Obs:
        return self._observed(self._env.step(self._done(action)))

    def close(self) -> None:
        close(self._env)

    def _observed(self, obs: Obs) -> Obs:
        return obs

    def _done(self, action: Action) -> Action:
        return action


class TimeLimit(Wrapper):
    """End episodes after `duration` steps, 0 for no limit, by is_last alone."""

    def __init__(self, env: Env, duration: int):
        super().__init__(env)
        self._duration = duration
        self._step: int | None = None

    def reset(self) -> Obs:
        self._step = 0
        return self._env.reset()

    def step(self, action: Action) -> Obs:
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
        inside = state_of(self._env)
        return None if inside is None else {"step": self._step, "inside": inside}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._env.load_state_dict(state["inside"])
        self._step = state["step"]


class ActionRepeat(Wrapper):
    """Hold each action for `amount` steps or to the episode's end; sum the rewards."""

    def __init__(self, env: Env, amount: int):
        super().__init__(env)
        self._amount = amount

    def step(self, action: Action) -> Obs:
        reward = 0.0
        for _ in range(self._amount):
            obs = self._env.step(action)
            reward += float(obs["reward"])
            if obs["is_last"]:
                break
        return {**obs, "reward": np.float32(reward)}


class NormalizeAction(Wrapper):
    """Map actions in [-1, 1] to the bounds, if finite, and clip to them."""

    def __init__(self, env: Env):
        super().__init__(env)
        space = env.act_space["action"]
        self._mask = np.isfinite(space.low) & np.isfinite(space.high)
        # In float64, so that -1 and 1 land on the bounds exactly.
        self._low = np.where(self._mask, space.low, -1).astype(np.float64)
        self._high = np.where(self._mask, space.high, 1).astype(np.float64)
        low = np.where(self._mask, -1, space.low).astype(np.float32)
        high = np.where(self._mask, 1, space.high).astype(np.float32)
        self._dtype = space.dtype
        self.act_space = {"action": Box(low, high, dtype=np.float32)}

    def _done(self, action: Action) -> Action:
        given = np.asarray(action["action"], np.float64)
        scaled = (given + 1) / 2 * (self._high - self._low) + self._low
        scaled = np.clip(scaled, self._low, self._high)
        return {"action": np.where(self._mask, scaled, given).astype(self._dtype)}


class OneHotAction(Wrapper):
    """Take one-hot vectors for an index; ValueError for any other vector."""

    def __init__(self, env: Env):
        super().__init__(env)
        self._space = OneHotSpace(env.act_space["action"].n)
        self.act_space = {"action": self._space}

    def oracle(self) -> np.ndarray:
        return np.eye(self._space.n, dtype=np.float32)[self._env.oracle()]

    def _done(self, action: Action) -> Action:
        given = action["action"]
        if not self._space.contains(given):
            raise ValueError(
                f"Expected a one-hot vector of {self._space.n} numbers, got {given}."
            )
        return {"action": int(np.argmax(given))}


class ResizeImage(Wrapper):
    """Resize images to `size`: the pixel whose centre is nearest, unchanged."""

    def __init__(self, env: Env, size: tuple[int, int]):
        super().__init__(env)
        self._index = {}
        self.obs_space = dict(env.obs_space)
        for key, space in env.obs_space.items():
            if len(space.shape) in (2, 3) and space.shape[:2] != tuple(size):
                pairs = zip(space.shape[:2], size, strict=True)
                centres = [(np.arange(new) + 0.5) * old / new for old, new in pairs]
                at = self._index[key] = np.ix_(*(x.astype(int) for x in centres))
                ends = space.low[at], space.high[at]
                self.obs_space[key] = Box(*ends, dtype=space.dtype)

    def _observed(self, obs: Obs) -> Obs:
        return {**obs, **{key: obs[key][at] for key, at in self._index.items()}}


class RenderImage(Wrapper):
    """Add what `render()` gives, resized to `size` by area, as `image`."""

    def __init__(self, env: Env, size: tuple[int, int] | None = None):
        super().__init__(env)
        env.reset()  # Many environments can only be rendered once they have begun.
        shape = np.asarray(env.render()).shape
        if len(shape) != 3:
            raise ValueError("Its render() gives no picture (H, W, 3)")
        self._resize = AreaResize(shape[:2], size) if size else np.array
        shape = (*(size or shape[:2]), shape[2])
        self.obs_space = {**env.obs_space, "image": Box(0, 255, shape, np.uint8)}

    def _observed(self, obs: Obs) -> Obs:
        image = np.asarray(self._env.render(), np.uint8)
        return {**obs, "image": self._resize(image)}
