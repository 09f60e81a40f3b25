"""What the wrappers promise."""

import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.suites.interface import signal_spaces, with_signals
from dreamerv2.common.suites.wrappers import (
    ActionRepeat,
    NormalizeAction,
    OneHotAction,
    OneHotSpace,
    RenderImage,
    ResizeImage,
    TimeLimit,
    Wrapper,
)


class Counting:
    """Counts its steps; ends terminally after `length`; remembers its actions."""

    def __init__(self, length=5, space=None):
        self.length = length
        self.obs_space = {"count": Box(0, 99, (), np.int32), **signal_spaces()}
        self.act_space = {"action": space or Discrete(3)}
        self.actions = []
        self.count = 0

    def reset(self):
        self.count = 0
        return with_signals({"count": np.int32(0)}, is_first=True)

    def step(self, action):
        self.actions.append(action["action"])
        self.count += 1
        over = self.count >= self.length
        obs = {"count": np.int32(self.count)}
        return with_signals(obs, self.count, is_last=over, is_terminal=over)

    def render(self):
        return np.full((4, 6, 3), self.count, np.uint8)


class Picture(Counting):
    """Observes a picture whose pixels are all different."""

    def __init__(self, shape):
        super().__init__()
        self.image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        self.obs_space = {"image": Box(0, 255, shape, np.uint8), **signal_spaces()}

    def reset(self):
        return with_signals({"image": self.image}, is_first=True)

    def step(self, action):
        return with_signals({"image": self.image})


def flags(obs):
    return obs["is_first"], obs["is_last"], obs["is_terminal"]


def test_time_limit_ends_the_episode_without_making_it_terminal():
    env = TimeLimit(Counting(length=9), 3)
    assert flags(env.reset()) == (True, False, False)
    seen = [flags(env.step({"action": 0})) for _ in range(3)]
    assert seen == [(False, False, False)] * 2 + [(False, True, False)]


def test_time_limit_of_zero_is_no_limit():
    env = TimeLimit(Counting(length=50), 0)
    env.reset()
    seen = [flags(env.step({"action": 0})) for _ in range(50)]
    assert seen[:-1] == [(False, False, False)] * 49
    assert seen[-1] == (False, True, True)


def test_a_terminal_exactly_at_the_limit_stays_terminal():
    env = TimeLimit(Counting(length=3), 3)
    env.reset()
    seen = [flags(env.step({"action": 0})) for _ in range(3)]
    assert seen[-1] == (False, True, True)


@pytest.mark.parametrize("length, limit", [(2, 0), (2, 5), (5, 2)])
def test_stepping_after_the_end_is_an_error(length, limit):
    env = TimeLimit(Counting(length), limit)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({"action": 0})
    env.reset()
    env.step({"action": 0})
    assert env.step({"action": 0})["is_last"]
    with pytest.raises(RuntimeError, match="call reset"):
        env.step({"action": 0})
    env.reset()
    assert env.step({"action": 0})["count"] == 1


def test_action_repeat_sums_rewards_and_stops_at_the_end():
    env = ActionRepeat(Counting(length=5), 3)
    env.reset()
    obs = env.step({"action": 0})
    assert (obs["reward"], obs["count"], obs["is_last"]) == (1 + 2 + 3, 3, False)
    obs = env.step({"action": 0})
    assert (obs["reward"], obs["count"], obs["is_last"]) == (4 + 5, 5, True)
    assert obs["reward"].dtype == np.float32


def test_normalize_action_maps_finite_bounds_and_passes_infinite_ones_on():
    low = np.array([0.0, -np.inf, -3.0], np.float32)
    high = np.array([10.0, np.inf, -1.0], np.float32)
    inner = Counting(space=Box(low, high))
    env = NormalizeAction(inner)
    space = env.act_space["action"]
    np.testing.assert_array_equal(space.low, [-1, -np.inf, -1])
    np.testing.assert_array_equal(space.high, [1, np.inf, 1])
    env.reset()
    for given in ([-1, -7.5, -1], [1, 7.5, 1], [0, 0.5, 0], [2, 2, -2]):
        env.step({"action": np.array(given, np.float32)})
    expected = [[0, -7.5, -3], [10, 7.5, -1], [5, 0.5, -2], [10, 2, -3]]
    np.testing.assert_array_equal(inner.actions, expected)
    assert inner.actions[0].dtype == np.float32


