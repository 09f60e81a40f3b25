"""MiniGrid and BabyAI: small worlds of rooms, keys and doors, seen from within."""

import re
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.resize import AreaResize
from dreamerv2.common.suites.spelling import find_spelt, letters
from dreamerv2.common.suites.wrappers import Wrapper


class MiniGrid(Wrapper):
    """A task of MiniGrid or BabyAI, of which the agent sees the part before it.

    Actions are indexes. Observations, of a view of 7 by 7 fields: `grid` (980,)
    float32, per field its object, colour and state, each one-hot; `direction` (4,)
    float32, one-hot; with `image` also `image` (*size, 3) uint8, the view as a picture.
    The mission's sentence is not observed. A goal or a death is terminal, the end of
    the task's steps is not. The seed goes into the first reset."""

    def __init__(self, name: str, image: bool, size: tuple[int, int], seed: int):
        constants = require("minigrid.core.constants", "minigrid")
        name = find_grid(name)
        kind = {"render_mode": "rgb_array", "disable_env_checker": True}
        try:
            super().__init__(gymnasium.make(name, **kind))
        except ModuleNotFoundError as error:
            what = f"{name} needs a package that is missing: {error}."
            raise UsageError(what) from error
        self._seed = seed
        names = "OBJECT_TO_IDX", "COLOR_TO_IDX", "STATE_TO_IDX"
        self._kinds = [len(getattr(constants, name)) for name in names]
        view = self._env.observation_space["image"].shape[0]
        self.obs_space = {
            "grid": Box(0, 1, (view * view * sum(self._kinds),), np.float32),
            "direction": Box(0, 1, (4,), np.float32),
            **signal_spaces(),
        }
        self._draw = None
        if image:
            self._tile = -(-max(size) // view)  # Pixels of a field, rounded up.
            self._draw = AreaResize((view * self._tile,) * 2, size)
            self.obs_space["image"] = Box(0, 255, (*size, 3), np.uint8)
        self.act_space = {"action": Discrete(int(self._env.action_space.n))}
        self.action_names = [a.name for a in self._env.unwrapped.actions]

    def reset(self) -> Obs:
        seed, self._seed = self._seed, None
        obs, _ = self._env.reset(seed=seed)
        return with_signals(self._obs(obs), is_first=True)

    def step(self, action: Action) -> Obs:
        obs, reward, terminal, truncated, _ = self._env.step(int(action["action"]))
        last = terminal or truncated
        return with_signals(self._obs(obs), reward, False, last, terminal)

    def _obs(self, obs: dict[str, Any]) -> dict[str, np.ndarray]:
        codes = obs["image"]  # (7, 7, 3): object, colour and state.
        kinds = enumerate(self._kinds)
        parts = [np.arange(count) == codes[..., i, None] for i, count in kinds]
        result = {
            "grid": np.concatenate(parts, -1).astype(np.float32).reshape(-1),
            "direction": np.eye(4, dtype=np.float32)[int(obs["direction"])],
        }
        if self._draw:
            picture = self._env.unwrapped.get_pov_render(self._tile)
            result["image"] = self._draw(np.asarray(picture, np.uint8))
        return result


def find_grid(name: str) -> str:
    """Return a task's id; UsageError for an unknown one, naming the nearest."""
    require("minigrid", "minigrid")
    ids = [i for i in gymnasium.registry if i.startswith(("MiniGrid-", "BabyAI-"))]
    known: dict[str, str] = {}
    # By version, so that the last one wins where it is left out.
    for full in sorted(ids, key=lambda i: gymnasium.spec(i).version or 0):
        for spelling in (full, re.sub("-v[0-9]+$", "", full)):
            known[letters(spelling)] = full
            known[letters(spelling.removeprefix("MiniGrid-"))] = full
    return find_spelt("MiniGrid task", name, known)
