"""What every suite and every wrapper promises to the agent."""

import copy
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.envs import (
    ActionRepeat,
    Async,
    GymWrapper,
    NormalizeAction,
    OneHotAction,
    RenderImage,
    ResizeImage,
    TimeLimit,
    ToyCatch,
    ToyReach,
    make_env,
)
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites import mujoco_gl
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.suites.minigrid import find_grid

LIMIT = 8
SEES = "encoder.cnn_keys"

# Per case: the package it needs, if any, the task, presets, and further settings.
TASKS = {
    "atari": ("", "atari_pong", "atari", {}),
    "dmc proprio": ("dm_control", "dmc_cartpole_balance", "dmc_proprio", {}),
    "dmc vision": ("dm_control", "dmc_walker_walk", "dmc_vision", {}),
    "dmc cup": ("dm_control", "dmc_cup_catch", "dmc_proprio", {}),
    "dmc manip": ("dm_control", "dmc_manip_reach_site", "dmc_proprio", {}),
    "crafter": ("crafter", "crafter_reward", "crafter", {}),
    "minigrid": ("minigrid", "minigrid_DoorKey-5x5", "minigrid", {}),
    "minigrid image": ("minigrid", "minigrid_empty_8x8", "minigrid", {SEES: "image"}),
    "cartpole": ("", "gym_CartPole-v1", "gym", {}),
    "cartpole pixels": ("pygame", "gym_CartPole-v1", "gym", {SEES: "image"}),
    "pendulum": ("", "gym_Pendulum-v1", "gym", {"action_repeat": 2}),
    "frozen lake": ("", "gym_FrozenLake-v1", "gym", {}),
    "lander": ("Box2D", "gym_LunarLander-v3", "gym", {}),
    "blackjack": ("", "gym_Blackjack-v1", "gym", {}),
    "namespaced": ("", "gym_ALE/Breakout-v5", "gym", {}),
    "retro": ("stable_retro", "retro_Airstriker-Genesis", "retro", {}),
    "toy catch": ("", "toy_catch", "defaults", {}),
    "toy reach": ("", "toy_reach", "defaults", {"action_repeat": 2}),
}


def configure(task, preset, **changes):
    config = Config(load_presets()["defaults"]).update(load_presets()[preset])
    return config.update({"task": task, "time_limit": LIMIT, **changes})


def made(case, seed=0, **changes):
    package, task, preset, more = TASKS[case]
    if package:
        pytest.importorskip(package)
    if "vision" in case and not any(map(mujoco_gl.renders, ("egl", "osmesa"))):
        pytest.skip("neither EGL nor OSMesa")
    return make_env(configure(task, preset, **more, **changes), seed)


def play(make, episodes=2):
    """The spaces and what is shown under random actions, one list per episode."""
    env = make()
    try:
        result = []
        for _ in range(episodes):
            result.append([arrived(env.reset())])
            while not result[-1][-1]["is_last"]:
                result[-1].append(arrived(env.step(drawn(env))))
        return env.obs_space, env.act_space, result
    finally:
        getattr(env, "close", lambda: None)()


def arrived(obs):
    """The observation of an environment elsewhere, which answers later."""
    return obs() if callable(obs) else obs


def drawn(env):
    action = env.act_space["action"].sample()
    return {"action": np.clip(action, -1, 1) if hasattr(action, "shape") else action}


