"""play.py as a command: its config, its files, its window, and what it refuses."""

import io
import sys

import pytest
from PIL import Image
from play_tools import Typist, command, make_player, refusal, save_agent
from run_tools import TINY, ok, train_here

from dreamerv2 import play
from dreamerv2.common.config import Config
from dreamerv2.playing import options
from dreamerv2.playing.keys import Script
from dreamerv2.playing.window import play as play_window
from dreamerv2.running.statefile import save_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """What train.py leaves of a short run."""
    folder = tmp_path_factory.mktemp("catch")
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", folder, "--steps", 24))
    return folder


def gif_frames(path):
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        return image.n_frames


def test_the_config_comes_from_the_logdir_and_flags_change_it(logdir):
    config = options.run_config(["--logdir", str(logdir), "--seed", "7"])
    assert (config.task, config.rssm.deter, config.seed) == ("toy_catch", 8, 7)
    assert not config.jit
    argv = ["--configs", "defaults", "atari", "--logdir", str(logdir)]
    assert options.run_config(argv).rssm.deter == 600


def test_the_config_of_another_version_is_filled_up(tmp_path):
    save_agent(tmp_path, "--task", "toy_catch")
    values = Config.read(tmp_path / "config.yaml").to_dict()
    del values["eval_noise"]
    Config({**values, "older": 1}).save(tmp_path / "config.yaml")
    assert options.run_config(["--logdir", str(tmp_path)]).rssm.deter == 8


def test_a_headless_script_writes_what_is_seen(logdir, tmp_path):
    flags = ["--logdir", logdir, "--headless", "--scale", 2, "--steps", 8]
    path = tmp_path / "new" / "dream.gif"
    result = command(play, *flags, "--keys", "i", "3:k", "5:n", "--record", path)
    assert result.code == 0, result.err
    assert gif_frames(path) == 8
    told = [line for line in result.out.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in told] == [
        "step 0, i",
        "step 3, k",
        "step 5, n",
    ]
    path = tmp_path / "end.png"
    assert command(play, *flags, "--record", path).code == 0
    with Image.open(path) as image:
        assert image.size[0] == 2 * 3 * 64 + 4 * 8


def test_headless_ends_with_the_keys_and_where_esc_says_so(logdir):
    result = command(play, "--logdir", logdir, "--headless", "--keys", "2:left*4")
    assert "Ended after 7 steps" in result.out
    result = command(
        play, "--logdir", logdir, "--headless", "--steps", 9, "--keys", "3:esc"
    )
    assert "Ended after 3 steps" in result.out


def test_a_window_is_driven_by_the_keyboard(logdir, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    player = make_player(logdir)
    player.rate = 500
    seen = []
    Typist(player, {3: ["i"], 8: ["k", "n", "left"], 15: ["escape"]})
    player.commands["n"] = (lambda: seen.append(player.dream_step), "")
    play_window(player, "A test", Script("1:m"), 0, False, "")
    assert player.view == "model" and player.control == "person"
    assert player.dreaming and seen and player.done


def test_a_window_leaves_after_the_steps_it_was_given(logdir, monkeypatch, tmp_path):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    path = tmp_path / "window.gif"
    flags = ["--logdir", logdir, "--steps", 3, "--keys", "+ + +", "--record", path]
    assert command(play, *flags, "--scale", 1).code == 0
    assert gif_frames(path) == 3


def test_no_display_is_one_sentence(logdir, monkeypatch):
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert refusal(play, "--logdir", logdir).startswith("There is no display")


def test_no_pygame_is_one_sentence(logdir, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pygame", None)
    path = tmp_path / "x.gif"
    flags = ["--logdir", logdir, "--record", path]
    assert "install it with pip" in refusal(play, *flags)
    assert not path.exists()


def test_no_ffmpeg_is_one_sentence(logdir, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = tmp_path / "x.mp4"
    flags = ["--logdir", logdir, "--headless", "--record", path]
    assert 'pip install "dreamerv2-torch[play]"' in refusal(play, *flags)
    assert not path.exists()


def test_a_missing_or_wrong_checkpoint_is_one_sentence(logdir, tmp_path):
    sentence = refusal(play, "--headless", "--logdir", tmp_path)
    assert "There is no checkpoint at" in sentence
    (tmp_path / "variables.pt").write_bytes(b"nonsense")
    sentence = refusal(play, "--headless", "--logdir", tmp_path)
    assert "cannot be loaded" in sentence
    save_checkpoint(tmp_path / "variables.pt", {"other": 1})
    sentence = refusal(play, "--headless", "--logdir", tmp_path)
    assert "holds no agent" in sentence


@pytest.mark.parametrize("flags", ["--rssm.deter 9", "--configs defaults"])
def test_an_agent_of_another_shape_is_one_sentence(logdir, flags):
    argv = ["--logdir", logdir, "--headless", "--task", "toy_catch", *flags.split()]
    sentence = refusal(play, *argv)
    assert "does not fit this configuration" in sentence


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--keys 5:shift", "--keys has the word"),
        ("--record x.avi", "unknown ending"),
        ("--scale 0", "--scale 1 to 20"),
        ("--steps -1", "--steps must be 0"),
        ("--keys", "Argument --keys: expected at least one argument"),
        ("--scale big", "Argument --scale: invalid int value: 'big'"),
        ("--recrod x.gif", "Unknown flag '--recrod'"),
        ("--episode /no/such.npz", "Cannot read the recording"),
        ("--task toy_catsh", "did you mean toy_catch?"),
    ],
)
def test_other_mistakes_are_one_sentence_each(logdir, flags, words):
    sentence = refusal(play, "--logdir", logdir, "--headless", *flags.split())
    assert words in sentence
