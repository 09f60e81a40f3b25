"""What the Driver promises: which action stands where, and what is forgotten."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from dreamerv2.common.driver import Driver
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import signal_spaces, with_signals


class Counting:
    """Counts its steps and episodes; observes the action that led here as `echo`."""

    def __init__(self, length=4, promise=None, name=0):
        self.length = length
        self.log = promise
        self.name = name
        self.obs_space = {
            "count": Box(0, 99, (), np.int32),
            "echo": Box(-9, 9, (2,), np.float32),
            **signal_spaces(),
        }
        self.act_space = {"action": Box(-9, 9, (2,), np.float32)}
        self.episode = -1
        self.steps = 0
        self.echo = np.zeros(2, np.float32)  # Reused on purpose.

    def reset(self):
        self.count = 0
        self.episode += 1
        self.echo[:] = 0
        return self._give(with_signals(self._obs(), is_first=True), "reset")

    def step(self, action):
        self.count += 1
        self.steps += 1
        self.echo[:] = action["action"]
        over = self.count == self.length
        return self._give(with_signals(self._obs(), self.count, is_last=over), "step")

    def _obs(self):
        return {"count": np.int32(self.count), "echo": self.echo}

    def _give(self, obs, what):
        if self.log is None:
            return obs
        self.log.append(("start", what, self.name))

        def wait():
            self.log.append(("wait", what, self.name))
            return obs

        return wait


class Numbering:
    """A policy whose t-th actions are (t, i), in an array that it uses again."""

    def __init__(self, envs):
        self.actions = np.zeros((envs, 2), np.float32)
        self.states = []
        self.seen = []

    def __call__(self, obs, state):
        self.states.append(state)
        self.seen.append({k: v.copy() for k, v in obs.items()})
        state = 0 if state is None else state + 1
        self.actions[:, 0] = len(self.seen)
        self.actions[:, 1] = np.arange(len(self.actions))
        return {"action": self.actions, "extra": np.zeros(3)}, state


class Record:
    def __init__(self, driver):
        self.steps, self.resets, self.episodes = [], [], []
        driver.on_step(lambda tran, worker: self.steps.append((worker, tran)))
        driver.on_reset(lambda tran, worker: self.resets.append((worker, tran)))
        driver.on_episode(lambda ep, worker: self.episodes.append((worker, ep)))


def test_each_action_stands_beside_the_observation_it_led_to():
    driver = Driver([Counting(length=3), Counting(length=5)])
    record = Record(driver)
    driver(Numbering(2), episodes=5)
    assert len(record.episodes) >= 5
    for worker, ep in record.episodes:
        length = (3, 5)[worker] + 1
        np.testing.assert_array_equal(ep["count"], np.arange(length))
        np.testing.assert_array_equal(ep["reward"], np.arange(length))
        np.testing.assert_array_equal(ep["action"], ep["echo"])
        np.testing.assert_array_equal(ep["action"][0], 0)
        np.testing.assert_array_equal(np.diff(ep["action"][1:, 0]), 1)
        np.testing.assert_array_equal(ep["action"][1:, 1], worker)
        assert ep["is_first"].tolist() == [True] + [False] * (length - 1)
        assert ep["is_last"].tolist() == [False] * (length - 1) + [True]


def test_dtypes_are_those_of_environment_and_policy():
    driver = Driver([Counting()])
    record = Record(driver)
    driver(Numbering(1), episodes=1)
    expected = dict(count=np.int32, echo=np.float32, reward=np.float32)
    expected |= dict(action=np.float32, is_first=bool, is_last=bool, is_terminal=bool)
    trans = [record.resets[0][1], record.steps[0][1], record.episodes[0][1]]
    for tran in trans:
        assert {k: v.dtype for k, v in tran.items()} == expected


def test_callbacks_see_every_transition_in_order():
    driver = Driver([Counting(length=2)])
    record = Record(driver)
    driver(Numbering(1), steps=5)
    assert [int(t["count"]) for _, t in record.resets] == [0, 0, 0]
    assert [int(t["count"]) for _, t in record.steps] == [1, 2, 1, 2, 1]
    assert len(record.episodes) == 2
    assert (record.resets[0][1]["action"] == 0).all()


def test_it_runs_until_both_steps_and_episodes_are_reached():
    env = Counting(length=4)
    driver = Driver([env])
    driver(Numbering(1), steps=10, episodes=1)
    assert env.steps == 10
    driver(Numbering(1), steps=1, episodes=2)
    assert env.steps == 16
    driver(Numbering(1))
    assert env.steps == 16


def test_steps_count_over_all_environments():
    envs = [Counting(), Counting(), Counting()]
    Driver(envs)(Numbering(3), steps=7)
    assert [env.steps for env in envs] == [3, 3, 3]


def test_calls_go_on_where_the_last_one_stopped():
    driver = Driver([Counting(length=5)])
    record = Record(driver)
    policy = Numbering(1)
    for _ in range(5):
        driver(policy, steps=1)
    assert len(record.resets) == 1
    np.testing.assert_array_equal(record.episodes[0][1]["count"], np.arange(6))
    assert policy.states == [None, 0, 1, 2, 3]


def test_of_an_episode_only_what_its_callbacks_need_is_kept():
    driver = Driver([Counting(length=3)])
    seen, keys = [], ["echo"]
    driver.on_episode(
        lambda ep, worker: seen.append(ep), lambda key: key in [*keys, "reward"]
    )
    driver(Numbering(1), steps=2)
    keys.append("count")  # For the episodes after this one.
    state = driver.state_dict()
    assert {k: len(v) for k, v in state["episodes"][0].items()} == {
        "is_first": 3,
        "reward": 3,
        "echo": 3,
    }
    driver.load_state_dict(state)
    driver(Numbering(1), steps=4)
    assert [sorted(ep) for ep in seen] == [
        ["echo", "is_first", "reward"],
        ["count", "echo", "is_first", "reward"],
    ]
    assert [ep["reward"].tolist() for ep in seen] == 2 * [[0, 1, 2, 3]]
    unheard = Driver([Counting(length=3)])
    unheard(Numbering(1), steps=2)
    assert unheard.state_dict()["episodes"][0].keys() == {"is_first"}


def test_reset_forgets_the_half_episode_and_the_state():
    driver = Driver([Counting(length=5)])
    record = Record(driver)
    policy = Numbering(1)
    driver(policy, steps=3)
    driver.reset()
    driver(policy, episodes=1)
    np.testing.assert_array_equal(record.episodes[0][1]["count"], np.arange(6))
    assert policy.states == [None, 0, 1, None, 0, 1, 2, 3]
    assert len(record.resets) == 2


def test_the_policy_sees_all_environments_at_once():
    policy = Numbering(2)
    Driver([Counting(length=2), Counting(length=3)])(policy, steps=8)
    counts = np.stack([obs["count"] for obs in policy.seen])
    np.testing.assert_array_equal(counts, [[0, 0], [1, 1], [0, 2], [1, 0]])
    first = np.stack([obs["is_first"] for obs in policy.seen])
    np.testing.assert_array_equal(first, counts == 0)


def test_episodes_per_env_gives_each_environment_its_share():
    envs = [Counting(length=1), Counting(length=7)]
    driver = Driver(envs)
    record = Record(driver)
    for _ in range(3):
        driver(Numbering(2), episodes_per_env=2)
    assert [worker for worker, _ in record.episodes].count(0) == 6
    assert [worker for worker, _ in record.episodes].count(1) == 6
    # Those that are done stand still: no step and no callback more than asked for.
    assert [env.steps for env in envs] == [6, 42]
    assert [env.episode for env in envs] == [5, 5]
    assert len(record.steps) == 48
    driver(Numbering(2), episodes_per_env=[1, 3])
    assert [env.steps for env in envs] == [6 + 1, 42 + 21]


def test_episodes_per_env_stands_alone():
    with pytest.raises(ValueError, match="alone"):
        Driver([Counting()])(Numbering(1), steps=1, episodes_per_env=1)


def test_all_environments_start_before_any_is_waited_for():
    log = []
    driver = Driver([Counting(promise=log, name=i) for i in range(3)])
    record = Record(driver)
    driver(Numbering(3), steps=3)
    order = [(verb, what) for what in ("reset", "step") for verb in ("start", "wait")]
    expected = [(*pair, i) for pair in order for i in range(3)]
    assert log == expected
    assert [worker for worker, _ in record.steps] == [0, 1, 2]


def test_a_failure_names_the_environment_and_keeps_its_cause():
    class Broken(Counting):
        def step(self, action):
            raise KeyError("gone")

    driver = Driver([Counting(), Broken()])
    with pytest.raises(RuntimeError, match="Environment 1 failed.*KeyError") as info:
        driver(Numbering(2), steps=1)
    assert isinstance(info.value.__cause__, KeyError)


def test_what_the_user_can_mend_stays_a_usage_error():
    class Broken(Counting):
        def reset(self):
            raise UsageError("Mend me.")

    with pytest.raises(UsageError, match="Mend me"):
        Driver([Broken()])(Numbering(1), steps=1)


def test_a_driver_without_environments_cannot_step():
    with pytest.raises(ValueError, match="no environments to step"):
        Driver([])(lambda obs, state: ({}, state), steps=1)
