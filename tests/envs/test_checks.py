"""An environment is what its spaces say, or is refused before anything learns."""

import gymnasium
import numpy as np
import pytest
import torch
from env_tools import Told, prepared, refused
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.suites.toys import ToyReach

PICTURE = Box(0, 255, (64, 64, 3), np.uint8)
GRAY = Box(0, 255, (64, 64, 1), np.uint8)
PAIR = Dict({"a": Discrete(3, start=1), "b": Box(-1, 1, (2,), np.float32)})
ONE = {"a": 1, "b": np.zeros(2, np.float32)}


# --- What is observed ---------------------------------------------------------------

NOT_AS_SAID = {
    "other shape of one size": (PICTURE, np.zeros((3, 64, 64), np.uint8), "has shape"),
    "a column": (None, np.zeros((2, 1), np.float32), r"has shape \(2, 1\)"),
    "one number": (None, np.float32(0), r"has shape \(\)"),
    "fractions among bytes": (PICTURE, np.zeros((64, 64, 3)), "holds float64 numbers"),
    "too much for a byte": (GRAY, np.full((64, 64, 1), 256), "from 256 to 256"),
    "less than a byte": (GRAY, np.full((64, 64, 1), -1), "from -1 to -1"),
    "two in a bool": (Box(0, 1, (2,), bool), np.array([0, 2]), "from 0 to 2"),
    "beyond 32 bits": (
        Box(0, 2**40, (1,), np.int64),
        np.array([2**33]),
        "do not fit into int32: have the environment give smaller",
    ),
    "beyond 32-bit floats": (
        Box(-np.inf, np.inf, (1,), np.float64),
        np.array([1e200]),
        "do not fit into float32",
    ),
    "a choice too high": (Discrete(3, start=1), 4, "is 4, but"),
    "a choice too low": (Discrete(3, start=1), 0, "is 0, but"),
    "a fraction as a choice": (Discrete(3), 1.0, "holds float64 numbers"),
    "one choice of several": (MultiDiscrete([2, 3]), np.array([1, 3]), r"is \[1 3\]"),
    "three in a bit": (MultiBinary(2), np.array([3, 0], np.int8), r"is \[3 0\]"),
    "nothing": (None, None, "is a NoneType, no array of numbers"),
    "lists that are no array": (None, [[1.0], [1.0, 2.0]], "is a list, no array"),
    "words": (None, np.array(["a", "b"]), "is a ndarray, no array of numbers"),
    "a dict": (None, {"a": 1}, "is a dict, no array of numbers"),
    "a key less": (PAIR, {"a": 1}, "lacks 'b', which its space has"),
    "a key more": (PAIR, {**ONE, "c": 1}, "observes c, of which its space does not"),
    "an array for a dict": (PAIR, np.zeros(3), "lacks 'a', which its space has"),
    "no number": (None, np.array([0, np.nan], np.float32), "gave nan in 'vector'"),
    "an endless number": (None, np.array([0, np.inf], np.float32), "gave inf"),
    "a picture beyond its bounds": (
        Box(0, 1, (64, 64, 3), np.float32),
        np.full((64, 64, 3), 255, np.float32),
        "holds numbers from 255 to 255",
    ),
    "a picture without bounds": (
        Box(-np.inf, np.inf, (64, 64, 3), np.float32),
        np.full((64, 64, 3), 200, np.float32),
        "no bounds by which to scale them",
    ),
    "bytes beyond their bounds": (
        Box(0, 1, (64, 64, 1), np.uint8),
        np.full((64, 64, 1), 9, np.uint8),
        "holds numbers from 9 to 9",
    ),
}


@pytest.mark.parametrize("case", NOT_AS_SAID)
def test_an_observation_that_is_not_as_its_space_says_is_refused(case):
    space, obs, words = NOT_AS_SAID[case]
    refused(Told(space, obs=lambda step: obs), words)


@pytest.mark.parametrize("case", ["a column", "fractions among bytes", "a key less"])
def test_what_is_wrong_only_later_is_refused_then(case):
    space, wrong, words = NOT_AS_SAID[case]
    inner = Told(space, length=20)
    right = inner.observation_space.sample()
    inner.obs = lambda step: right if step < 10 else wrong
    env = prepared(inner)
    env.reset()
    action = {"action": np.float32([1, 0])}
    for _ in range(9):
        env.step(action)
    with pytest.raises(UsageError, match=words):
        env.step(action)


