"""Keys: the environments' own, and scripts of keys."""

import numpy as np
import pytest
from gymnasium.spaces import Box

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.envs import OneHotSpace, make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.actions import action_names
from dreamerv2.playing.keys import COMMANDS, GameKeys, Script

CRAFTER = (
    "noop move_left move_right move_up move_down do sleep place_stone place_table"
    " place_furnace place_plant make_wood_pickaxe make_stone_pickaxe"
    " make_iron_pickaxe make_wood_sword make_stone_sword make_iron_sword"
).split()


def keys_of(*names):
    return GameKeys(OneHotSpace(len(names)), names)


def chosen(keys, *held):
    return int(np.argmax(keys.action(held)))


def test_arrows_and_space_together_are_one_action_of_an_atari_game():
    keys = keys_of("NOOP", "FIRE", "UP", "RIGHT", "UPRIGHT", "UPRIGHTFIRE")
    assert chosen(keys) == 0
    assert chosen(keys, "space") == 1
    assert chosen(keys, "up", "right") == 4
    assert chosen(keys, "up", "right", "space") == 5
    # What the game does not know is left out.
    assert chosen(keys, "up", "left") == 2


def test_up_and_down_play_a_game_that_has_only_left_and_right():
    keys = keys_of("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert chosen(keys, "up") == 2
    assert chosen(keys, "down", "space") == 5
    assert ("right up", "right") in keys.help()


def test_every_action_of_crafter_has_a_key_that_is_no_command():
    keys = keys_of(*CRAFTER)
    assert chosen(keys, "left") == 1 and chosen(keys, "space") == 5
    listed = dict(keys.help())
    assert sorted(listed.values()) == sorted(
        name.replace("_", " ").removeprefix("") for name in CRAFTER if name != "noop"
    )
    assert not keys.keys & set(COMMANDS)
    for index, name in enumerate(CRAFTER[6:], 6):
        (key,) = [k for k, v in listed.items() if v == name.replace("_", " ")]
        assert chosen(keys, key) == index


def test_actions_without_names_are_numbered_and_have_keys():
    keys = GameKeys(OneHotSpace(3))
    assert [chosen(keys, key) for key in "123"] == [0, 1, 2]
    assert keys.name(np.array([0, 1, 0])) == "action 1"


def test_continuous_actions_go_to_their_bounds_and_rest_at_zero():
    keys = GameKeys(Box(np.float32([-1, -0.5]), np.float32([1, 2])))
    assert keys.action([]).tolist() == [0, 0]
    assert keys.action(["left", "up"]).tolist() == [-1, 2]
    assert keys.action(["left", "right", "down"]).tolist() == [0, -0.5]
    assert keys.action([]).dtype == np.float32


@pytest.mark.parametrize(
    "task, wanted",
    [
        ("toy_catch", ["left", "stay", "right"]),
        ("atari_pong", ["NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE"]),
        ("gym_CartPole-v1", ["left", "right"]),
        ("toy_reach", []),
    ],
)
def test_the_names_come_from_the_environment(task, wanted):
    config = Config(load_presets()["defaults"]).update(task=task)
    env = make_env(config, 0)
    assert action_names(env) == wanted
    env.close()


class Recorder:
    def __init__(self):
        self.calls = []

    def press(self, key):
        self.calls.append(("press", key))

    def release(self, key):
        self.calls.append(("release", key))


def test_a_script_presses_each_key_at_its_step_and_holds_it_as_long_as_it_says():
    script, seen = Script("i 2:k 1:left*2 +"), []
    for step in range(5):
        player = Recorder()
        script.apply(player, step)
        seen.append(player.calls)
    assert seen == [
        [("press", "i"), ("press", "+")],
        [("release", "i"), ("release", "+"), ("press", "left")],
        [("press", "k")],
        [("release", "left"), ("release", "k")],
        [],
    ]
    assert script.last == 3


def test_a_script_takes_other_names_of_keys():
    script, player = Script("ESCAPE F1 =  . -"), Recorder()
    assert script.apply(player, 0) == ["esc", "f1", "+", ".", "-"]


@pytest.mark.parametrize("word", ["1:2:k", "k*0", "shift", "x1", "3:", "-1:k"])
def test_a_script_names_the_word_that_it_does_not_know(word):
    with pytest.raises(UsageError, match="--keys has the word"):
        Script(f"i {word}")
