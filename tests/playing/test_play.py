"""play.py: every key does what it says, and a dream gets no observations."""

import numpy as np
import pytest
import torch
from play_tools import (
    captions,
    cells,
    command,
    make_player,
    press,
    refusal,
    save_agent,
)
from run_tools import TINY, ok, train_here

from dreamerv2 import play
from dreamerv2.common.errors import UsageError
from dreamerv2.playing.dreamplayer import StoredEpisode
from dreamerv2.running.exporting import export_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """What train.py leaves of a short run."""
    folder = tmp_path_factory.mktemp("catch")
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", folder, "--steps", 24))
    return folder


@pytest.fixture
def player(logdir):
    player = make_player(logdir)
    yield player
    player.close()


def test_m_and_v_choose_between_environment_model_and_both(player):
    press(player, "", 2)
    assert captions(player) == ["environment", "model", "difference"]
    both = player.frame()
    press(player, "m")
    assert captions(player) == ["model"]
    press(player, "m")
    assert captions(player) == ["environment"]
    assert (player._scene().panes[0][1] == player.obs["image"]).all()
    assert (player.frame() != both).any()
    press(player, "v")
    assert captions(player) == ["environment", "model", "difference"]
    note = player.canvas._bottom  # Below it, a note says what was pressed.
    assert (player.frame()[:note] == both[:note]).all()


def test_the_difference_is_the_model_less_the_environment(player):
    (_, real), (_, model), (_, difference) = player._scene().panes
    expected = (model.astype(int) - real) // 2 + 128
    assert (difference == expected).all()


def test_k_and_l_choose_who_plays(player):
    wanted = "k person k agent l random l person l random k agent".split()
    for key, who in zip(wanted[::2], wanted[1::2], strict=True):
        press(player, key)
        assert player.control == who
        assert cells(player)["in control"] == who
        assert f"in control {who}" in player.strip()


def test_a_persons_keys_are_the_actions_of_game_and_dream(player):
    press(player, "k")
    for begin in ("", "i"):
        press(player, begin)
        player.press("left")
        press(player, "", 1)
        assert player.action.tolist() == [1, 0, 0]
        player.release("left")
        press(player, "right", 1)  # Came up before the step, and counts.
        assert player.action.tolist() == [0, 0, 1]
        press(player, "", 1)
        assert player.action.tolist() == [0, 1, 0]
        assert cells(player)["action"] == "stay"


class Blind:
    """A game that shows noise from some moment on."""

    def __init__(self, env):
        self.env, self.blind, self.actions = env, False, []

    def reset(self):
        return self.env.reset()

    def step(self, action):
        self.actions.append(action["action"])
        obs = self.env.step(action)
        if self.blind:
            noise = np.random.default_rng(0).integers(0, 256, obs["image"].shape)
            obs = {**obs, "image": noise.astype(np.uint8)}
        return obs

    def close(self):
        self.env.close()


def test_a_dream_gets_no_observations_and_goes_on_from_the_actions_alone(logdir):
    dreams = []
    for blind in (False, True):
        player = make_player(logdir)
        player._env = Blind(player._env)
        press(player, "", 3)
        press(player, "i")
        player._env.blind = blind
        before, pictures = len(player._env.actions), []
        for _ in range(8):
            press(player, "", 1)
            pictures.append(player.reading.images[0])
        dreams.append(np.stack(pictures))
        # The game goes on beside it, with the dream's actions.
        assert len(player._env.actions) == before + 8
        assert (player._env.actions[-1] == player.action).all()
        assert cells(player)["KL"] == "-"
    assert (dreams[0] == dreams[1]).all()
    assert len(np.unique(dreams[0], axis=0)) == 8


def test_what_the_real_game_shows_does_reach_the_model_outside_of_dreams(logdir):
    logits = []
    for blind in (False, True):
        player = make_player(logdir)
        player._env = Blind(player._env)
        player._env.blind = blind
        press(player, "", 3)
        logits.append(player.state["logit"])
    assert not torch.equal(*logits)


def test_i_begins_and_ends_a_dream(player):
    press(player, "", 2)
    assert "REAL GAME   step 2" in player.strip()
    press(player, "i")
    assert torch.equal(player.dream["deter"], player.state["deter"])
    press(player, "", 4)
    assert "DREAM   4 steps" in player.strip()
    assert captions(player) == ["environment", "dream", "difference"]
    assert player.game_step == 6
    press(player, "i", 1)
    assert not player.dreaming
    assert "REAL GAME   step 7" in player.strip()
    assert float(cells(player)["KL"]) == pytest.approx(player.kl, abs=0.01)


