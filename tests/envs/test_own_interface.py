"""Environments of our own interface that somebody else wrote are checked, too."""

import numpy as np
import pytest
from env_tools import prepared, refused
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from dreamerv2.common.envs import OneHotSpace
from dreamerv2.common.suites.interface import signal_spaces, with_signals


class Own:
    """Ten steps of zeros by our own interface; `change` alters each observation."""

    def __init__(self, action=None, change=None, **spaces):
        self.obs_space = {
            "x": Box(-1, 1, (3,), np.float32),
            **spaces,
            **signal_spaces(),
        }
        self.act_space = {"action": action or Discrete(2)}
        self.change = change or (lambda obs: obs)
        self.took = []

    def reset(self):
        self.count, self.took = 0, []
        return self.change(with_signals({"x": np.zeros(3, np.float32)}, 0, True))

    def step(self, action):
        self.took.append(action["action"])
        self.count += 1
        obs = with_signals({"x": np.zeros(3, np.float32)}, 1, False, self.count == 10)
        return self.change(obs)


def without(key):
    return lambda obs: {k: v for k, v in obs.items() if k != key}


@pytest.mark.parametrize(
    "change, words",
    [
        (without("is_terminal"), "is_terminal.*, but got x, reward, is_first, is_last"),
        (without("x"), "lacks 'x'"),
        (lambda obs: {**obs, "y": 1}, "observes y"),
        (lambda obs: {**obs, "x": np.zeros(4, np.float32)}, r"'x' has shape \(4,\)"),
        (lambda obs: {**obs, "reward": None}, "gave the reward None"),
        (lambda obs: {**obs, "is_last": None}, "gave None for 'is_last'"),
        (lambda obs: {**obs, "is_first": True}, r"in step\(\): is_first belongs"),
        (lambda obs: {**obs, "is_first": False}, r"in reset\(\): is_first belongs"),
        (lambda obs: {**obs, "is_terminal": True}, "is_terminal to one that is_last"),
        (lambda obs: (obs, {}), "but got tuple: add what is missing"),
    ],
)
def test_our_own_interface_is_checked_too(change, words):
    refused(Own(change=change), words)


def test_keys_to_log_stay_as_they_are():
    env = Own(log_x=Box(0, 9, (), np.float32), change=lambda o: {**o, "log_x": 7})
    env = prepared(env)
    assert env.reset()["log_x"] == 7 and "log_x" in env.obs_space


@pytest.mark.parametrize(
    "space",
    [
        Discrete(3, start=1),
        MultiDiscrete([2, 3], start=[1, 5]),
        MultiBinary([2, 2]),
        Box(-2, 3, (2, 2), np.float32),
        Box(0, 5, (2,), np.int32),
        Box(0, 1, (2,), bool),
        Dict({"a": Discrete(2, start=4)}),
    ],
)
def test_our_own_interface_gets_actions_of_its_space(space):
    inner = Own(space)
    env = prepared(inner)
    env.reset()
    drawn = env.act_space["action"]
    for _ in range(10):
        env.step({"action": drawn.sample()})
    assert len(inner.took) == 10
    assert all(space.contains(action) for action in inner.took), inner.took


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"act_space": Discrete(2)}, "are dicts of spaces, but got"),
        ({"act_space": {"move": Discrete(2)}}, "has the keys move, but 'action' alone"),
        ({"obs_space": signal_spaces()}, "the observations are {}"),
    ],
)
def test_spaces_of_another_form_are_refused(changed, words):
    env = Own()
    vars(env).update(changed)
    refused(env, words)


def test_one_hot_actions_of_our_own_are_given_as_they_are():
    inner = Own(OneHotSpace(3))
    env = prepared(inner)
    env.reset()
    env.step({"action": np.float32([0, 0, 1])})
    np.testing.assert_array_equal(inner.took[-1], [0, 0, 1])
