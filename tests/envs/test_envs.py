"""What the environments promise: Atari's protocol, GymWrapper, make_env."""

import sys
from concurrent.futures import ThreadPoolExecutor

import ale_py
import gymnasium
import numpy as np
import pytest
from ale_py import roms
from gymnasium.spaces import Box, Dict, Discrete, Text

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.envs import Atari, GymWrapper, make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.atari import find_rom
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.suites.resize import AreaResize
from dreamerv2.running.statefile import load_checkpoint, save_checkpoint

TWO_PLAYERS = ("combat", "joust", "maze_craze", "warlords")


def configure(task, *presets, **changes):
    config = Config(load_presets()["defaults"])
    for preset in presets:
        config = config.update(load_presets()[preset])
    return config.update({"task": task, **changes})


def record(env, steps=30, seed=0, reset=True):
    """Everything that an environment shows under random actions."""
    random = np.random.default_rng(seed)
    count = env.act_space["action"].n
    obs = [env.reset()] if reset else []
    for _ in range(steps):
        if obs and obs[-1]["is_last"]:
            obs.append(env.reset())
        obs.append(env.step({"action": int(random.integers(count))}))
    return obs


def equal(first, second):
    return all(
        all(np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(first, second, strict=True)
    )


# --- Resizing ---------------------------------------------------------------------


def test_area_resize_is_the_mean_over_the_area():
    image = np.array([[0, 90, 30], [60, 120, 255]], np.uint8)
    # 3 pixels to 2: the middle one belongs to both sides by half.
    np.testing.assert_array_equal(
        AreaResize((2, 3), (2, 2))(image), [[30, 50], [80, 210]]
    )
    np.testing.assert_array_equal(AreaResize((2, 3), (1, 1))(image), [[92]])
    np.testing.assert_array_equal(AreaResize((2, 3), (2, 3))(image), image)


@pytest.mark.parametrize("old", [(210, 160), (250, 160), (214, 160)])
def test_area_resize_agrees_with_the_mean_of_many_small_pixels(old):
    image = np.random.default_rng(0).integers(0, 256, old).astype(np.uint8)
    fine = np.kron(image, np.ones((64 // np.gcd(old[0], 64), 2), np.uint8))
    blocks = fine.reshape(64, fine.shape[0] // 64, 64, fine.shape[1] // 64)
    expected = np.rint(blocks.mean((1, 3), dtype=np.float64))
    np.testing.assert_array_equal(AreaResize(old, (64, 64))(image), expected)
    color = np.stack([image, image // 2, 255 - image], -1)
    resized = AreaResize(old, (64, 64))(color)
    assert resized.shape == (64, 64, 3) and resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[..., 0], expected)


# --- Atari ------------------------------------------------------------------------


def test_all_bundled_games_are_found_by_the_references_names():
    assert len(roms.get_all_rom_ids()) == 108
    for game in roms.get_all_rom_ids():
        if game in TWO_PLAYERS:
            with pytest.raises(UsageError, match=f"'{game}' is for two players"):
                find_rom(game)
        else:
            assert find_rom(game) == roms.get_rom_path(game)
            assert ale_py.ALEInterface.isSupportedROM(find_rom(game))


def test_other_spellings_are_found():
    spellings = dict(james_bond="jamesbond", river_raid="riverraid")
    spellings |= dict(SpaceInvaders="space_invaders", yarsrevenge="yars_revenge")
    for spelling, game in spellings.items():
        assert find_rom(spelling) == roms.get_rom_path(game)


@pytest.mark.parametrize("game", ["pong", "breakout", "james_bond", "krull", "tetris"])
def test_a_game_shows_what_its_spaces_say(game):
    env = Atari(game, seed=0)
    for obs in record(env, steps=5):
        assert set(obs) == set(env.obs_space)
        for key, space in env.obs_space.items():
            value = np.asarray(obs[key])
            assert value.dtype == space.dtype and space.contains(value), key
    assert obs["image"].shape == (64, 64, 1) and obs["ram"].shape == (128,)


def test_color_and_size_and_all_actions_are_chosen():
    env = Atari("pong", size=(32, 48), grayscale=False, all_actions=True, seed=0)
    assert env.act_space["action"].n == 18
    assert env.reset()["image"].shape == env.obs_space["image"].shape == (32, 48, 3)
    assert env.render().shape == (210, 160, 3)
    assert Atari("pong").act_space["action"].n == 6


def test_equal_seeds_give_equal_episodes_and_others_differ():
    first, second = record(Atari("breakout", seed=1)), record(Atari("breakout", seed=1))
    assert equal(first, second)
    assert not equal(first, record(Atari("breakout", seed=2)))


def test_resets_vary_the_number_of_noops():
    env = Atari("breakout", seed=0)
    starts = set()
    for _ in range(40):
        env.reset()
        starts.add(env._ale.getEpisodeFrameNumber())
    assert starts <= set(range(1, 31)) and len(starts) > 10


def test_sticky_actions_repeat_a_quarter_of_the_time():
    env = faked(sticky=True)
    env.reset()
    env._ale.acted = []
    for step in range(500):
        env.step({"action": 1 + step % 2})
    codes = [env._actions[1].value, env._actions[2].value]
    late = [action != codes[frame // 4 % 2] for frame, action in acted(env)]
    # The first frame of a step does what the one before did with a chance of 1/4, the
    # second with 1/16, as later ones repeat what already is the new action.
    assert abs(np.mean(late[0::4]) - 1 / 4) < 0.06
    assert abs(np.mean(late[1::4]) - 1 / 16) < 0.04
    env = faked()
    env.reset()
    env._ale.acted = []
    env.step({"action": 2})
    assert env._ale.acted == [env._actions[2].value] * 4


def acted(env):
    return list(enumerate(env._ale.acted))


@pytest.mark.parametrize("game", ["breakout", "seaquest"])
@pytest.mark.parametrize("steps", [0, 150])
def test_a_restored_game_goes_on_to_the_last_bit(game, steps, tmp_path):
    env, other = Atari(game, seed=1), Atari(game, seed=2)
    record(env, steps=steps)
    record(other, steps=40)
    save_checkpoint(tmp_path / "env", env.state_dict())
    other.load_state_dict(load_checkpoint(tmp_path / "env"))
    assert equal(*(record(x, 300, seed=1, reset=steps == 0) for x in (env, other)))


class FakeALE:
    """Frames whose pixels tell their number; ends at frame `end`."""

    def __init__(self, end=10**9, resets=()):
        self.end, self.frame, self.ends = end, 0, list(resets)
        self.acted = []

    def act(self, action):
        self.frame += 1
        self.acted.append(action)
        return self.frame

    def reset_game(self):
        self.end = self.ends.pop(0) if self.ends else self.end
        self.frame = 0
        self.acted = []

    def game_over(self, with_truncation=True):
        return self.frame >= self.end

    def screen(self, buffer):
        # Even and odd frames light different pixels, as flickering games do.
        buffer[:] = 0
        buffer[self.frame % 2 :: 2] = self.frame % 256

    def getRAM(self):
        return np.zeros(128, np.uint8)


def faked(end=10**9, repeat=4, resets=(), sticky=False):
    size = (210, 160)
    env = Atari("pong", action_repeat=repeat, size=size, sticky=sticky, seed=0)
    env._ale = FakeALE(end, resets)
    env._grab = env._ale.screen
    return env


def shown(obs):
    """The values in even and odd rows."""
    rows = obs["image"][:, :, 0]
    assert (rows[0::2] == rows[0, 0]).all() and (rows[1::2] == rows[1, 0]).all()
    return int(rows[0, 0]), int(rows[1, 0])


def test_an_action_is_held_and_the_last_two_frames_are_joined():
    env = faked()
    env.reset()
    env._ale.frame = 0
    env._ale.acted = []
    obs = env.step({"action": 2})
    assert obs["reward"] == 1 + 2 + 3 + 4 and obs["reward"].dtype == np.float32
    assert env._ale.acted == [env._actions[2].value] * 4
    assert shown(obs) == (4, 3)
    assert shown(env.step({"action": 0})) == (8, 7)


@pytest.mark.parametrize("repeat, frames", [(1, (0, 5)), (2, (6, 5)), (3, (6, 7))])
def test_other_repeats_join_no_frame_of_an_earlier_step(repeat, frames):
    env = faked(repeat=repeat)
    env.reset()
    env._ale.frame = 4
    assert shown(env.step({"action": 0})) == frames


@pytest.mark.parametrize(
    "end, frames", [(5, (0, 5)), (6, (6, 0)), (7, (0, 7)), (8, (8, 7))]
)
def test_the_end_of_the_game_is_shown_and_terminal(end, frames):
    env = faked()
    env.reset()
    env._ale.frame, env._ale.end = 0, end
    obs = env.step({"action": 0})
    assert not obs["is_last"]
    obs = env.step({"action": 0})
    assert obs["is_last"] and obs["is_terminal"]
    assert obs["reward"] == sum(range(5, end + 1))
    # Joined with the frame before only where both are among the usual last two.
    assert shown(obs) == frames


def test_a_game_that_ends_during_noops_starts_again():
    env = faked(resets=[1] * 40)
    obs = env.reset()
    assert len(env._ale.ends) < 39 and env._ale.frame == 0
    assert obs["is_first"] and not obs["is_last"]


def test_losing_a_life_ends_nothing():
    env = Atari("breakout", seed=0)
    env.reset()
    obs = env.step({"action": 1})
    for _ in range(400):
        if env._ale.lives() < 5:
            break
        obs = env.step({"action": 1})
    assert env._ale.lives() == 4
    assert not obs["is_last"] and not obs["is_terminal"]


def test_games_can_be_made_in_many_threads():
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda i: record(Atari("pong", seed=i), 3), [1, 2, 1, 2]))
    assert equal(made[0], made[2]) and equal(made[1], made[3])


# --- GymWrapper -------------------------------------------------------------------


class Gym(gymnasium.Env):
    """Counts; ends after 3 steps in the way it is told. Keeps what it returned."""

    def __init__(self, end="terminal", obs=None, act=None):
        self.end = end
        self.observation_space = obs or Box(-9.0, 9.0, (2,), np.float64)
        self.action_space = act or Discrete(3)
        self.seeds, self.actions = [], []

    def observe(self):
        self.kept = np.full(2, self.count, np.float64)
        return self.kept

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        self.count = 0
        return self.observe(), {}

    def step(self, action):
        self.actions.append(action)
        self.count += 1
        over = self.count == 3
        ends = [
            over and self.end in (kind, "both") for kind in ("terminal", "truncated")
        ]
        return self.observe(), 2.5, *ends, {}


class OldGym:
    """The interface of gym before 0.26."""

    observation_space = Box(0, 255, (4, 4, 3), np.uint8)
    action_space = Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, info=None):
        self.info = info or {}
        self.seeds = []

    def seed(self, seed):
        self.seeds.append(seed)

    def reset(self):
        return np.zeros((4, 4, 3), np.uint8)

    def step(self, action):
        return np.ones((4, 4, 3), np.uint8), 1, True, self.info

    def render(self, mode="human"):
        return np.zeros((4, 4, 3), np.uint8) if mode == "rgb_array" else None


class DictGym(Gym):
    def __init__(self):
        spaces = {
            "image": Box(0, 255, (4, 4, 3), np.uint8),
            "level": Discrete(4, start=2),
            "words": Text(5),
            "ints": Box(0, 9, (2,), np.int64),
        }
        super().__init__(obs=Dict(spaces), act=Discrete(3, start=5))

    def observe(self):
        self.kept = {
            "image": np.zeros((4, 4, 3), np.uint8),
            "level": 3,
            "words": "hello",
            "ints": np.array([1, 2]),
        }
        return self.kept


@pytest.mark.parametrize(
    "end, terminal", [("terminal", True), ("truncated", False), ("both", True)]
)
def test_a_truncation_ends_without_being_terminal(end, terminal):
    env = GymWrapper(Gym(end))
    obs = [env.reset()] + [env.step({"action": 0}) for _ in range(3)]
    assert [o["is_first"] for o in obs] == [True, False, False, False]
    assert [o["is_last"] for o in obs] == [False, False, False, True]
    assert [o["is_terminal"] for o in obs] == [False, False, False, terminal]
    assert [float(o["reward"]) for o in obs] == [0, 2.5, 2.5, 2.5]
    np.testing.assert_array_equal(
        [o["vector"] for o in obs], [[i, i] for i in range(4)]
    )
    assert obs[0]["vector"].dtype == env.obs_space["vector"].dtype == np.float32


@pytest.mark.parametrize(
    "info, terminal", [({}, True), ({"TimeLimit.truncated": True}, False)]
)
def test_old_gym_environments_work(info, terminal):
    inner = OldGym(info)
    env = GymWrapper(inner, seed=3)
    assert env.reset()["image"].shape == (4, 4, 3)
    obs = env.step({"action": np.zeros(1, np.float32)})
    assert obs["is_last"] and obs["is_terminal"] == terminal
    assert inner.seeds == [3]
    assert env.render().shape == (4, 4, 3)


def test_dicts_are_converted_and_never_changed():
    inner = DictGym()
    env = GymWrapper(inner)
    env.reset()
    obs = env.step({"action": 2})
    assert set(inner.kept) == {"image", "level", "words", "ints"}
    assert inner.kept["level"] == 3
    assert set(obs) == set(env.obs_space)
    assert set(obs) - set(signal_spaces()) == {"image", "level", "ints"}
    np.testing.assert_array_equal(obs["level"], [0, 1, 0, 0])
    assert obs["ints"].dtype == np.int32
    assert inner.actions == [7]  # The third action of a space that starts at 5.


def test_observations_are_copies():
    inner = Gym()
    inner.observation_space = Box(-9, 9, (2,), np.float32)
    shared = np.zeros(2, np.float32)
    inner.observe = lambda: shared
    assert not np.shares_memory(GymWrapper(inner).reset()["vector"], shared)


def test_the_seed_goes_into_the_first_reset_alone():
    inner = Gym()
    env = GymWrapper(inner, seed=7)
    env.reset()
    env.reset()
    assert inner.seeds == [7, None]


def test_a_missing_attribute_is_an_attribute_error():
    env = GymWrapper(Gym(end="both"))
    assert env.end == "both"
    assert not hasattr(env, "nothing")


def test_spaces_that_cannot_be_used_are_the_users_fault():
    with pytest.raises(UsageError, match="Expected a box"):
        GymWrapper(Gym(obs=Text(5)))
    with pytest.raises(UsageError, match="box or discrete actions"):
        GymWrapper(Gym(act=Text(5)))


# --- make_env ---------------------------------------------------------------------


def test_atari_comes_wrapped():
    env = make_env(configure("atari_pong", "atari", time_limit=4), seed=0)
    space = env.act_space["action"]
    assert space.discrete and space.shape == (6,)
    env.reset()
    obs = [env.step({"action": space.sample()}) for _ in range(4)]
    assert [o["is_last"] for o in obs] == [False, False, False, True]
    assert not obs[-1]["is_terminal"]
    assert obs[0]["image"].shape == (64, 64, 1)
    config = configure("atari_pong", "atari", "atari_paper", atari_grayscale=False)
    env = make_env(config, seed=0)
    assert env.act_space["action"].n == 18
    assert env.obs_space["image"].shape == (64, 64, 3)


def test_toys_come_wrapped_and_render_only_where_the_encoder_looks():
    env = make_env(configure("toy_catch"), seed=0)
    assert env.act_space["action"].n == 3
    env.reset()
    assert env.step({"action": env.oracle()})["image"].shape == (64, 64, 1)
    changes = {"encoder.cnn_keys": "$^"}
    env = make_env(configure("toy_reach", **changes), seed=0)
    assert "image" not in env.obs_space
    env = make_env(configure("toy_reach", action_repeat=2), seed=0)
    assert "image" in env.obs_space
    start = env.reset()["position"]
    moved = env.step({"action": np.float32([0.1, 0])})["position"] - start
    assert abs(moved[0] - 0.04) < 1e-6 or start[0] > 0.95


def test_gym_environments_come_by_their_id():
    env = make_env(configure("gym_CartPole-v1"), seed=0)
    assert env.obs_space["vector"].shape == (4,)
    assert env.act_space["action"].discrete
    env.reset()
    assert env.step({"action": np.float32([0, 1])})["reward"] == 1
    env = make_env(configure("gym_Pendulum-v1", time_limit=3), seed=0)
    np.testing.assert_array_equal(env.act_space["action"].high, [1])
    env.reset()
    ends = [env.step({"action": np.float32([1])}) for _ in range(3)]
    assert [o["is_last"] for o in ends] == [False, False, True]


def test_seeds_reach_environment_and_random_actions():
    config = configure("toy_reach")

    def draw(seed):
        env = make_env(config, seed)
        return [*env.reset()["position"], *env.act_space["action"].sample()]

    assert draw(1) == draw(1)
    assert all(a != b for a, b in zip(draw(1), draw(2), strict=True))


@pytest.mark.parametrize(
    "task, message",
    [
        ("atary_pong", "Unknown task 'atary_pong'.*nearest is atari"),
        ("pong", "expected SUITE_NAME"),
        ("atari_ponk", "Unknown Atari game 'ponk': the nearest are pong"),
        ("atari_", "Unknown task"),
        ("toy_cat", "did you mean toy_catch"),
        ("gym_CartPoel-v1", "no environment 'CartPoel-v1'.*CartPole-v1"),
        ("gym_CartPole-v99", "no environment"),
        ("gym_no.such.module:Thing-v0", "no environment"),
        ("crafter_rewards", "did you mean crafter_reward"),
    ],
)
def test_an_unknown_task_names_the_nearest(task, message):
    with pytest.raises(UsageError, match=message):
        make_env(configure(task), seed=0)


@pytest.mark.parametrize(
    "task, extra", [("crafter_reward", "crafter"), ("dmc_walker_walk", "dmc")]
)
def test_a_missing_package_comes_with_the_command_to_install_it(
    monkeypatch, task, extra
):
    module = dict(crafter="crafter", dmc="dm_control")[extra]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf'pip install "dreamerv2-torch\[{extra}\]"'):
        make_env(configure(task), seed=0)


def test_crafter_counts_achievements_and_tells_death_from_the_end_of_the_day():
    pytest.importorskip("crafter")
    env = make_env(configure("crafter_reward", "crafter"), seed=0)
    obs = env.reset()
    total, ended = 0.0, None
    for _ in range(3000):
        obs = env.step({"action": env.act_space["action"].sample()})
        assert obs["reward"] == obs["log_reward"]
        total += float(obs["reward"])
        if obs["is_last"]:
            ended = obs
            break
    assert ended is not None and ended["is_terminal"]
    logs = {k: v for k, v in obs.items() if k.startswith("log_achievement_")}
    assert len(logs) == 22 and all(v.dtype == np.int32 for v in logs.values())
    assert obs["image"].shape == (64, 64, 3)
    env = make_env(configure("crafter_noreward", "crafter"), seed=0)
    logged = 0
    for _ in range(5):
        obs = env.reset()
        while not obs["is_last"] and not logged:
            obs = env.step({"action": env.act_space["action"].sample()})
            assert obs["reward"] == 0
            logged += obs["log_reward"] != 0
    assert logged


@pytest.fixture
def dmc():
    return pytest.importorskip("dm_control.suite")


def test_dmc_observes_vectors_and_renders_only_where_the_encoder_looks(dmc):
    config = configure("dmc_walker_walk", "dmc_proprio", time_limit=3)
    env = make_env(config, seed=0)
    obs = env.reset()
    assert set(obs) == set(env.obs_space)
    assert "image" not in obs
    assert obs["orientations"].dtype == np.float32
    assert obs["orientations"].shape == env.obs_space["orientations"].shape == (14,)
    ends = [env.step({"action": np.ones(6, np.float32)}) for _ in range(3)]
    assert [(o["is_last"], o["is_terminal"]) for o in ends] == [(False, False)] * 2 + [
        (True, False)
    ]
    again = make_env(config, seed=0).reset()
    np.testing.assert_array_equal(obs["orientations"], again["orientations"])
    other = make_env(config, seed=1).reset()
    assert (obs["orientations"] != other["orientations"]).any()


@pytest.mark.parametrize("name", ["cup_catch", "manip_reach_site", "quadruped_run"])
def test_dmc_knows_the_other_domains(dmc, name):
    env = make_env(configure(f"dmc_{name}", "dmc_proprio"), seed=0)
    assert set(env.reset()) == set(env.obs_space)
    assert (0,) not in [space.shape for space in env.obs_space.values()]
    assert env._env._env._camera == (2 if name == "quadruped_run" else 0)


def test_dmc_names_the_nearest_task(dmc):
    for name, near in [("walker_wlak", "walker_walk"), ("manip_x", "manip_")]:
        with pytest.raises(UsageError, match=f"did you mean dmc_{near}"):
            make_env(configure(f"dmc_{name}"), seed=0)


def test_dmc_refuses_actions_that_are_not_finite(dmc):
    env = make_env(configure("dmc_walker_walk", "dmc_proprio"), seed=0)
    env.reset()
    with pytest.raises(ValueError, match="finite"):
        env.step({"action": np.full(6, np.nan, np.float32)})