def test_c_dreams_anew_from_the_real_frame(player):
    press(player, "i", 4)
    assert not torch.equal(player.dream["deter"], player.state["deter"])
    press(player, "c")
    assert torch.equal(player.dream["deter"], player.state["deter"])
    assert (player.dream_step, player.futures) == (0, 1)


def test_b_takes_a_dream_back_to_the_very_same_moment(player):
    press(player, "b", 1)
    assert "Only a dream" in player.note
    press(player, "i", 2)
    earlier, state = player.reading.images, player.dream
    press(player, "", player.REWIND)
    later = player.reading.images
    assert (later != earlier).any()
    press(player, "b")
    assert (player.reading.images == earlier).all()
    assert player.dream is state
    assert player.dream_step == 2
    stood = player.game_step
    press(player, "", 3)
    assert player.game_step == stood  # It cannot be taken back, so it stands still.
    assert captions(player)[0] == "environment\nstands still"
    press(player, "b b b")
    assert player.dream_step == 0
    press(player, "i", 1)
    assert player.game_step == stood + 1


def test_n_dreams_different_futures_of_one_moment_and_goes_on_with_one(player):
    press(player, "n")
    assert player.dreaming and player.futures == 4
    images = player.reading.images
    assert (images == images[:1]).all()
    press(player, "", 3)
    images = player.reading.images
    assert len(np.unique(images, axis=0)) == 4
    shown = [caption[:8] for caption in captions(player)]
    assert shown == ["environm", *(f"future {i}" for i in range(1, 5))]
    press(player, "n")
    assert player.futures == 1
    assert (player.reading.images == images[:1]).all()
    press(player, "b", 1)  # Back where there was one, or four: both go on.
    assert player.dreaming


def test_r_forgets_what_was_seen_and_leaves_the_game_where_it_is(player):
    press(player, "", 5)
    first = player._stepper.observe(
        player._stepper.initial(1), player.action * 0, player.obs, True
    )[0]
    assert not torch.equal(player.state["deter"], first["deter"])
    press(player, "r")
    assert torch.equal(player.state["deter"], first["deter"])
    assert player.game_step == 5
    press(player, "i", 2)
    press(player, "r")
    assert not any(value.any() for value in player.dream.values())
    press(player, "", 1)


def test_f_resets_the_environment_too(player):
    press(player, "", 5)
    press(player, "f")
    assert player.game_step == 0 and player.obs["is_first"]
    press(player, "i", 3)
    press(player, "f")
    assert player.dreaming and player.dream_step == 0 and player.obs["is_first"]
    assert torch.equal(player.dream["deter"], player.state["deter"])


def test_pause_and_single_step(player):
    press(player, "p", 3)
    assert player.game_step == 0 and "PAUSED" in player.strip()
    press(player, ".", 3)
    assert player.game_step == 1
    press(player, "p", 3)
    assert player.game_step == 4 and "PAUSED" not in player.strip()
    press(player, ".", 3)
    assert player.paused and player.game_step == 5


def test_plus_and_minus_change_the_speed_within_bounds(player):
    assert player.speed == 1
    press(player, "+")
    assert player.speed == 2 and "x2" in player.strip()
    press(player, "- -")
    assert player.speed == 0.5
    press(player, "+ " * 20)
    assert player.speed == 8
    press(player, "- " * 20)
    assert player.speed == 0.125


def test_f1_lists_every_key_and_the_games_own(player):
    before = player.frame()
    press(player, "f1")
    assert (player.frame() != before).any()
    keys = {key for row, _ in player.keys_help() for key in row.lower().split()}
    assert keys >= {*"mklirfvp.+-bnc", "esc", "f1", "left", "right"}
    press(player, "f1")
    assert (player.frame() == before).all()


def test_esc_leaves(player):
    press(player, "esc", 3)
    assert player.done and player.steps == 0


def test_frames_have_one_size_whatever_is_shown(player):
    shape = (*player.canvas.size, 3)
    for key in "m m v f1 f1 i n n i p".split():
        press(player, key, 1)
        frame = player.frame()
        assert (frame.shape, frame.dtype) == (shape, np.uint8)
    assert shape[0] % 2 == shape[1] % 2 == 0


