"""keys.yaml: one row for each key, with names that the program knows, and no other."""

import re

import pytest

from dreamerv2.agent import CLIP_REWARDS
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.networks.layers import ACTIVATIONS, DistLayer
from dreamerv2.common.networks.rssm import STD_ACTS
from dreamerv2.common.settings.rules import Rule, checked, rule_of, rules
from dreamerv2.common.torchutils import Optimizer, Precision
from dreamerv2.running.loading import PARTS

DEFAULTS = Config(load_presets()["defaults"])


def test_every_key_has_one_row_and_every_row_a_key():
    matched = {
        rule.keys: [key for key in DEFAULTS.flat if re.fullmatch(rule.keys, key)]
        for rule in rules()
    }
    assert all(matched.values()), matched
    assert sorted(sum(matched.values(), [])) == sorted(DEFAULTS.flat)


def test_a_new_key_inherits_no_row_by_its_last_part():
    for rule in rules():
        names = rule.keys.replace(r"loss_scales.\w+", "")
        assert not re.search(r"[*+?\[\\]", names), "A pattern lists whole names."
    assert rule_of("new_head.units") == Rule("new_head\\.units")
    assert rule_of("lr").least < 0


KNOWN = {
    "precision": {"16", *Precision.NAMES},
    "clip_rewards": CLIP_REWARDS,
    "load_parts": {"all", *PARTS},
    "rssm.act": ACTIVATIONS,
    "rssm.std_act": STD_ACTS,
    "critic.dist": {"mse", "binary", *DistLayer.WITH_STD},
    "actor.dist": {"auto", "onehot", *DistLayer.WITH_STD},
    "model_opt.opt": Optimizer.SLOTS,
}


@pytest.mark.parametrize("key", KNOWN)
def test_the_names_are_those_that_the_program_knows(key):
    assert set(rule_of(key).names) == set(KNOWN[key])


def test_the_defaults_and_every_preset_keep_the_rules():
    for preset in load_presets().values():
        config = DEFAULTS.update(preset).update(logdir="/run")
        assert checked(config) == config
