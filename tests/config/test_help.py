"""--help: every key, its value in force, type, bounds and meaning, as in the file."""

import pytest
from run_tools import ok, train_here

from dreamerv2 import play, play_test
from dreamerv2.common.config import Config, format_value, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import Flags
from dreamerv2.common.settings.help import help_text, meaning

SECTIONS = [
    "The run",
    "Environment",
    "Replay",
    "World model",
    "Actor and critic",
    "Exploration",
]


@pytest.fixture(scope="module")
def defaults():
    return Config(load_presets()["defaults"])


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_key_in_force_in_the_order_and_sections_of_the_file(flag):
    presets = load_presets()
    config = Config(presets["defaults"]).update(presets["atari"]).update(seed=7)
    result = ok(train_here("--configs", "atari", flag, "--seed", "7"))
    assert result.err == ""
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [tuple(x.split()[:2]) for x in lines if x.startswith("  --")]
    wanted = [(f"--{key}", format_value(value)) for key, value in config.flat.items()]
    assert shown == wanted
    assert [line for line in lines if line in SECTIONS] == SECTIONS
    for name in presets:
        assert name in result.out


def test_every_key_says_what_it_means_also_alone(defaults):
    for key in defaults.flat:
        assert meaning(key)[0].isalnum() and meaning(key).endswith("."), key
    assert meaning("critic_opt.lr") == meaning("model_opt.lr") == "Learning rate."
    assert meaning("loss_scales.image") == meaning("loss_scales.kl")
    assert meaning("encoder.cnn_depth") != meaning("decoder.cnn_depth")


@pytest.mark.parametrize(
    "wanted, keys",
    [
        ("seed", "seed"),
        ("kl", "kl.free kl.forward kl.balance kl.free_avg"),
        ("rssm.(deter|stoch)", "rssm.deter rssm.stoch"),
        ("log_keys_.*", "log_keys_video log_keys_sum log_keys_mean log_keys_max"),
        ("lr seed", "seed model_opt.lr actor_opt.lr critic_opt.lr expl_opt.lr"),
    ],
)
def test_help_about_some_keys_shows_these_alone(wanted, keys, defaults, capsys):
    with pytest.raises(SystemExit) as caught:
        Flags(defaults).parse(["--help", *wanted.split()])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    shown = [x.split()[0] for x in lines if x.startswith("  --")]
    assert shown == [f"--{key}" for key in keys.split()]


def test_an_entry_has_value_type_bounds_and_meaning(defaults):
    config = defaults.update({"rssm.stoch": 8, "loss_scales.image": 2})
    assert help_text(config, ["rssm.stoch"]).splitlines() == [
        "",
        "World model",
        "",
        "  --rssm.stoch 8  (int: 1 or more)",
        "      Latent variables.",
    ]
    assert "--loss_scales.image 2.0  (float: 0 or more)" in help_text(config)
    assert "--clip_rewards tanh  (str: identity, sign or tanh)" in help_text(config)


def test_help_about_no_key_names_the_nearest(defaults):
    with pytest.raises(UsageError, match="no key 'sede'; did you mean seed"):
        Flags(defaults).parse(["--help", "sede"])
    with pytest.raises(UsageError, match="Unknown flag '--sede'"):
        Flags(defaults).parse(["--sede", "3", "--help"])


@pytest.mark.parametrize("program", [play, play_test])
def test_help_of_the_players_fits_as_well(program, capsys):
    with pytest.raises(SystemExit):
        program.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
