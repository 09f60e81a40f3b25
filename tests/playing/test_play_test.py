"""play_test.py: a person plays through the agent's wrappers, and keeps episodes."""

import sys
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from PIL import Image
from play_tools import Typist, captions, cells, command, press, refusal
from run_tools import TINY, episodes, ok, train_here

from dreamerv2 import play_test
from dreamerv2.common.episodes.episode import signature
from dreamerv2.common.replay import Replay
from dreamerv2.playing import options
from dreamerv2.playing.keys import Script
from dreamerv2.playing.player import step_rate
from dreamerv2.playing.window import play as play_window

pytestmark = pytest.mark.usefixtures("one_thread")


def make(task, save="", *flags):
    config = options.run_config(["--task", task, *flags])
    return play_test.make_player(config, save, scale=2)


@pytest.fixture
def player():
    player = make("toy_catch")
    yield player
    player.close()


def test_the_persons_keys_play(player):
    player.press("left")
    press(player, "", 2)
    assert player.action.tolist() == [1, 0, 0]
    player.release("left")
    press(player, "", 1)
    assert player.action.tolist() == [0, 1, 0]
    assert cells(player) == {
        "reward": "+0.00",
        "return": "0.00",
        "step": "3",
        "in control": "person",
        "action": "stay",
    }


def test_reward_and_return_are_those_of_the_episode(player):
    press(player, "", 23)  # Three balls.
    assert player.obs["is_last"]
    assert cells(player)["step"] == "23"
    assert float(cells(player)["return"]) in (-3, -1, 1, 3)
    assert "episode over" in player.strip()
    press(player, "", 1)
    assert cells(player)["step"] == "0" and cells(player)["return"] == "0.00"


def test_the_real_screen_is_beside_what_the_agent_sees():
    player = make("atari_pong")
    press(player, "", 2)
    (_, screen), (caption, seen) = player._scene().panes
    assert screen.shape == (210, 160, 3)
    assert caption == "agent: 64x64" and seen.shape == (64, 64, 1)
    assert seen is player.obs["image"] or (seen == player.obs["image"]).all()
    assert player.rate == 15
    press(player, "m")
    assert captions(player) == ["agent: 64x64"]
    press(player, "m")
    assert captions(player) == ["screen"]
    press(player, "v")
    assert captions(player) == ["screen", "agent: 64x64"]


def test_l_lets_chance_play(player):
    press(player, "l", 12)
    assert cells(player)["in control"] == "random"
    moves = [int(step["action"].argmax()) for step in player._episode[1:]]
    assert len(set(moves)) == 3
    press(player, "l", 1)
    assert player.control == "person"


@pytest.mark.parametrize("key", ["r", "f"])
def test_r_and_f_begin_a_new_episode(player, key):
    press(player, "", 5)
    press(player, key)
    assert player.obs["is_first"] and cells(player)["step"] == "0"


def test_pause_step_speed_help_and_leave(player):
    press(player, "p", 2)
    assert cells(player)["step"] == "0"
    press(player, ".", 2)
    assert cells(player)["step"] == "1"
    press(player, "+")
    assert player.speed == 2
    press(player, "-")
    assert player.speed == 1
    before = player.frame()
    press(player, "f1")
    assert (player.frame() != before).any()
    listed = {key for row, _ in player.keys_help() for key in row.lower().split()}
    assert listed >= {*"mvlrfp.+-", "esc", "f1", "left", "right"}
    press(player, "esc")
    assert player.done


def test_kept_episodes_can_be_trained_on_like_the_agents_own(tmp_path):
    logdir, kept = tmp_path / "run", tmp_path / "kept"
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", logdir, "--steps", 6))
    flags = ["--logdir", logdir, "--headless", "--save", kept, "--time_limit", "0"]
    result = command(play_test, *flags, "--steps", 30, "--keys", "2:left*9")
    assert result.code == 0, result.err
    first, second = episodes(kept)
    assert len(first["reward"]) == 24 and first["is_terminal"][-1]
    # The second was left in the middle: it ends there as by a time limit.
    assert len(second["reward"]) == 7
    assert second["is_last"].tolist() == [False] * 6 + [True]
    assert not second["is_terminal"].any()
    assert not first["action"][0].any() and (first["action"][1:].sum(-1) == 1).all()
    own = episodes(logdir / "train_episodes")[0]
    assert signature(first) == signature(own)
    replay = Replay(kept)
    assert replay.stats["total_steps"] == 29
    with closing(replay.dataset(2, 5)) as batches:
        assert next(batches)["image"].shape == (2, 5, 64, 64, 1)