def contract(make):
    """Checks all that holds for any environment; returns what was shown."""
    spaces, actions, first = play(make)
    space = actions["action"]
    assert set(signal_spaces()) < set(spaces) and set(actions) == {"action"}
    if getattr(space, "discrete", False):
        sample = space.sample()
        assert sample.sum() == sample.max() == 1 and space.contains(sample)
    elif not hasattr(space, "n"):
        assert space.shape and space.sample().shape == space.shape
    arrays = []
    for episode in first:
        for index, obs in enumerate(episode):
            assert set(obs) == set(spaces)
            for key, value in obs.items():
                value = np.asarray(value)
                assert value.dtype == spaces[key].dtype, key
                assert value.shape == spaces[key].shape, key
                assert spaces[key].contains(value), (key, value)
                arrays += [value] if key not in signal_spaces() else []
            assert obs["is_first"] == (index == 0)
            assert obs["is_last"] == (index == len(episode) - 1)
            assert obs["is_last"] or not obs["is_terminal"]
        assert episode[0]["reward"] == 0 and not episode[0]["is_last"]
    owners = {id(a if a.base is None else a.base) for a in arrays}
    assert len(owners) == len(arrays), "observations share memory"
    again = play(make)[-1]
    for mine, other in zip(first, again, strict=True):
        for left, right in zip(mine, other, strict=True):
            assert all(np.array_equal(left[key], right[key]) for key in left)
    return first


@pytest.mark.parametrize("case", TASKS)
def test_every_suite_keeps_the_contract(case):
    shown = contract(lambda: made(case))
    for episode in shown:
        assert len(episode) <= LIMIT + 1
        if len(episode) == LIMIT + 1 and case != "blackjack":
            assert not episode[-1]["is_terminal"]  # The limit ended it.
    env = made(case)
    try:
        env.reset()
        kept = env.step(drawn(env))
        before = copy.deepcopy(kept)
        obs = kept
        while not obs["is_last"]:
            obs = env.step(drawn(env))
        assert all(np.array_equal(kept[key], before[key]) for key in kept)
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(drawn(env))
        space = env.act_space["action"]
        if not getattr(space, "discrete", False):
            assert (space.low == -1).all() and (space.high == 1).all()
    finally:
        getattr(env, "close", lambda: None)()


class Counts(gymnasium.Env):
    """Shows how often it was stepped; `end` is terminal or truncated at 5."""

    observation_space = Box(0, 99, (2,), np.float32)
    action_space = Discrete(3, start=2)

    def __init__(self, end="terminal"):
        self.end = end

    def reset(self, seed=None, options=None):
        self.count, self.got = 0, []
        return np.full(2, 0, np.float32), {}

    def step(self, action):
        self.got.append(action)
        self.count += 1
        over = self.count == 5
        ends = (over and self.end == "terminal", over and self.end == "truncated")
        return np.full(2, self.count, np.float32), 1.0, *ends, {}

    def render(self):
        return np.full((30, 20, 3), self.count, np.uint8)