EQUAL = {
    "lists": (None, [1.0, 2.0], [1, 2]),
    "whole numbers for floats": (None, np.array([1, 2]), [1, 2]),
    "float64 for float32": (None, np.array([0.5, 2.0]), [0.5, 2]),
    "a tensor": (None, torch.tensor([1.0, 2.0]), [1, 2]),
    "long integers that are bytes": (Box(0, 255, (2,), np.uint8), [0, 255], [0, 255]),
    "bits as numbers": (Box(0, 1, (2,), bool), [0, 1], [0, 1]),
    "a choice": (Discrete(3, start=1), np.int64(3), [0, 0, 1]),
    "bits": (MultiBinary([2, 1]), [[1], [0]], [1, 0]),
}


@pytest.mark.parametrize("case", EQUAL)
def test_another_type_that_holds_the_same_numbers_is_taken(case):
    space, obs, expected = EQUAL[case]
    shown = prepared(Told(space, obs=lambda step: obs)).reset()
    np.testing.assert_array_equal(shown["vector"], expected)


def test_a_vector_beyond_its_bounds_is_a_warning():
    env = Told(Box(-1, 1, (2,), np.float32), obs=np.float32([0, 1.5]))
    with pytest.warns(UserWarning, match=r"holds numbers from 0 to 1.5, but its space"):
        shown = prepared(env).reset()
    np.testing.assert_array_equal(shown["vector"], [0, 1.5])


# --- The five values of a step, and what a reset gives --------------------------------


@pytest.mark.parametrize(
    "reward", [2, 2.0, np.full(1, 2), np.full((1, 1), 2.0), torch.tensor(2.0)]
)
def test_one_number_in_any_form_is_a_reward(reward):
    env = prepared(Told(reward=reward))
    env.reset()
    got = env.step({"action": np.float32([1, 0])})["reward"]
    assert got == 2 and got.dtype == np.float32


@pytest.mark.parametrize(
    "reward, words",
    [
        (None, "gave the reward None"),
        (
            np.ones(2),
            r"gave the reward array\(\[1., 1.\]\), but expected is one number",
        ),
        ("1", "gave the reward '1'"),
        (float("nan"), "gave nan in 'reward'"),
        (float("-inf"), "gave -inf in 'reward'"),
    ],
)
def test_a_reward_that_is_no_number_is_refused(reward, words):
    refused(Told(reward=reward), words)


def stepping(change):
    """An environment whose step() gives what `change` makes of the five values."""

    class Changed(Told):
        def step(self, action):
            return change(*super().step(action))

    return Changed()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda o, r, t, u, i: (o, r, t), r"step\(\) gave 3 values, but expected are"),
        (lambda o, r, t, u, i: (o, r, t, u, i, 1), "gave 6 values"),
        (lambda o, r, t, u, i: o, "gave ndarray values"),
        (lambda o, r, t, u, i: None, "gave NoneType values"),
        (lambda o, r, t, u, i: (o, r, t, u), "last value .* is a bool, but info is"),
        (lambda o, r, t, u, i: (o, r, t, u, [i]), "last value .* is a list"),
        (lambda o, r, t, u, i: (o, r, None, u, i), "gave None for 'terminated'"),
        (lambda o, r, t, u, i: (o, r, t, 2, i), "gave 2 for 'truncated'"),
        (lambda o, r, t, u, i: (o, r, np.ones(2, bool), u, i), "for 'terminated'"),
    ],
)
def test_a_step_of_other_values_is_refused(change, words):
    refused(stepping(change), words)


@pytest.mark.parametrize(
    "change",
    [
        lambda o, r, t, u, i: (o, r, t, u, None),
        lambda o, r, t, u, i: (o, r, np.array([t]), np.bool_(u), i),
        lambda o, r, t, u, i: [o, r, int(t), 0, i],
        lambda o, r, t, u, i: (o, r, t, None),
    ],
)
def test_no_info_and_other_forms_of_flags_are_taken(change):
    env = prepared(stepping(change))
    env.reset()
    shown = [env.step({"action": np.float32([1, 0])}) for _ in range(5)]
    assert [o["is_last"] for o in shown] == [False] * 4 + [True]
    assert shown[-1]["is_terminal"]