def test_nothing_is_kept_of_an_episode_without_steps(tmp_path):
    player = make("toy_catch", str(tmp_path))
    press(player, "r r r")
    player.close()
    assert not list(tmp_path.glob("*.npz"))


def test_an_environment_of_gymnasium_shows_its_screen_and_the_agents_vector():
    pytest.importorskip("pygame")
    player = make("gym_CartPole-v1")
    press(player, "right", 1)
    assert player.action.tolist() == [0, 1]
    panes = dict(player._scene().panes)
    assert panes["screen"].ndim == 3 and panes["screen"].min() < 200
    assert panes["agent: vector"].shape == (64, 64, 1)
    assert player.frame().any()
    player.close()


@pytest.mark.parametrize(
    "env_id, task",
    [
        ("CartPole-v1", "gym_CartPole-v1"),
        (
            "SpaceInvaders-v0",
            "gym_SpaceInvaders-v0",
        ),
        ("SpaceInvadersDeterministic-v4", "atari_space_invaders"),
        ("Pong-ramNoFrameskip-v4", "atari_pong"),
        ("NoSuchGame-v0", "gym_NoSuchGame-v0"),
    ],
)
def test_old_names_of_atari_games_are_understood(env_id, task):
    assert play_test.task_of(env_id) == task


def test_an_old_atari_name_is_played_at_its_own_speed(tmp_path):
    path = tmp_path / "end.png"
    flags = ["--env", "SpaceInvaders-v0", "--headless", "--steps", 3]
    assert command(play_test, *flags, "--record", path).code == 0
    with Image.open(path) as image:
        assert len(np.unique(np.asarray(image))) > 10
    env = gymnasium.make("SpaceInvaders-v0")
    assert 15 < step_rate("gym_SpaceInvaders-v0", 1, env) < 31
    env.close()


def test_headless_scripts_write_what_is_seen(tmp_path):
    path = tmp_path / "play.gif"
    flags = ["--task", "toy_reach", "--headless", "--scale", 1, "--record", path]
    result = command(play_test, *flags, "--keys", "2:up*3 4:l 6:f1")
    assert result.code == 0, result.err
    assert "step 4, l: RANDOM PLAYS" in result.out
    with Image.open(path) as image:
        assert image.n_frames == 8


def test_a_window_is_driven_by_the_keyboard(monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    player = make("toy_catch")
    player.rate = 500
    Typist(player, {2: ["m"], 4: ["l"], 9: ["escape"]})
    play_window(player, "A test", Script(), 0, False, "")
    assert (player.view, player.control, player.done) == ("agent", "random", True)


def test_atari_is_played_as_the_agent_trains_unless_told_otherwise():
    config = options.run_config(["--task", "atari_pong"])
    assert (config.action_repeat, config.time_limit) == (4, 27000)
    argv = ["--configs", "defaults", "--task", "atari_pong"]
    assert options.run_config(argv).action_repeat == 1


def test_help_names_the_own_flags(capsys):
    with pytest.raises(SystemExit) as leave:
        play_test.main(["--help"])
    assert leave.value.code == 0
    shown = capsys.readouterr().out
    for name in play_test.OPTIONS:
        assert f"--{name}" in shown


def test_no_display_and_no_pygame_are_one_sentence_each(monkeypatch):
    flags = ["--task", "toy_catch"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pygame", None)
        assert "install it with pip" in refusal(play_test, *flags)
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert refusal(play_test, *flags).startswith("There is no display")


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--env NoSuchGame-v0", "Gymnasium has no environment 'NoSuchGame-v0'"),
        ("--task atari_pomg", "the nearest are pong"),
        ("--task toy_catch --keys 3:hyper", "--keys has the word '3:hyper'"),
        ("--task toy_catch --save /dev/null/x", "Cannot write /dev/null/x"),
        ("--task toy_catch --record /dev/null/x.gif", "Cannot write"),
    ],
)
def test_mistakes_are_one_sentence_each(flags, words):
    assert words in refusal(play_test, "--headless", *flags.split())


def test_bars_of_a_vector_point_up_and_down():
    picture = play_test.bars(np.array([1e9, -1e9, 0.0]))
    assert picture[1:31, :10].all() and not picture[33:, :10].any()
    assert picture[33:63, 25:35].all() and not picture[:31, 25:35].any()
    assert not picture[:31, 45:].any() and not picture[33:, 45:].any()
