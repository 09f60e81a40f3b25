"""Config keeps its promises: typed, immutable, clear about what it refuses."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest

from dreamerv2.common.config import Config, did_you_mean, load_presets
from dreamerv2.common.errors import UsageError


@pytest.fixture
def config():
    return Config(
        seed=0,
        jit=True,
        lr=1e-4,
        task="atari_pong",
        sizes=[4, 4],
        names=["image", "ram"],
        rssm={"deter": 600, "norm": "none"},
        actor={"units": 400, "norm": "none", "min_std": 0.1},
    )


def test_values_are_read_by_attribute_and_by_dotted_item(config):
    assert config.rssm.deter == 600
    assert config["rssm.deter"] == 600
    assert config["rssm"]["deter"] == 600
    assert config.get("rssm.deter") == 600
    assert config.get("rssm.nothing", 3) == 3
    assert list(config)[:3] == ["seed", "jit", "lr"]
    assert len(config) == 8
    assert config.flat["actor.units"] == 400
    with pytest.raises(KeyError):
        config["nothing"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.rssm.nothing


def test_membership_never_raises(config):
    assert "rssm" in config
    assert "rssm.deter" in config
    for key in ("x", "rssm.x", "seed.x", "rssm.deter.x", "x.y.z", "rssm.", "", 3, None):
        assert key not in config


def test_a_group_unpacks_into_keyword_arguments(config):
    assert dict(**config.actor) == {"units": 400, "norm": "none", "min_std": 0.1}


def test_config_is_immutable(config):
    with pytest.raises(AttributeError, match="immutable"):
        config.seed = 1
    with pytest.raises(AttributeError):
        del config.seed
    with pytest.raises(AttributeError):
        config.sizes.append(3)
    config.flat["seed"] = 1
    config.to_dict()["rssm"]["deter"] = 1
    config.to_dict()["sizes"].append(1)
    changed = config.update(seed=1)
    assert (changed.seed, config.seed) == (1, 0)
    assert config["rssm.deter"] == 600
    assert config.sizes == (4, 4)


def test_copies_are_equal(config):
    for other in (
        copy.copy(config),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        Config(config),
        Config(config.flat),
        Config(config.to_dict()),
    ):
        assert other == config
        assert other.rssm == Config(deter=600, norm="none")
    assert config == config.to_dict()
    assert config != config.update(seed=1)
    assert eval(repr(config)) == config


ACCEPTED = [
    ("jit", False, False),
    ("jit", "False", False),
    ("jit", "True", True),
    ("seed", 3, 3),
    ("seed", 1e6, 1_000_000),
    ("seed", "1e6", 1_000_000),
    ("seed", "-2", -2),
    ("seed", 2**60 + 1, 2**60 + 1),
    ("seed", str(2**60 + 1), 2**60 + 1),
    ("seed", np.int64(3), 3),
    ("lr", 1, 1.0),
    ("lr", "3e-4", 3e-4),
    ("lr", np.float64(0.5), 0.5),
    ("lr", "inf", float("inf")),
    ("task", "x", "x"),
    ("task", "", ""),
    ("task", "True", "True"),
    ("task", 16, "16"),
    ("task", 0.001, "0.001"),
    ("task", Path("a") / "b", str(Path("a") / "b")),
    ("sizes", [1, 2, 3], (1, 2, 3)),
    ("sizes", (1e2,), (100,)),
    ("sizes", "5,5, 6", (5, 5, 6)),
    ("sizes", ["5", 6], (5, 6)),
    ("names", "image", ("image",)),
    ("names", "image,ram", ("image", "ram")),
    ("names", ["a,b"], ("a,b",)),
]


@pytest.mark.parametrize("key,value,expected", ACCEPTED)
def test_update_keeps_the_type_of_the_default(config, key, value, expected):
    updated = config.update({key: value})[key]
    assert updated == expected
    assert type(updated) is type(expected)
    if isinstance(expected, tuple):
        assert {type(x) for x in updated} == {type(x) for x in expected}


REFUSED = [
    ("jit", "true", "write True"),
    ("jit", "FALSE", "write False"),
    ("jit", 1, "True or False"),
    ("jit", "0", "True or False"),
    ("jit", "", "True or False"),
    ("jit", None, "True or False"),
    ("seed", 2.5, "whole number"),
    ("seed", "2.5", "whole number"),
    ("seed", True, "whole number"),
    ("seed", "inf", "whole number"),
    ("seed", "many", "whole number"),
    ("seed", None, "whole number"),
    ("seed", [1, 2], "one value"),
    ("lr", "fast", "a number"),
    ("lr", False, "a number"),
    ("lr", float("nan"), "a number"),
    ("task", True, "a string"),
    ("task", None, "a string"),
    ("task", ["a", "b"], "one value"),
    ("sizes", [], "empty"),
    ("sizes", "", "empty"),
    ("sizes", "4,,4", "empty element"),
    ("sizes", [4, 2.5], "whole number"),
    ("sizes", [4, "x"], "whole number"),
    ("sizes", 4, "list of int"),
    ("names", [True], "a string"),
    ("names", 3, "list of str"),
]


@pytest.mark.parametrize("key,value,words", REFUSED)
def test_update_refuses_other_types_and_names_the_key(config, key, value, words):
    with pytest.raises(UsageError) as caught:
        config.update({key: value})
    assert repr(key) in str(caught.value)
    assert words in str(caught.value)


def test_update_takes_dotted_nested_and_keyword_forms(config):
    assert config.update({"rssm.deter": 1}).rssm.deter == 1
    assert config.update({"rssm": {"deter": 1}}).rssm == {"deter": 1, "norm": "none"}
    assert config.update(rssm={"deter": 1}, seed=2).flat["rssm.deter"] == 1
    assert config.update(Config(seed=7)).seed == 7
    assert config.update() == config


def test_later_keys_of_an_update_win(config):
    updated = config.update({r".*\.norm": "layer", "rssm.norm": "none"})
    assert (updated.rssm.norm, updated.actor.norm) == ("none", "layer")


def test_a_pattern_sets_every_key_that_it_matches_as_a_whole(config):
    updated = config.update({r".*\.norm": "layer"})
    changed = {k for k, v in updated.flat.items() if v != config.flat[k]}
    assert changed == {"rssm.norm", "actor.norm"}
    assert config.update({"(rssm|actor)": {"norm": "x"}}).actor.norm == "x"
    with pytest.raises(UsageError, match=r"'\(rssm\|actor\)'"):
        config.update({"(rssm|actor)": "layer"})  # Matches prefixes alone.
    with pytest.raises(UsageError, match="units_"):
        config.update({".*units_": 3})
    with pytest.raises(UsageError, match="regular expression"):
        config.update({"(": 3})


def test_unknown_keys_are_refused_with_the_nearest(config):
    with pytest.raises(UsageError, match=r"'sede'; did you mean seed\?"):
        config.update(sede=1)
    with pytest.raises(UsageError, match=r"did you mean rssm\.deter"):
        config.update(deter=1)
    with pytest.raises(UsageError, match=r"group.*actor\.units, actor\.norm"):
        config.update(actor=1)
    with pytest.raises(UsageError, match="seed.x"):
        config.update(seed={"x": 1})


@pytest.mark.parametrize(
    "mapping,words",
    [
        ({"a": None}, "NoneType"),
        ({"a": []}, "empty list"),
        ({"a": {}}, "empty"),
        ({"a": [1, "b"]}, "mixes types"),
        ({"a": [[1], [2]]}, "type list"),
        ({"a": object()}, "type object"),
        ({"a": 1, "a.b": 2}, "both"),
        ({"a": {"b": 1}, "a.b": 2}, "twice"),
        ({"a*": 1}, "letters"),
        ({"a..b": 1}, "letters"),
        ({"update": 1}, "hides"),
        ({"rssm.keys": 1}, "hides"),
        ({1: 2}, "not a string"),
    ],
)
def test_the_constructor_refuses_what_no_config_can_hold(mapping, words):
    with pytest.raises(UsageError, match=words):
        Config(mapping)


def test_save_and_load_keep_values_and_types(tmp_path):
    config = Config(load_presets()["defaults"]).update(
        {"task": "True", "logdir": "a: #b", "kl.free": 1, "model_opt.clip": "inf"}
    )
    config.save(tmp_path / "config.yaml")
    loaded = Config.read(tmp_path / "config.yaml")
    assert loaded == config
    assert list(loaded.flat) == list(config.flat)
    kinds = [type(value) for value in config.flat.values()]
    assert [type(value) for value in loaded.flat.values()] == kinds
    assert loaded.precision == "16"
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch, config):
    path = tmp_path / "config.yaml"
    config.save(path)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(UsageError, match="No space left"):
        config.update(seed=1).save(path)
    assert Config.read(path) == config


def test_files_that_cannot_be_used_get_one_sentence(tmp_path, config):
    with pytest.raises(UsageError, match="No such file"):
        Config.read(tmp_path / "config.yaml")
    path = tmp_path / "bad.yaml"
    path.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(UsageError, match="not valid YAML in line 3") as caught:
        Config.read(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="Cannot write .*config.yaml"):
        config.save(path / "config.yaml")
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="no mapping"):
        Config.read(str(path))


def test_every_preset_fits_the_defaults():
    presets = load_presets()
    assert list(presets) == [
        "defaults",
        "atari",
        "atari_paper",
        "crafter",
        "dmc_vision",
        "dmc_proprio",
        "debug",
        "small",
        "small_boxing",
        "minigrid",
        "gym",
        "retro",
    ]
    defaults = Config(presets["defaults"])
    for name, preset in presets.items():
        updated = defaults.update(preset)
        assert (updated == defaults) == (name == "defaults")


def test_counts_are_ints_and_what_may_be_a_schedule_is_a_string():
    config = Config(load_presets()["defaults"])
    counts = "steps prefill pretrain log_every eval_every train_every train_steps"
    counts += " save_every expl_until time_limit replay.capacity slow_target_update"
    for key in counts.split():
        assert type(config[key]) is int, key
    for key in "model_opt.clip model_opt.wd kl.free loss_scales.kl discount".split():
        assert type(config[key]) is float, key
    for key in ("precision", "actor_ent", "actor_grad_mix"):
        assert type(config[key]) is str, key
    assert (config.steps, config.replay.capacity) == (100_000_000, 2_000_000)


def test_presets_hold_the_published_numbers():
    presets = load_presets()
    config = Config(presets["defaults"])
    atari = config.update(presets["atari"])
    assert (atari.time_limit, atari.train_every, atari.prefill) == (27000, 16, 50000)
    assert (atari.rssm.hidden, atari.rssm.deter, atari.rssm.stoch) == (600, 600, 32)
    assert (atari.loss_scales.kl, atari.loss_scales.discount) == (0.1, 5.0)
    lrs = [atari[f"{name}_opt.lr"] for name in ("model", "actor", "critic")]
    assert lrs == [2e-4, 4e-5, 1e-4]
    assert float(atari.actor_ent) == 1e-3

    paper = atari.update(presets["atari_paper"])
    changed = {k: v for k, v in paper.flat.items() if v != atari.flat[k]}
    assert changed == {
        "train_every": 4,
        "dataset.batch": 50,
        "atari_all_actions": True,
        "discount": 0.995,
    }

    crafter = config.update(presets["crafter"])
    norms = [value for key, value in crafter.flat.items() if key.endswith(".norm")]
    assert norms == ["layer"] * 8
    vision = config.update(presets["dmc_vision"])
    proprio = config.update(presets["dmc_proprio"])
    changed = {k for k, v in vision.flat.items() if v != proprio.flat[k]}
    assert changed == {
        f"{coder}.{kind}_keys"
        for coder in ("encoder", "decoder")
        for kind in ("cnn", "mlp")
    }


def test_small_is_the_same_problem_as_atari():
    presets = load_presets()
    config = Config(presets["defaults"])
    atari, small = (config.update(presets[name]) for name in ("atari", "small"))
    for key in (
        "task time_limit action_repeat atari_grayscale render_size clip_rewards "
        "encoder.cnn_keys encoder.mlp_keys decoder.cnn_keys decoder.mlp_keys "
        "pred_discount grad_heads loss_scales.reward loss_scales.discount"
    ).split():
        assert small[key] == atari[key], key


def test_the_nearest_names_are_suggested():
    known = ["model_opt.lr", "actor_opt.lr", "seed", "steps"]
    assert did_you_mean("lr", known) == "did you mean model_opt.lr or actor_opt.lr?"
    assert did_you_mean("sede", known, prefix="--") == "did you mean --seed?"
    assert did_you_mean("zzz", known, "see --help.") == "see --help."