def test_random_actions_are_finite_for_infinite_bounds():
    inner = Counting(space=Box(-np.inf, np.inf, (4,), np.float32))
    space = NormalizeAction(inner).act_space["action"]
    assert np.isfinite([space.sample() for _ in range(100)]).all()


def test_one_hot_action_gives_the_index():
    inner = Counting(space=Discrete(3))
    env = OneHotAction(inner)
    env.reset()
    for i in range(3):
        env.step({"action": np.eye(3, dtype=np.float32)[i]})
    assert inner.actions == [0, 1, 2]
    assert env.act_space["action"].discrete
    assert env.act_space["action"].shape == (3,)


@pytest.mark.parametrize("bad", [[0.5, 0.5, 0], [1, 1, 0], [0, 0, 0], [0, 1], 1])
def test_one_hot_action_refuses_everything_else(bad):
    env = OneHotAction(Counting())
    env.reset()
    with pytest.raises(ValueError, match="one-hot"):
        env.step({"action": np.array(bad, np.float32)})


def test_one_hot_samples_follow_the_seed_and_cover_all_actions():
    first, second = OneHotSpace(4, seed=3), OneHotSpace(4, seed=3)
    a = np.stack([first.sample() for _ in range(100)])
    b = np.stack([second.sample() for _ in range(100)])
    np.testing.assert_array_equal(a, b)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a.sum(1), 1)
    assert (a.sum(0) > 10).all()
    assert all(first.contains(x) for x in a)


def test_one_hot_space_pickles_small_and_goes_on_alike():
    space = OneHotAction(Counting()).act_space["action"]
    space.seed(1)
    space.sample()
    data = pickle.dumps(space)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert copy == space and copy.n == 3 and copy.discrete
    for _ in range(5):
        np.testing.assert_array_equal(copy.sample(), space.sample())


def test_the_action_space_is_one_object_so_that_seeding_it_holds():
    env = TimeLimit(OneHotAction(Counting()), 0)
    env.act_space["action"].seed(5)
    first = [env.act_space["action"].sample().argmax() for _ in range(20)]
    env.act_space["action"].seed(5)
    assert first == [env.act_space["action"].sample().argmax() for _ in range(20)]


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 3)])
def test_resize_image_keeps_height_and_width_apart(shape):
    env = ResizeImage(Picture(shape), (3, 8))
    assert env.obs_space["image"].shape == (3, 8, *shape[2:])
    assert env.obs_space["image"].dtype == np.uint8
    image = env.reset()["image"]
    inner = env.image
    expected = inner[[1, 3, 5]][:, [0, 0, 1, 1, 2, 2, 3, 3]]
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(env.step({"action": 0})["image"], expected)


def test_resize_image_leaves_vectors_and_right_sizes_alone():
    env = ResizeImage(Picture((64, 64, 1)), (64, 64))
    assert env.reset()["image"] is env.image
    env = ResizeImage(Counting(), (64, 64))
    assert env.reset()["count"] == 0


def test_render_image_adds_what_render_gives():
    env = RenderImage(Counting())
    assert env.obs_space["image"].shape == (4, 6, 3)
    assert env.reset()["image"].max() == 0
    assert (env.step({"action": 0})["image"] == 1).all()


def test_render_image_waits_for_the_first_reset_of_gymnasium():
    from dreamerv2.common.envs import GymWrapper

    class Rendered(gymnasium.Env):
        observation_space = Box(-1, 1, (2,), np.float32)
        action_space = Discrete(2)
        begun = False

        def reset(self, seed=None, options=None):
            self.begun = True
            return np.zeros(2, np.float32), {}

        def render(self):
            if not self.begun:
                raise RuntimeError("reset first")
            return np.zeros((5, 7, 3), np.uint8)

    env = RenderImage(GymWrapper(Rendered()))
    assert env.reset()["image"].shape == (5, 7, 3)


def test_a_missing_attribute_is_an_attribute_error_through_all_wrappers():
    env = TimeLimit(OneHotAction(Wrapper(Counting(length=7))), 3)
    assert env.length == 7
    assert not hasattr(env, "nothing")
    with pytest.raises(AttributeError):
        _ = env.nothing
    assert pickle.loads(pickle.dumps(env)).length == 7


def test_wrappers_do_not_change_the_dict_of_the_environment():
    class Keeping(Counting):
        def step(self, action):
            self.kept = super().step(action)
            return self.kept

    env = TimeLimit(ActionRepeat(Keeping(length=9), 2), 1)
    env.reset()
    assert env.step({"action": 0})["is_last"]
    assert not env.kept["is_last"]
    assert env.kept["reward"] == 2
