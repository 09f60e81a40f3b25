"""What every suite, every wrapper and every space promises to the agent."""

import copy
import math
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text
from gymnasium.spaces import Tuple as Tuples
from run_tools import TINY, episodes, events, metrics, ok, one_sentence, train_here

from dreamerv2.common import rendering
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
from dreamerv2.common.flatten import FlatAction, FlatObservation
from dreamerv2.common.gridworld import find_grid
from dreamerv2.common.wrappers import signal_spaces

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
    if "vision" in case and not (rendering.has_egl() or rendering.has_osmesa()):
        pytest.skip("neither EGL nor OSMesa")
    return make_env(configure(task, preset, **more, **changes), seed)


def play(make, episodes=2):
    """What an environment shows under random actions, one list per episode."""
    env = make()
    try:
        result = []
        for _ in range(episodes):
            result.append([env.reset()])
            while not result[-1][-1]["is_last"]:
                result[-1].append(env.step(drawn(env)))
        return env, result
    finally:
        getattr(env, "close", lambda: None)()


def drawn(env):
    action = env.act_space["action"].sample()
    return {"action": np.clip(action, -1, 1) if hasattr(action, "shape") else action}


def contract(make):
    """Checks all that holds for any environment; returns what was shown."""
    env, first = play(make)
    spaces, space = dict(env.obs_space), env.act_space["action"]
    assert set(signal_spaces()) < set(spaces) and set(env.act_space) == {"action"}
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
    again = play(make)[1]
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
    codes = env.unwrapped.gen_obs()["image"]
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
    for egl, osmesa in [(True, True), (False, True), (False, False)]:
        monkeypatch.setattr(rendering, "has_egl", lambda egl=egl: egl)
        monkeypatch.setattr(rendering, "has_osmesa", lambda osmesa=osmesa: osmesa)
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        rendering.choose_renderer()
        chosen.append(rendering.os.environ["MUJOCO_GL"])
    assert chosen == ["egl", "osmesa", "disable"]
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    rendering.choose_renderer()
    assert rendering.os.environ["MUJOCO_GL"] == "glfw"


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


# --- Flattening -------------------------------------------------------------------


def test_every_combination_of_discrete_parts_is_one_action():
    flat = FlatAction(MultiDiscrete([2, 3]))
    assert flat.space == Discrete(6)
    taken = [flat(i).tolist() for i in range(6)]
    assert taken == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    flat = FlatAction(MultiBinary(3))
    assert flat.space == Discrete(8) and flat(6).tolist() == [1, 1, 0]
    space = Dict({"jump": Discrete(2), "move": Tuples([Discrete(3, start=-1)])})
    flat = FlatAction(space)
    assert flat.space == Discrete(6)
    assert flat(5) == {"jump": 1, "move": (1,)} and flat(0)["move"] == (-1,)
    assert all(space.contains(flat(i)) for i in range(6))
    assert FlatAction(Discrete(3, start=5))(2) == 7
    assert FlatAction(MultiDiscrete([512])).space.n == 512
    with pytest.raises(UsageError, match="have 1024 combinations.*at most 512"):
        FlatAction(MultiBinary(10))


def test_boxes_of_any_nesting_are_one_vector():
    space = Tuples(
        [
            Box(-2, 2, (2, 2), np.float32),
            Dict({"gear": Box(0, 4, (1,), np.int64), "gas": Box(0, 1, ())}),
        ]
    )
    flat = FlatAction(space)
    assert flat.space.shape == (6,)
    # A dict's keys are in the order of Gymnasium: gas, then gear.
    assert flat.space.low.tolist() == [-2, -2, -2, -2, 0, 0]
    assert flat.space.high.tolist() == [2, 2, 2, 2, 1, 4]
    arm, rest = flat(np.float32([1, 2, -1, 0, 0.5, 2.6]))
    assert arm.tolist() == [[1, 2], [-1, 0]]
    assert rest["gas"] == 0.5 and rest["gear"].tolist() == [3]
    assert space.contains((arm, rest))


def test_a_mix_of_boxes_and_discrete_actions_is_refused():
    with pytest.raises(UsageError, match="mix boxes and discrete"):
        FlatAction(Dict({"steer": Box(-1, 1, (1,)), "honk": Discrete(2)}))
    with pytest.raises(UsageError, match="box or discrete actions"):
        FlatAction(Text(5))