def test_a_note_fades_after_some_seconds(player):
    assert "F1 all keys" in player.note
    note = player.canvas._bottom
    shown = player.frame()[note:]
    press(player, "", int(player.rate * (player.NOTE_SECONDS + player.FADE_SECONDS)))
    gone = player.frame()[note:]
    assert shown.max() > 200 and gone.max() < 40
    press(player, "k")
    assert player.frame()[note:].max() > 200


def test_the_game_begins_anew_after_its_end(player):
    press(player, "", 20)  # By the time limit of the run.
    assert player.over and "game over" in player.strip()
    press(player, "", 1)
    assert player.game_step == 0 and not player.over


def test_a_dream_outlives_the_game(player):
    press(player, "", 18)
    press(player, "i", 10)
    assert player.over and player.parted
    assert (player.game_step, player.dream_step) == (20, 10)
    press(player, "i", 1)
    assert player.game_step == 1


def test_the_strip_shows_what_the_heads_predict(player):
    press(player, "", 2)
    shown, reading = cells(player), player.reading
    assert float(shown["predicted"]) == pytest.approx(reading.reward[0], abs=0.01)
    assert float(shown["value"]) == pytest.approx(reading.value[0], abs=0.01)
    assert float(shown["discount"]) == pytest.approx(reading.discount[0], abs=0.01)
    assert 0 < reading.discount[0] < 1


def test_vectors_and_continuous_actions_are_played_too(tmp_path):
    player = make_player(save_agent(tmp_path, "--task", "toy_reach"))
    assert set(player.obs) >= {"position", "target"}
    press(player, "k")
    player.press("up")
    press(player, "", 1)
    assert player.action.tolist() == [0, 1]
    press(player, "i n l", 3)
    assert player.futures == 4
    assert player.frame().any()


def test_a_stored_episode_takes_the_place_of_an_environment(logdir, monkeypatch):
    def missing(*args, **kwargs):
        raise UsageError("The package crafter is missing: install it.")

    monkeypatch.setattr(play, "make_env", missing)
    result = command(play, "--logdir", logdir, "--headless", "--keys", "5:i 6:k 7:left")
    assert result.code == 0, result.err
    assert "The package crafter is missing: install it. Until then" in result.out
    assert "in control episode" not in result.out.splitlines()[-1]
    player = make_player(logdir)
    assert isinstance(player._env, StoredEpisode)
    press(player, "", 3)
    assert cells(player)["in control"] == "episode"
    assert (player.action == player._env._episode["action"][3]).all()
    press(player, "i", 4)
    assert player.parted and player.dream_step == 4


def test_an_episode_can_be_named(logdir):
    path = sorted((logdir / "train_episodes").glob("*.npz"))[0]
    player = make_player(logdir, str(path))
    with np.load(path) as file:
        press(player, "", 2)
        assert (player.obs["image"] == file["image"][2]).all()
        steps = len(file["is_first"]) - 1
    press(player, "", steps - 2)
    assert player.over
    press(player, "", 1)
    assert player.game_step == 0


def test_an_exported_agent_dreams_without_its_run_and_its_game(
    logdir, tmp_path, monkeypatch
):
    export_run(logdir, tmp_path / "out", name="mine")
    sizes = []
    for source in (logdir, tmp_path / "out"):
        result = ok(
            command(play, "--logdir", source, "--headless", "--keys", "3:i 9:p")
        )
        sizes.append(result.out.count("step"))
    assert sizes[0] == sizes[1] > 0

    def missing(*args, **kwargs):
        raise UsageError("The emulator is missing.")

    monkeypatch.setattr(play, "make_env", missing)
    flags = "--headless", "--keys", "3:i 9:p"
    result = ok(command(play, "--logdir", tmp_path / "out", *flags))
    assert "The emulator is missing. Until then, the dream starts from" in result.out


def test_without_a_logdir_an_agent_that_comes_along_is_played(
    logdir, tmp_path, monkeypatch
):
    export_run(logdir, tmp_path, name="freeway")
    export_run(logdir, tmp_path / "b", name="boxing")
    bases = {"boxing": tmp_path / "b" / "boxing", "freeway": tmp_path / "freeway"}
    monkeypatch.setattr(play, "shipped_agents", lambda: bases)
    assert play.choose_shipped(asks=True) == "boxing"
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: "2")
    assert play.choose_shipped(asks=True) == "freeway"
    assert play.choose_shipped(asks=False) == "boxing"
    monkeypatch.setattr(play, "shipped_agents", dict)
    assert refusal(play, "--headless") == (
        "No --logdir was given: name the folder of a trained agent."
    )
