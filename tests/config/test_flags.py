"""Flags: the command line changes a config, or says in one sentence why not."""

import pytest

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import Flags, parse_config

DEFAULTS = {
    "seed": 0,
    "jit": True,
    "lr": 1e-4,
    "task": "toy_catch",
    "sizes": [4, 4],
    "names": ["image"],
    "rssm": {"deter": 600, "norm": "none"},
    "actor": {"norm": "none"},
}
PRESETS = {
    "defaults": DEFAULTS,
    "big": {"rssm.deter": 1000, "seed": 1},
    "odd": {"seed": 2, r".*\.norm": "layer"},
    "broken": {"sede": 3},
}


@pytest.mark.parametrize(
    "argv,expected",
    [
        ("", {}),
        ("--seed 3", {"seed": 3}),
        ("--seed=3", {"seed": 3}),
        ("--seed 1e6", {"seed": 1_000_000}),
        ("--seed -3", {"seed": -3}),
        ("--lr -1e-4", {"lr": -1e-4}),
        ("--lr=-.5", {"lr": -0.5}),
        ("--jit False", {"jit": False}),
        ("--task True", {"task": "True"}),
        ("--task=--x=y", {"task": "--x=y"}),
        ("--task=", {"task": ""}),
        ("--sizes 1 2 3", {"sizes": (1, 2, 3)}),
        ("--sizes 1,2,3", {"sizes": (1, 2, 3)}),
        ("--sizes=1,2 3", {"sizes": (1, 2, 3)}),
        ("--sizes 1, 2, 3", {"sizes": (1, 2, 3)}),
        ("--sizes -1 -2", {"sizes": (-1, -2)}),
        ("--sizes 64", {"sizes": (64,)}),
        ("--names image ram --seed 1", {"names": ("image", "ram"), "seed": 1}),
        ("--rssm.deter 200", {"rssm.deter": 200}),
        (r"--.*\.norm layer", {"rssm.norm": "layer", "actor.norm": "layer"}),
        (r"--.*\.norm=layer --rssm.norm none", {"actor.norm": "layer"}),
        (r"--rssm.norm x --.*\.norm=y", {"rssm.norm": "y", "actor.norm": "y"}),
        ("--seed 3 --seed 4", {"seed": 4}),
    ],
)
def test_flags_change_just_what_they_name(argv, expected):
    default = Config(DEFAULTS)
    parsed = Flags(DEFAULTS).parse(argv.split())
    assert {k: v for k, v in parsed.flat.items() if v != default.flat[k]} == expected


@pytest.mark.parametrize(
    "argv,words",
    [
        ("--sede 3", r"Unknown flag '--sede'; did you mean --seed\?"),
        ("--deter 3", r"'--deter'; did you mean --rssm\.deter\?"),
        ("--rssm 3", r"group.*--rssm\.deter, --rssm\.norm"),
        (r"--.*\.nrm layer", "pattern"),
        ("--zzzzzz=1", "'--zzzzzz'; check"),
        ("--seed", "--seed VALUE"),
        ("--jit --seed 1", "--jit has no value"),
        ("--seed 2.5", "'seed'.*whole number.*'2.5'"),
        ("--seed 1 2", "one value.*got 2: 1 2"),
        ("--jit true", "write True"),
        ("--sizes=", "empty"),
        ("--sizes 1 x", "'x'"),
        ("seed 3", "'seed' belongs to no flag"),
        ("-seed 3", "as in --seed"),
        ("--seed 1 -- 3", "'--'"),
    ],
)
def test_flags_refuse_the_rest_with_one_sentence(argv, words):
    with pytest.raises(UsageError, match=words) as caught:
        Flags(DEFAULTS).parse(argv.split())
    assert "\n" not in str(caught.value)


def test_parse_known_returns_what_is_not_ours_in_order():
    argv = "left --sede 1 2 --seed 5 --help --x=1 --jit False --y"
    config, remaining = Flags(DEFAULTS).parse_known(argv.split())
    assert (config.seed, config.jit) == (5, False)
    assert remaining == "left --sede 1 2 --help --x=1 --y".split()
    with pytest.raises(UsageError, match="whole number"):
        Flags(DEFAULTS).parse_known(["--seed", "x", "--other"])


def test_arguments_default_to_those_of_the_program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--configs", "odd", "--jit", "False"])
    config = parse_config(None, PRESETS)
    assert (config.seed, config.jit) == (2, False)


@pytest.mark.parametrize(
    "argv,seed,deter,norm",
    [
        ("", 0, 600, "none"),
        ("--configs defaults", 0, 600, "none"),
        ("--configs big", 1, 1000, "none"),
        ("--configs defaults big odd", 2, 1000, "layer"),
        ("--configs odd big", 1, 1000, "layer"),
        ("--configs big defaults", 1, 1000, "none"),
        ("--configs=big,odd --seed 7", 7, 1000, "layer"),
        ("--seed 7 --configs big odd", 7, 1000, "layer"),
        ("--rssm.* x --rssm.deter 3", None, None, None),
        (r"--.*(s|m) y --configs odd", None, None, None),
    ],
)
def test_presets_apply_in_order_and_flags_after_them(argv, seed, deter, norm):
    if seed is None:  # A pattern is about keys, never about --configs.
        with pytest.raises(UsageError, match="Config key"):
            parse_config(argv.split(), PRESETS)
        return
    config = parse_config(argv.split(), PRESETS)
    assert (config.seed, config.rssm.deter, config.rssm.norm) == (seed, deter, norm)


def test_unknown_and_broken_presets_are_named():
    with pytest.raises(UsageError, match=r"'bgi'.*defaults, big, odd.*mean big\?"):
        parse_config(["--configs", "bgi"], PRESETS)
    with pytest.raises(UsageError, match=r"^Preset 'broken': .*did you mean seed\?"):
        parse_config(["--configs", "broken"], PRESETS)
    with pytest.raises(UsageError, match="--configs has no value"):
        parse_config(["--configs"], PRESETS)


def test_the_documented_commands_parse():
    presets = load_presets()
    argv = "--configs defaults atari --task atari_pong --logdir ~/logdir/1"
    config = parse_config(argv.split(), presets)
    assert (config.task, config.logdir) == ("atari_pong", "~/logdir/1")
    assert config.rssm.deter == 600
    argv = "--configs defaults atari debug --steps 2000"
    config = parse_config(argv.split(), presets)
    assert (config.steps, config.jit, config.replay.minlen) == (2000, False, 10)
    argv = ["--actor_ent", "linear(1,0.1,1e3)", "--log_keys_sum", "^log_(a|b)$"]
    config = parse_config(argv, presets)
    assert config.actor_ent == "linear(1,0.1,1e3)"
    assert config.log_keys_sum == "^log_(a|b)$"
