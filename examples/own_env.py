"""An environment written by hand, without any package: a thermostat.

    python examples/own_env.py --logdir ~/logdir/thermostat

The room loses warmth to the weather outside, and the agent sets the heater. It sees
two temperatures and the time of day, and pays for what is too cold, too warm, or burnt.
"""

from typing import Any

import numpy as np
from gymnasium.spaces import Box

import dreamerv2.api as dv2


class Thermostat:
    """A day in a room: 96 steps of a quarter of an hour.

    An environment needs no more than these two spaces and these two methods. Every
    observation holds, besides its own keys, `reward`, `is_first`, `is_last` (the
    episode ends here) and `is_terminal` (nothing of value could follow; here the clock
    alone ends a day, so it never is).
    """

    def __init__(self, seed: int = 0):
        self._random = np.random.default_rng(seed)
        signals = {
            "reward": Box(-np.inf, np.inf, (), np.float32),
            "is_first": Box(0, 1, (), bool),
            "is_last": Box(0, 1, (), bool),
            "is_terminal": Box(0, 1, (), bool),
        }
        self.obs_space = {
            "temperature": Box(-np.inf, np.inf, (2,), np.float32),
            "clock": Box(-1, 1, (2,), np.float32),
            **signals,
        }
        self.act_space = {"action": Box(0, 1, (1,), np.float32)}  # The heater.

    def reset(self) -> dict[str, Any]:
        """A new morning."""
        self._step = 0
        self._inside = self._random.uniform(12, 24)
        self._outside = self._random.uniform(-5, 15)
        return self._obs(reward=0.0)

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        """A quarter of an hour with the heater at `action["action"]`, in [0, 1]."""
        heat = float(action["action"][0])
        self._step += 1
        self._outside += self._random.normal(0, 0.3)
        self._inside += 0.1 * (self._outside - self._inside) + 4 * heat
        discomfort = min(abs(self._inside - 20) / 5, 1)
        return self._obs(reward=1 - discomfort - 0.2 * heat)

    def _obs(self, reward: float) -> dict[str, Any]:
        angle = 2 * np.pi * self._step / 96
        temperature = [(self._inside - 20) / 10, (self._outside - 5) / 10]
        return {
            "temperature": np.array(temperature, np.float32),
            "clock": np.array([np.sin(angle), np.cos(angle)], np.float32),
            "reward": np.float32(reward),
            "is_first": self._step == 0,
            "is_last": self._step == 96,
            "is_terminal": False,
        }


SETTINGS = {
    "logdir": "~/logdir/thermostat",
    "steps": 20000,
    "(encoder|decoder).cnn_keys": "$^",
    "(encoder|decoder).mlp_layers": [128, 128],
    "rssm": {"hidden": 128, "deter": 128, "stoch": 16, "discrete": 16},
    "(reward_head|actor|critic).layers": 2,
    "(reward_head|actor|critic).units": 128,
    "model_opt.lr": 1e-3,
    "actor_opt.lr": 3e-4,
    "critic_opt.lr": 1e-3,
    "pred_discount": False,  # Its episodes end by the clock alone.
    "grad_heads": ["decoder", "reward"],
    "replay": {"minlen": 32, "maxlen": 32, "prioritize_ends": False},
    "dataset": {"batch": 16, "length": 32},
    "clip_rewards": "identity",
    "discount": 0.95,
    "loss_scales.kl": 0.1,
    "actor_ent": 1e-4,
    "prefill": 1000,
    "pretrain": 100,
    "train_every": 5,
    "eval_every": 2000,
    "eval_eps": 5,
    "log_every": 1000,
    "precision": "32",
    "jit": False,
}


if __name__ == "__main__":
    dv2.train(Thermostat, dv2.defaults.update(SETTINGS).parse_flags())
