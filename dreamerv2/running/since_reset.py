"""How well the world model follows an evaluation, against the steps since its reset:
what grows with them has left the range of latents that training saw."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dreamerv2.agent import Agent

MOST = 256  # Steps that are looked at; of longer evaluations, every second, fourth, ..


class SinceReset:
    """Looks at the steps of an evaluation; from `length` on they are late ones."""

    def __init__(self, agent: Agent, length: int):
        self._agent, self._length = agent, length
        self._age: Any = 0  # (N,) steps since the reset of each environment.
        self._calls, self._stride = 0, 1
        self._kept: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []

    def add(self, obs: Mapping[str, np.ndarray], state: tuple | None) -> None:
        """Take what the policy is about to be given."""
        self._age = np.where(obs["is_first"], 0, self._age + 1)
        self._calls += state is not None
        if state is None or self._calls % self._stride:
            return
        # Those that have played their share stand still at their last observation.
        chosen = ~(obs["is_first"] | obs["is_last"])
        found = self._agent.follow(obs, state)
        values = {k: v[chosen] for k, v in found.items()}
        self._kept.append((self._age[chosen], values))
        if len(self._kept) == MOST:
            self._kept = self._kept[1::2]
            self._stride *= 2

    def series(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return steps since the reset (N,), and the values there {name: (N,)}."""
        ages = np.concatenate([[], *(age for age, _ in self._kept)])
        names = self._kept[0][1] if self._kept else ()
        values = {k: np.concatenate([x[k] for _, x in self._kept]) for k in names}
        return ages, values

    def metrics(self) -> dict[str, float]:
        """Return the means of steps `early`, within the length, and of those `late`."""
        ages, values = self.series()
        parts = {"early": ages < self._length, "late": ages >= self._length}
        return {
            f"{name}_{part}": float(value[where].mean())
            for name, value in values.items()
            for part, where in parts.items()
            if where.any()
        }