def test_nested_observations_get_flat_names_without_slashes():
    space = Dict(
        {
            "robot": Dict({"arm/left": Box(-1, 1, (2, 3)), "grip": MultiBinary(2)}),
            "view": Tuples([Box(0, 255, (4, 4), np.uint8), Discrete(3, start=1)]),
            "dice": MultiDiscrete([2, 3]),
            "reward": Box(-1, 1, ()),
            "said": Text(9),
        }
    )
    flat = FlatObservation(space)
    shapes = {key: box.shape for key, box in flat.spaces.items()}
    assert shapes == {
        "robot_arm_left": (6,),
        "robot_grip": (2,),
        "view_0": (4, 4, 1),
        "view_1": (3,),
        "dice": (5,),
        "obs_reward": (1,),
    }
    for _ in range(20):
        given = space.sample()
        shown = flat(given)
        assert all(box.contains(shown[key]) for key, box in flat.spaces.items())
        assert shown["view_1"].argmax() == given["view"][1] - 1
        assert shown["dice"][:2].argmax() == given["dice"][0]
        assert shown["dice"][2:].argmax() == given["dice"][1]
        assert shown["dice"].sum() == 2
        assert shown["obs_reward"][0] == given["reward"]
        np.testing.assert_array_equal(shown["view_0"][..., 0], given["view"][0])
        arm = given["robot"]["arm/left"]
        np.testing.assert_array_equal(shown["robot_arm_left"], arm.ravel())


def test_tuples_are_observed_by_their_places():
    env = made("blackjack")
    obs = env.reset()
    seen = {key for key in obs if key not in signal_spaces()}
    assert seen == {"part_0", "part_1", "part_2"}


# --- Training ---------------------------------------------------------------------

MODULE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiDiscrete


class Two(gymnasium.Env):
    observation_space = Dict(
        left=Box(0, 255, (32, 32, 1), np.uint8),
        right=Box(0, 255, (32, 32, 3), np.uint8),
        body=Dict(speed=Box(-1, 1, (2,), np.float32)),
    )
    action_space = MultiDiscrete([2, 3])

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        return self.observation_space.sample(), float(action[1]), False, False, {}


gymnasium.register("Two-v0", Two)
"""
LITTLE = (
    "--render_size 32 32 --encoder.cnn_kernels 4 4 4 --decoder.cnn_kernels 5 6 6"
).split()


def trained(logdir, *flags):
    """What a few updates show: the last metrics and what was printed."""
    flags = [*flags, "--log_every", "10", "--eval_every", "1000", "--steps", "32"]
    result = ok(train_here(*flags, "--logdir", logdir))
    lines = metrics(logdir)
    assert all(math.isfinite(x) for line in lines for x in line.values())
    return [line for line in lines if "model_loss" in line][-1], result.out


def test_two_images_vectors_and_many_actions_learn_together(tmp_path, monkeypatch):
    (tmp_path / "two_images.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    task = ["--task", "gym_two_images:Two-v0"]
    video = ["--log_keys_video", "left", "right"]
    last, out = trained(tmp_path / "run", *TINY, *LITTLE, *task, *video)
    assert "The encoder sees left, right, body_speed; the decoder" in out
    assert {"left_loss", "right_loss", "body_speed_loss"} <= set(last)
    (episode, *_) = episodes(tmp_path / "run" / "train_episodes")
    assert episode["action"].shape[1] == 6
    # The second part of an action is its reward.
    taken = episode["action"][1:].argmax(-1) % 3
    np.testing.assert_array_equal(episode["reward"][1:], taken)
    images = events(tmp_path / "run").Tags()["images"]
    assert {"train_policy_left", "train_policy_right"} <= set(images)


def test_images_of_32x32_and_vectors_learn_together(tmp_path):
    last, out = trained(tmp_path, *TINY, *LITTLE, "--task", "toy_reach")
    assert {"image_loss", "position_loss", "target_loss"} <= set(last)


def test_the_error_for_another_size_names_flags_that_work(tmp_path):
    flags = [*TINY, "--task", "toy_reach", "--render_size", "32", "32"]
    said = one_sentence(train_here(*flags, "--logdir", tmp_path / "a"))
    advice = said.partition("use ")[2].partition(".cnn_kernels")
    found = said.partition("use ")[2].rstrip(".").partition(", or")[0].split()
    assert advice[1] and found[0] == "--encoder.cnn_kernels"
    trained(tmp_path / "b", *flags, *found)


def test_atari_learns_from_ram_alone(tmp_path):
    keys = ["--(encoder|decoder).mlp_keys", "ram", "--(encoder|decoder).cnn_keys", "$^"]
    flags = ["--configs", "atari", *TINY, *keys]
    last, out = trained(tmp_path, *flags, "--task", "atari_pong")
    assert "The encoder sees ram; the decoder predicts ram." in out
    assert "ram_loss" in last and "image_loss" not in last
    # Bytes are scaled to [-0.5, 0.5], so that all of them together stay small.
    assert last["ram_loss"] < 0.5 * 128 * (1 + math.log(2 * math.pi))
    (episode, *_) = episodes(tmp_path / "train_episodes")
    assert episode["ram"].dtype == np.uint8 and episode["ram"].shape[1] == 128
    assert "train_policy_image" in events(tmp_path).Tags()["images"]