def resetting(result):
    class Changed(Told):
        def reset(self, *, seed=None, options=None):
            return result(*super().reset(seed=seed))

    return Changed(obs=np.float32([1, 2]))


@pytest.mark.parametrize("result", [lambda o, i: o, lambda o, i: (o, None)])
def test_a_reset_may_give_the_observation_alone_or_no_info(result):
    np.testing.assert_array_equal(prepared(resetting(result)).reset()["vector"], [1, 2])


@pytest.mark.parametrize("result", [lambda o, i: i, lambda o, i: (o, 1.0, False, i)])
def test_a_reset_that_gives_something_else_is_refused(result):
    refused(resetting(result), "no array of numbers")


def test_an_observation_that_is_a_pair_is_told_from_observation_and_info():
    space = gymnasium.spaces.Tuple([Discrete(2), Dict({"x": Discrete(3)})])

    class Alone(Told):
        def reset(self, seed=None):
            return super().reset(seed=seed)[0]  # As gym did.

    shown = prepared(Alone(space, obs=(1, {"x": 2}))).reset()
    np.testing.assert_array_equal(shown["part_0"], [0, 1])
    np.testing.assert_array_equal(shown["part_1_x"], [0, 0, 1])


# --- Seeds ----------------------------------------------------------------------------


class Seedless(Told):
    def reset(self):
        return super().reset()


def test_a_reset_without_seed_is_told_of_and_trains():
    with pytest.warns(UserWarning, match=r"reset\(\) of Seedless takes no seed"):
        env = prepared(Seedless())
    assert env.reset()["is_first"]


class OptionsMissing(Told):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class NoDefaults(Told):
    def reset(self, seed, options):
        return super().reset(seed=seed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.wrappers.TimeLimit(Seedless(), 9),
        lambda: gymnasium.wrappers.TimeLimit(OptionsMissing(), 9),
        NoDefaults,
    ],
)
@pytest.mark.filterwarnings("ignore:.*takes no seed")
def test_a_reset_must_take_what_gymnasium_gives_it(make):
    refused(make(), r"write it as reset\(self, \*, seed=None, options=None\)")


def test_a_reset_without_options_trains_where_none_are_given():
    inner = OptionsMissing()
    prepared(inner).reset()
    assert inner.seeds == [3, 3]


def test_the_check_uses_up_neither_seed_nor_state():
    inner = Told()
    env = prepared(inner)
    env.reset()
    env.reset()
    assert inner.seeds == [3, 3, None]
    kept = ToyReach(1)
    env, other = prepared(kept), ToyReach(1)
    np.testing.assert_array_equal(env.reset()["position"], other.reset()["position"])


def raising(error):
    class Broken(Told):
        def step(self, action):
            raise error

    return Broken()


def test_what_may_pass_is_left_to_the_run_and_a_fault_in_the_code_is_not():
    env = prepared(raising(OSError("the cable is out")))
    env.reset()
    with pytest.raises(OSError, match="cable"):
        env.step({"action": np.float32([1, 0])})
    with pytest.raises(AttributeError, match="no attribute"):
        prepared(raising(AttributeError("no attribute 'x'")))


def test_what_is_no_number_is_left_out_with_a_word():
    space = Dict({"a": Box(-1, 1, (2,)), "mission": Text(5)})
    with pytest.warns(UserWarning, match=r"'mission', Text\(1, 5.*it is left out"):
        shown = prepared(Told(space)).reset()
    assert {*shown} == {"a", *signal_spaces()}


# --- What is no single environment ----------------------------------------------------


class Several(Told):
    possible_agents = ("a", "b")


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: gymnasium.make_vec("CartPole-v1", 2),
            "vector environment, which .* 2",
        ),
        (
            lambda: gymnasium.make_vec("CartPole-v1", 1),
            "vector environment, which .* 1",
        ),
        (Several, "of several agents"),
        (lambda: None, "or a function that makes one, but got a NoneType"),
        (lambda: "CartPole-v1", "got a str"),
        (lambda: 3, "got a int"),
    ],
)
def test_what_is_no_single_environment_is_refused(make, words):
    refused(make(), words)
