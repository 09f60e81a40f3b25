"""A Gymnasium environment that does as it is told, for tests."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.running.own_envs import prepare_env

CONFIG = Config(load_presets()["defaults"]).update(render_size=[64, 64])


class Told(gymnasium.Env):
    """Gives `obs` (a value, or a function of the step), or samples of its space.

    `gave` and `took` are of the episode that goes on, `seeds` of all resets.
    """

    def __init__(self, space=None, action=None, obs=None, reward=1.0, length=5):
        self.observation_space = (
            Box(-9, 9, (2,), np.float32) if space is None else space
        )
        self.action_space = Discrete(2) if action is None else action
        self.observation_space.seed(0)
        self.obs, self.reward, self.length = obs, reward, length
        self.seeds, self.took, self.count = [], [], 0

    def observed(self):
        obs = self.observation_space.sample() if self.obs is None else self.obs
        self.gave.append(obs(self.count) if callable(obs) else obs)
        return self.gave[-1]

    def reset(self, *, seed=None, options=None):
        self.seeds.append(seed)
        self.gave, self.took, self.count = [], [], 0
        return self.observed(), {}

    def step(self, action):
        self.took.append(action)
        self.count += 1
        return self.observed(), self.reward, self.count == self.length, False, {}


def prepared(env, **changes):
    """The environment as a run gets it."""
    return prepare_env(env, CONFIG.update(changes), 3)


def refused(env, words):
    """Check that the environment is refused by one sentence with these words."""
    with pytest.raises(UsageError, match=words) as info:
        prepared(env)
    text = str(info.value)
    assert text.endswith(".") and "\n" not in text
    return text
