"""The folder of a run: what may be started or gone on with in it, and what may not."""

import os
from contextlib import closing

import pytest

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.settings.rules import checked
from dreamerv2.running.logdir import Logdir, changes, refuse_changes


@pytest.fixture(scope="module")
def defaults():
    return Config(load_presets()["defaults"])


@pytest.fixture
def config(defaults, tmp_path):
    return defaults.update(logdir=tmp_path / "a" / "run")


def open_logdir(config):
    """What a run does with its logdir before it begins, and at its end."""
    with closing(Logdir(config)) as logdir:
        logdir.begin()
    return logdir.path


def begin(logdir):
    """Put there what a run leaves first: an episode."""
    (logdir / "train_episodes").mkdir()
    (logdir / "train_episodes" / "1.npz").touch()


def test_the_folder_is_made_and_the_config_saved(config, tmp_path):
    logdir = open_logdir(config)
    assert logdir == tmp_path / "a" / "run"
    assert {path.name for path in logdir.iterdir()} == {"config.yaml", ".lock"}
    assert Config.read(logdir / "config.yaml") == config


def test_the_folder_may_be_in_the_home_of_the_user(config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_logdir(config.update(logdir="~/run")) == tmp_path / "run"


@pytest.mark.parametrize("logdir", ["", os.devnull])
def test_without_a_logdir_the_error_shows_how_to_give_one(config, logdir):
    with pytest.raises(UsageError, match="No --logdir was given.*--logdir ~/logdir"):
        open_logdir(config.update(logdir=logdir))


@pytest.mark.parametrize("below", [".", "folder"])
def test_a_file_in_the_way_is_named(config, tmp_path, below):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / below
    with pytest.raises(UsageError, match=f"Cannot write {path} "):
        open_logdir(config.update(logdir=path))


def test_nothing_is_kept_or_said_when_nothing_changed(config, capsys):
    logdir = open_logdir(config)
    begin(logdir)
    open_logdir(config)
    assert not (logdir / "config.1.yaml").exists()
    assert capsys.readouterr().out == ""


def test_each_config_of_a_run_is_kept_and_what_changed_is_said(config, capsys):
    logdir = open_logdir(config)
    begin(logdir)
    open_logdir(config.update({"steps": 10, "model_opt.lr": 1e-3}))
    assert capsys.readouterr().out.splitlines() == [
        "Changed since this run was started:",
        "  steps: 100000000 -> 10",
        "  model_opt.lr: 0.0001 -> 0.001",
    ]
    open_logdir(config.update(steps=20))
    steps = {path.name: Config.read(path).steps for path in logdir.glob("*.yaml")}
    assert steps == {"config.yaml": 20, "config.1.yaml": 10**8, "config.2.yaml": 10}


def test_a_run_that_never_began_may_be_corrected_without_a_word(config, capsys):
    logdir = open_logdir(config.update(task="atari_pnog"))
    open_logdir(config.update(task="atari_pong"))
    assert {path.name for path in logdir.iterdir()} == {"config.yaml", ".lock"}
    assert capsys.readouterr().out == ""


def test_a_logdir_that_was_moved_is_no_change(config, tmp_path):
    moved = config.update(logdir=tmp_path / "b")
    assert changes(config, moved) == {}


def test_keys_of_another_version_count_as_changes(config):
    old = {key: value for key, value in config.flat.items() if key != "save_every"}
    assert changes(Config(old), config) == {"save_every": (None, 600)}


NETWORKS = {
    "pred_discount": False,
    "rssm.deter": 8,
    "rssm.discrete": 0,
    "encoder.cnn_keys": "image",
    "decoder.mlp_layers": [10],
    "reward_head.units": 10,
    "critic.layers": 1,
    "actor.dist": "tanh_normal",
    "actor.norm": "layer",
    "model_opt.opt": "sgd",
    "expl_behavior": "Plan2Explore",
    "disag_models": 3,
}
EPISODES = {
    "task": "atari_pong",
    "atari_grayscale": False,
    "render_size": [32, 32],
}
FRAMES = {"action_repeat": 2, "offline": "/recordings"}
FIXED = {
    **{key: (value, "networks of another shape") for key, value in NETWORKS.items()},
    **{key: (value, "other episodes") for key, value in EPISODES.items()},
    **{key: (value, "steps that count otherwise") for key, value in FRAMES.items()},
}


@pytest.mark.parametrize("key", FIXED)
@pytest.mark.parametrize("begun", ["variables.pt", "train_episodes"])
def test_what_a_run_cannot_change_is_refused_by_name_and_reason(config, key, begun):
    logdir = open_logdir(config)
    begin(logdir) if begun == "train_episodes" else (logdir / begun).touch()
    before = (logdir / "config.yaml").read_text()
    value, reason = FIXED[key]
    with pytest.raises(UsageError) as error:
        open_logdir(config.update({key: value, "steps": 10}))
    assert f"cannot go on with {reason} ({key} " in str(error.value)
    assert "steps:" not in str(error.value)
    assert (logdir / "config.yaml").read_text() == before
    assert not (logdir / "config.1.yaml").exists()


def test_an_offline_run_may_go_on_with_another_recording_but_not_online(config):
    offline = config.update(offline="/recordings")
    begin(open_logdir(offline))
    open_logdir(offline.update(offline="/moved"))
    with pytest.raises(UsageError, match=r"\(offline /moved -> ''\)"):
        open_logdir(config)


def test_a_function_that_makes_environments_may_be_renamed(config):
    begin(open_logdir(config.update(task="own_lambda")))
    open_logdir(config.update(task="own_make"))
    with pytest.raises(UsageError, match=r"other episodes \(task own_make -> atari_"):
        open_logdir(config.update(task="atari_pong"))


def test_a_relative_logdir_stays_where_it_was(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()  # What is no folder may be the name of an agent.
    relative = checked(config.update(logdir="run", load="a", offline="../b"))
    with closing(Logdir(config.update(logdir="run"))) as logdir:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        logdir.begin()
    assert logdir.path == tmp_path / "run"
    assert (tmp_path / "run" / "config.yaml").exists()
    assert relative.logdir == str(tmp_path / "run")
    assert relative.load == str(tmp_path / "a")
    assert relative.offline == str(tmp_path / ".." / "b")
    assert checked(config.update(logdir="/x")).offline == ""


@pytest.mark.parametrize(
    "key",
    "steps envs envs_parallel seed log_every eval_eps train_every model_opt.lr"
    " dataset.batch dataset.length replay.capacity kl.free discount imag_horizon"
    " actor_ent device save_every".split(),
)
def test_changes_to_how_it_is_trained_are_not_refused(config, tmp_path, key):
    refuse_changes(tmp_path, {key: (1, 2)})


def test_all_that_is_refused_is_named_at_once_by_its_reason(config, tmp_path):
    after = config.update({"rssm": {"norm": "layer", "stoch": 3}, "action_repeat": 4})
    with pytest.raises(UsageError) as error:
        refuse_changes(tmp_path, changes(config, after))
    assert str(error.value) == (
        f"The run in {tmp_path} cannot go on with steps that count otherwise "
        "(action_repeat 1 -> 4) and networks of another shape (rssm.stoch 32 -> 3, "
        "rssm.norm none -> layer): use the values that it has, or another --logdir to "
        "start anew."
    )


def test_a_damaged_config_is_named(config):
    logdir = open_logdir(config)
    (logdir / "config.yaml").write_text("{ no yaml")
    with pytest.raises(UsageError, match="config.yaml is not valid YAML"):
        open_logdir(config)
