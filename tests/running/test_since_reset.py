"""How well the model follows an evaluation, against the steps since its reset."""

import numpy as np
import pytest

from dreamerv2.running.since_reset import MOST, SinceReset


class Following:
    """An agent whose model is off by what the observations say."""

    def follow(self, obs, state):
        assert state == "state"
        return {"kl": obs["off"], "image_loss": 2 * obs["off"]}


def observe(off, first=False, last=False):
    count = len(off)
    flags = {"is_first": np.full(count, first), "is_last": np.full(count, last)}
    return {**flags, "off": np.array(off, float)}


def test_early_and_late_steps_have_their_own_means():
    looked = SinceReset(Following(), length=3)
    looked.add(observe([9, 9], first=True), None)
    for off in ([1, 10], [3, 20], [5, 30]):  # Steps 1, 2 and 3 since the reset.
        looked.add(observe(off), "state")
    ended = observe([7, 99])
    ended["is_last"][1] = True  # It stands still from here on.
    looked.add(ended, "state")
    again = observe([9, 99], first=True)
    again["is_first"][1], again["is_last"][1] = False, True
    looked.add(again, "state")
    ended["off"] = np.array([4, 99])
    looked.add(ended, "state")
    assert looked.metrics() == {
        "kl_early": pytest.approx((1 + 10 + 3 + 20 + 4) / 5),
        "kl_late": pytest.approx((5 + 30 + 7) / 3),
        "image_loss_early": pytest.approx(2 * (1 + 10 + 3 + 20 + 4) / 5),
        "image_loss_late": pytest.approx(2 * (5 + 30 + 7) / 3),
    }
    ages, values = looked.series()
    assert ages.tolist() == [1, 1, 2, 2, 3, 3, 4, 1]
    assert values["kl"].tolist() == [1, 10, 3, 20, 5, 30, 7, 4]


def test_short_episodes_have_no_late_steps_and_none_at_all_no_metrics():
    looked = SinceReset(Following(), length=3)
    assert looked.metrics() == {} and looked.series()[1] == {}
    looked.add(observe([9], first=True), None)
    looked.add(observe([2]), "state")
    assert looked.metrics() == {"kl_early": 2, "image_loss_early": 4}


def test_a_long_evaluation_is_looked_at_from_end_to_end():
    looked = SinceReset(Following(), length=3)
    looked.add(observe([0], first=True), None)
    steps = 10 * MOST
    for step in range(1, steps):
        looked.add(observe([step]), "state")
    ages, values = looked.series()
    assert (ages == values["kl"]).all() and (np.diff(ages) == 16).all()
    assert MOST / 2 <= len(ages) < MOST and ages[0] < 17 and ages[-1] > steps - 17
