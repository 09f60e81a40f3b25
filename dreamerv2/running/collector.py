"""Environments, the driver that steps them, the replay that takes what they give."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dreamerv2.common.counter import Counter
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.driver import Driver, Policy
from dreamerv2.common.other import Timer
from dreamerv2.common.replay import Replay
from dreamerv2.running.environments import Environments


class Collector:
    """Plays episodes of `envs` (maybe none) into a replay. `step` counts the steps of
    all `ranks`, `made` those made here since the start."""

    def __init__(
        self,
        envs: Environments,
        replay: Replay,
        step: Counter | None = None,
        timer: Timer | None = None,
        ranks: Ranks = ALONE,
        extra: Mapping[str, np.ndarray] | None = None,
    ):
        self.envs, self.replay = envs, replay
        self.driver = Driver(envs.envs, envs.replace, timer, extra)
        self._step = step
        self._shared, self._learn = ranks.count > 1, []
        self.made = 0
        if step is not None:
            self.driver.on_step(self._count)
        self.driver.on_step(replay.add_step)
        self.driver.on_reset(replay.add_step)
        self._stepping = False

    def __call__(self, policy: Policy, **until: Any) -> None:
        """Play by this policy, as Driver does."""
        self._stepping = True  # And still so if an exception leaves.
        self.driver(policy, **until)
        self._stepping = False

    def on_step(self, callback: Callable) -> None:
        """Call back after each step that is counted."""
        (self._learn.append if self._shared else self.driver.on_step)(callback)

    def count(self, steps: int, learn: bool = True) -> None:
        """Count steps that several ranks have made by now, and learn from each."""
        for _ in range(steps):
            self._step.increment()
            for callback in self._learn if learn else ():
                callback({}, worker=0)

    def reset(self) -> None:
        """Begin new episodes."""
        self.driver.reset()

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all, but of envs and driver None in their step's middle,
        and where an environment cannot be saved."""
        envs = None if self._stepping else self.envs.state_dict()
        return {
            "envs": envs,
            "driver": None if envs is None else self.driver.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned, or begin new episodes, with a word."""
        reason = self.envs.load_state_dict(state["envs"])
        if not reason:
            self.driver.load_state_dict(state["driver"])
        elif self.envs.train:
            print(f"The environments begin new episodes, since {reason}.")
        self.replay.load_state_dict(state["replay"], unfinished=not reason)

    def _count(self, tran: dict[str, Any], worker: int) -> None:
        self.made += 1
        if not self._shared:
            self._step.increment()
