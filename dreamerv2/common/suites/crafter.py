"""Crafter: one life in a small open world, with 22 achievements."""

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.wrappers import Wrapper


class Crafter(Wrapper):
    """Actions are indexes. Observations: `image` (*size, 3) uint8, `log_reward` float32
    (also without `reward`), and per achievement `log_achievement_NAME` int32, how often
    it was done in this episode. Death is terminal, the end of the day is not."""

    def __init__(self, reward: bool, size: tuple[int, int], seed: int):
        crafter = require("crafter", "crafter")
        # Crafter's own size is (width, height).
        super().__init__(crafter.Env(size=tuple(size)[::-1], reward=reward, seed=seed))
        names = crafter.constants.achievements
        self._names = {name: f"log_achievement_{name}" for name in names}
        self.obs_space = {
            "image": Box(0, 255, (*size, 3), np.uint8),
            **signal_spaces(),
            "log_reward": Box(-np.inf, np.inf, (), np.float32),
            **{x: Box(0, 2**31 - 1, (), np.int32) for x in self._names.values()},
        }
        self.act_space = {"action": Discrete(self._env.action_space.n)}
        self.action_names = list(crafter.constants.actions)

    def reset(self) -> Obs:
        return with_signals(self._obs(self._env.reset(), 0.0, {}), is_first=True)

    def step(self, action: Action) -> Obs:
        image, reward, last, info = self._env.step(int(action["action"]))
        obs = self._obs(image, info["reward"], info["achievements"])
        return with_signals(obs, reward, False, last, last and info["discount"] == 0)

    def _obs(self, image: np.ndarray, reward: float, done: dict[str, int]) -> dict:
        logs = {log: np.int32(done.get(x, 0)) for x, log in self._names.items()}
        image = np.array(image, np.uint8)
        return {"image": image, "log_reward": np.float32(reward), **logs}