WRAPPED = {
    "GymWrapper": lambda: GymWrapper(Counts()),
    "TimeLimit": lambda: TimeLimit(GymWrapper(Counts()), 3),
    "ActionRepeat": lambda: ActionRepeat(GymWrapper(Counts("truncated")), 2),
    "OneHotAction": lambda: OneHotAction(ToyCatch(0, balls=1)),
    "NormalizeAction": lambda: TimeLimit(NormalizeAction(ToyReach(0)), 5),
    "RenderImage": lambda: RenderImage(GymWrapper(Counts()), size=(10, 10)),
    "ResizeImage": lambda: ResizeImage(ToyCatch(0, balls=1), (20, 30)),
    "Async": lambda: Async(lambda: GymWrapper(Counts()), "thread", "counts"),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_every_wrapper_keeps_the_contract(name):
    def make():
        env = WRAPPED[name]()
        env.act_space["action"].seed(0)
        return env

    shown = contract(make)
    terminal = name not in ("TimeLimit", "ActionRepeat", "NormalizeAction")
    assert [episode[-1]["is_terminal"] for episode in shown] == [terminal] * 2


# --- Truncation and terminal ------------------------------------------------------


def run_until_the_end(env, action):
    obs = env.reset()
    total = 0.0
    while not obs["is_last"]:
        obs = env.step({"action": action() if callable(action) else action})
        total += float(obs["reward"])
    return obs, total


def test_a_pole_that_falls_is_terminal_and_a_pendulums_clock_is_not():
    env = made("cartpole", time_limit=0)
    assert run_until_the_end(env, np.float32([1, 0]))[0]["is_terminal"]
    env = made("pendulum", time_limit=0)
    assert not run_until_the_end(env, np.float32([1]))[0]["is_terminal"]


def test_a_goal_is_terminal_and_the_end_of_the_tasks_steps_is_not():
    pytest.importorskip("minigrid")
    env = make_env(configure("minigrid_Empty-5x5", "minigrid", time_limit=0), 0)
    left, right, forward = np.eye(7, dtype=np.float32)[:3]
    way = iter([forward, forward, right, forward, forward])
    obs, total = run_until_the_end(env, lambda: next(way))
    assert obs["is_terminal"] and next(way, None) is None
    assert total == pytest.approx(1 - 0.9 * 5 / 100)
    obs, total = run_until_the_end(env, left)
    assert (obs["is_terminal"], total) == (False, 0)


def test_the_end_of_a_dmc_episode_is_not_terminal():
    env = made("dmc proprio", time_limit=0, action_repeat=250)
    obs = [env.reset()] + [env.step({"action": np.float32([0])}) for _ in range(4)]
    assert [o["is_last"] for o in obs] == [False] * 4 + [True]
    assert not obs[-1]["is_terminal"]


def test_the_end_of_crafters_day_is_not_terminal():
    env = made("crafter", time_limit=0)
    env._env._env._env._length = 4
    assert not run_until_the_end(env, np.eye(17, dtype=np.float32)[0])[0]["is_terminal"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_end_of_a_console_game_is_terminal_and_a_truncation_is_not(terminal):
    env = made("retro")
    try:
        console = env._env._env._env
        frame = np.zeros(console.observation_space.shape, np.uint8)
        frames = iter([(False, False)] * 5 + [(terminal, not terminal)])
        console.step = lambda action: (frame, 2.0, *next(frames), {})
        env.reset()
        action = {"action": np.eye(env.act_space["action"].n, dtype=np.float32)[1]}
        first, last = env.step(action), env.step(action)
        # Four frames, then two, at the second of which it ends.
        assert (float(first["reward"]), float(last["reward"])) == (8, 4)
        assert not first["is_last"] and last["is_last"]
        assert last["is_terminal"] == terminal
    finally:
        env.close()


# --- Single suites ----------------------------------------------------------------


def test_a_grid_is_one_hot_by_object_colour_and_state():
    env = made("minigrid")
    obs = env.reset()
    parts = obs["grid"].reshape(7, 7, 20)
    for part in (parts[..., :11], parts[..., 11:17], parts[..., 17:]):
        assert (part.sum(-1) == 1).all()
    assert obs["direction"].sum() == 1 and "image" not in obs
    codes = env._env._env._env._env.unwrapped.gen_obs()["image"]
    np.testing.assert_array_equal(parts[..., :11].argmax(-1), codes[..., 0])
    np.testing.assert_array_equal(parts[..., 17:].argmax(-1), codes[..., 2])


def test_grids_are_drawn_in_any_size_only_where_the_encoder_looks():
    env = made("minigrid image", render_size=[32, 48])
    assert env.obs_space["image"].shape == env.reset()["image"].shape == (32, 48, 3)
    assert len(np.unique(env.reset()["image"])) > 2
    assert "image" not in made("minigrid").obs_space


def test_grids_are_found_by_letters_and_digits():
    pytest.importorskip("minigrid")
    for name in ("Empty-5x5", "empty_5x5", "MiniGrid-Empty-5x5-v0", "EMPTY5X5V0"):
        assert find_grid(name) == "MiniGrid-Empty-5x5-v0"
    assert find_grid("BabyAI-GoToRedBall") == "BabyAI-GoToRedBall-v0"
    assert find_grid("MiniGrid-ObstructedMaze-Full").endswith("-v1")
    with pytest.raises(UsageError, match="nearest are MiniGrid-Empty-5x5-v0"):
        make_env(configure("minigrid_Emty-5x5", "minigrid"), 0)


def test_console_games_are_found_and_need_a_process_each():
    pytest.importorskip("stable_retro")
    with pytest.raises(UsageError, match="use --envs_parallel process"):
        made("retro", envs_parallel="none")
    with pytest.raises(UsageError, match="nearest are Airstriker-Genesis"):
        make_env(configure("retro_Airstrike", "retro"), 0)
    with pytest.raises(UsageError, match="does not come with stable-retro"):
        make_env(configure("retro_SonicTheHedgehog-Genesis", "retro"), 0)
    env = made("retro", atari_grayscale=True, render_size=[48, 32])
    assert env.reset()["image"].shape == (48, 32, 1)
    assert env.render().shape == (224, 320, 3)
    env.close()


@pytest.mark.parametrize(
    "package, extra, task",
    [("minigrid", "minigrid", "minigrid_Empty-5x5"), ("stable_retro", "retro", "")],
)
def test_a_missing_package_is_named(monkeypatch, package, extra, task):
    monkeypatch.setitem(sys.modules, package, None)
    config = configure(task or "retro_Airstriker-Genesis", extra)
    with pytest.raises(UsageError, match=rf'pip install "dreamerv2-torch\[{extra}\]"'):
        make_env(config, 0)


def test_vectors_are_drawn_only_where_the_encoder_asks_for_an_image():
    pytest.importorskip("pygame")
    assert "image" not in made("cartpole").obs_space
    env = made("cartpole pixels")
    image = env.reset()["image"]
    env.close()  # Else pygame, left open, would crash the windows of other tests.
    assert image.shape == (64, 64, 3) and image.min() < 128 < image.max()
    gymnasium.register("Undrawn-v0", lambda render_mode=None: Flat())
    try:
        with pytest.raises(UsageError, match="cannot be rendered.*'\\$\\^'"):
            make_env(configure("gym_Undrawn-v0", "gym", **{SEES: "image"}), 0)
    finally:
        del gymnasium.registry["Undrawn-v0"]


class Flat(Counts):
    def render(self):
        return None


def test_rendering_takes_egl_else_osmesa_and_what_the_user_says(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    chosen = []
    for there in [("egl", "osmesa"), ("osmesa",), ()]:
        monkeypatch.setattr(mujoco_gl, "renders", there.__contains__)
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        mujoco_gl.choose_renderer()
        chosen.append(mujoco_gl.os.environ["MUJOCO_GL"])
    assert chosen == ["egl", "osmesa", "disable"]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    mujoco_gl.choose_renderer()
    assert mujoco_gl.os.environ["MUJOCO_GL"] == "glfw"


def test_no_renderer_is_one_sentence_that_names_the_packages(monkeypatch):
    backend = pytest.importorskip("dm_control._render")
    monkeypatch.setattr(backend, "BACKEND", "off")
    config = configure("dmc_cartpole_balance", "dmc_vision")
    with pytest.raises(UsageError, match="libegl1 .* libosmesa6 .* dmc_proprio"):
        make_env(config, 0)
    # Vectors need none.
    assert "position" in made("dmc proprio").reset()


def test_scalars_and_matrices_of_dmc_become_vectors():
    pytest.importorskip("dm_control")
    env = make_env(configure("dmc_walker_walk", "dmc_proprio"), 0)
    assert env.reset()["height"].shape == env.obs_space["height"].shape == (1,)
    spaces = made("dmc manip").obs_space
    assert spaces["jaco_arm/joints_pos"].shape == (12,)


def test_tuples_are_observed_by_their_places():
    env = made("blackjack")
    obs = env.reset()
    seen = {key for key in obs if key not in signal_spaces()}
    assert seen == {"part_0", "part_1", "part_2"}
