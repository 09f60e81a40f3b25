"""Spaces of any nesting, as vectors, images and one action."""

import numpy as np
import pytest
from env_tools import Told, prepared
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    OneOf,
    Sequence,
    Text,
)
from gymnasium.spaces import Tuple as Tuples

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.actions import FlatAction
from dreamerv2.common.suites.observations import FlatObservation


def test_every_combination_of_discrete_parts_is_one_action():
    flat = FlatAction(MultiDiscrete([2, 3]))
    assert flat.space == Discrete(6)
    taken = [flat(i).tolist() for i in range(6)]
    assert taken == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    flat = FlatAction(MultiBinary(3))
    assert flat.space == Discrete(8) and flat(6).tolist() == [1, 1, 0]
    space = Dict({"jump": Discrete(2), "move": Tuples([Discrete(3, start=-1)])})
    flat = FlatAction(space)
    assert flat.space == Discrete(6)
    assert flat(5) == {"jump": 1, "move": (1,)} and flat(0)["move"] == (-1,)
    assert all(space.contains(flat(i)) for i in range(6))
    assert FlatAction(Discrete(3, start=5))(2) == 7
    assert FlatAction(MultiDiscrete([512])).space.n == 512
    with pytest.raises(UsageError, match="have 1024 combinations.*at most 512"):
        FlatAction(MultiBinary(10))


def test_boxes_of_any_nesting_are_one_vector():
    space = Tuples(
        [
            Box(-2, 2, (2, 2), np.float32),
            Dict({"gear": Box(0, 4, (1,), np.int64), "gas": Box(0, 1, ())}),
        ]
    )
    flat = FlatAction(space)
    assert flat.space.shape == (6,)
    # A dict's keys are in the order of Gymnasium: gas, then gear.
    assert flat.space.low.tolist() == [-2, -2, -2, -2, 0, 0]
    assert flat.space.high.tolist() == [2, 2, 2, 2, 1, 4]
    arm, rest = flat(np.float32([1, 2, -1, 0, 0.5, 2.6]))
    assert arm.tolist() == [[1, 2], [-1, 0]]
    assert rest["gas"] == 0.5 and rest["gear"].tolist() == [3]
    assert space.contains((arm, rest))


def test_a_mix_of_boxes_and_discrete_actions_is_refused():
    with pytest.raises(UsageError, match="mix boxes and discrete"):
        FlatAction(Dict({"steer": Box(-1, 1, (1,)), "honk": Discrete(2)}))
    with pytest.raises(UsageError, match="box or discrete actions"):
        FlatAction(Text(5))


def test_nested_observations_get_flat_names_without_slashes():
    space = Dict(
        {
            "robot": Dict({"arm/left": Box(-1, 1, (2, 3)), "grip": MultiBinary(2)}),
            "view": Tuples([Box(0, 255, (4, 4), np.uint8), Discrete(3, start=1)]),
            "dice": MultiDiscrete([2, 3]),
            "reward": Box(-1, 1, ()),
            "said": Text(9),
        }
    )
    flat = FlatObservation(space)
    shapes = {key: box.shape for key, box in flat.spaces.items()}
    assert shapes == {
        "robot_arm_left": (6,),
        "robot_grip": (2,),
        "view_0": (4, 4, 1),
        "view_1": (3,),
        "dice": (5,),
        "obs_reward": (1,),
    }
    for _ in range(20):
        given = space.sample()
        shown = flat(given)
        assert all(box.contains(shown[key]) for key, box in flat.spaces.items())
        assert shown["view_1"].argmax() == given["view"][1] - 1
        assert shown["dice"][:2].argmax() == given["dice"][0]
        assert shown["dice"][2:].argmax() == given["dice"][1]
        assert shown["dice"].sum() == 2
        assert shown["obs_reward"][0] == given["reward"]
        np.testing.assert_array_equal(shown["view_0"][..., 0], given["view"][0])
        arm = given["robot"]["arm/left"]
        np.testing.assert_array_equal(shown["robot_arm_left"], arm.ravel())


@pytest.mark.parametrize(
    "space, ends",
    [
        (Box(-2, 3, (2,), np.float32), ([-2, -2], [3, 3])),
        (Box(-2, 3, (1,), np.float64), ([-2], [3])),
        (Box(0, 4, (1,), np.int64), ([0], [4])),
        (Box(0, 255, (1,), np.uint8), ([0], [255])),
        (Box(-(2**31), 2**31 - 1, (1,), np.int32), ([-(2**31)], [2**31 - 1])),
        (Box(-(2**63), 2**63 - 1, (1,), np.int64), ([-(2**63)], [2**63 - 1])),
        (Box(0, 1, (2,), bool), ([False] * 2, [True] * 2)),
        (Box(-1, 1, (), np.float32), (-1, 1)),
        (Box(-np.inf, np.inf, (2,), np.float32), ([-1, -1], [1, 1])),
        (Box(-3e38, 3e38, (1,), np.float32), ([-1], [1])),
        (Box(1, 1, (1,), np.float32), ([1], [1])),
    ],
)
def test_the_ends_of_an_action_are_the_bounds_of_its_box(space, ends):
    inner = Told(action=space)
    env = prepared(inner)
    env.reset()
    for end in (-1, 1):
        env.step({"action": np.full(env.act_space["action"].shape, end, np.float32)})
    assert [taken.dtype for taken in inner.took] == [space.dtype] * 2
    for taken, expected in zip(inner.took, ends, strict=True):
        assert space.contains(taken)
        assert taken.tolist() == expected


@pytest.mark.parametrize(
    "space, words",
    [
        (Box(0, np.inf, (2,), np.float32), "bound on one side alone"),
        (Box(-np.inf, 5, (1,), np.float32), "bound on one side alone"),
        (Box(0, 1, (0,), np.float32), "or there are none"),
        (OneOf([Discrete(2), Discrete(3)]), "box or discrete actions"),
        (Sequence(Discrete(2)), "box or discrete actions"),
        (Discrete(10000), "have 10000 combinations"),
        (Dict({}), "box or discrete actions"),
        (None, "but got None"),
    ],
)
def test_actions_that_cannot_be_right_are_refused(space, words):
    with pytest.raises(UsageError, match=words):
        FlatAction(space)
