"""Crafter: one life in a small open world, with 22 achievements."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.wrappers import signal_spaces, with_signals


class Crafter:
    """Crafter: one life in a small open world, with 22 achievements.

    Actions are indexes. Observations: `image` (*size, 3) uint8, `log_reward` float32
    (the reward, also where `reward` is False and the agent gets none), and per
    achievement `log_achievement_NAME` int32, how often it was done in this episode.
    Keys beginning `log_` are for the logs and never reach the networks. Death is
    terminal, the end of the day (10000 steps) is not.
    """

    def __init__(
        self,
        reward: bool = True,
        size: tuple[int, int] = (64, 64),
        seed: int | None = None,
    ):
        crafter = require("crafter", "crafter")
        size = (int(size[0]), int(size[1]))
        # Crafter's own size is (width, height).
        self._env = crafter.Env(size=size[::-1], reward=reward, seed=seed)
        self._names = list(crafter.constants.achievements)
        self._over = True
        logs = {f"log_achievement_{n}": np.int32 for n in self._names}
        self.obs_space = {
            "image": Box(0, 255, (*size, 3), np.uint8),
            **signal_spaces(),
            "log_reward": Box(-np.inf, np.inf, (), np.float32),
            **{k: Box(0, 2**31 - 1, (), dtype) for k, dtype in logs.items()},
        }
        self.act_space = {"action": Discrete(self._env.action_space.n)}
        self.action_names = list(crafter.constants.actions)

    def reset(self) -> dict[str, Any]:
        """A new world."""
        self._over = False
        obs = self._obs(self._env.reset(), 0.0, {})
        return with_signals(obs, is_first=True)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """One action, an index."""
        if self._over:
            raise RuntimeError("The episode has ended or never began: call reset().")
        image, reward, self._over, info = self._env.step(int(action["action"]))
        obs = self._obs(image, info["reward"], info["achievements"])
        terminal = self._over and info["discount"] == 0
        return with_signals(obs, reward, False, self._over, terminal)

    def render(self) -> np.ndarray:
        """The world around the player, (H, W, 3) uint8."""
        return np.asarray(self._env.render())

    def close(self) -> None:
        """Nothing to free."""

    def _obs(self, image: np.ndarray, reward: float, done: dict[str, int]) -> dict:
        logs = {f"log_achievement_{n}": np.int32(done.get(n, 0)) for n in self._names}
        image = np.array(image, np.uint8)
        return {"image": image, "log_reward": np.float32(reward), **logs}
