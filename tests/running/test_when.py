"""Counter, Every and Until, also across a gap and across a resume."""

import pytest

from dreamerv2.common.counter import Counter
from dreamerv2.common.when import Every, Until

# Asked at these steps, the reference gives these answers.
STEPS = [0, 3, 5, 7, 12, 13, 29, 30, 31, 60]
CATCH_UP = {
    0: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    5: [1, 0, 1, 0, 1, 0, 1, 1, 1, 1],
    10: [1, 0, 0, 0, 1, 0, 1, 1, 0, 1],
}
UNTIL = {
    0: [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    10: [1, 1, 1, 1, 0, 0, 0, 0, 0, 0],
}


def fires(when, steps):
    return [step for step in steps if when(step)]


@pytest.mark.parametrize("every", CATCH_UP)
def test_every_with_catch_up_answers_as_the_reference(every):
    when = Every(every, catch_up=True)
    assert [when(step) for step in STEPS] == [bool(x) for x in CATCH_UP[every]]


def test_every_fires_once_after_a_gap_and_stays_on_its_grid():
    assert fires(Every(5), STEPS) == [0, 5, 12, 29, 30, 60]
    assert fires(Every(10), STEPS) == [0, 12, 29, 30, 60]
    assert fires(Every(10), [0, 99, 99, 99, 100, 101, 110]) == [0, 99, 100, 110]


@pytest.mark.parametrize("catch_up", [False, True])
def test_every_counts_from_its_first_call(catch_up):
    assert fires(Every(5, catch_up), range(3, 20)) == [3, 8, 13, 18]
    assert fires(Every(1, catch_up), range(4)) == [0, 1, 2, 3]


def test_every_fires_once_per_step_at_most():
    assert fires(Every(5), [0, 0, 0, 5, 5, 4, 9, 10]) == [0, 5, 10]


def test_every_zero_is_never_and_a_negative_one_is_an_error():
    assert fires(Every(0), range(100)) == []
    with pytest.raises(ValueError, match="-1"):
        Every(-1)


@pytest.mark.parametrize("split", range(1, len(STEPS)))
@pytest.mark.parametrize("catch_up", [False, True])
def test_every_goes_on_after_a_resume(split, catch_up):
    whole = fires(Every(5, catch_up), STEPS)
    before = Every(5, catch_up)
    first = fires(before, STEPS[:split])
    after = Every(5, catch_up)
    after.load_state_dict(before.state_dict())
    assert first + fires(after, STEPS[split:]) == whole


def test_every_resumed_with_another_period_counts_from_the_last_due_time():
    before = Every(1000)
    assert fires(before, range(0, 1500, 100)) == [0, 1000]
    shorter, longer, never = Every(300), Every(4000), Every(0)
    for when in (shorter, longer, never):
        when.load_state_dict(before.state_dict())
    assert fires(shorter, range(1200, 2000, 100)) == [1300, 1600, 1900]
    assert fires(longer, range(1200, 6000, 100)) == [5000]
    assert fires(never, range(1200, 6000, 100)) == []
    fresh = Every(10)
    fresh.load_state_dict(Every(10).state_dict())
    assert fresh(7)


@pytest.mark.parametrize("until", UNTIL)
def test_until_answers_as_the_reference(until):
    when = Until(until)
    assert [when(step) for step in STEPS] == [bool(x) for x in UNTIL[until]]
    assert when(0) and when(until - 1)


def test_all_of_them_take_a_counter():
    step = Counter(10)
    assert Every(5)(step)
    assert not Until(10)(step)


def test_counter_compares_like_an_int():
    step = Counter(5)
    step.increment()
    step.increment(4)
    assert (step.value, int(step), repr(step)) == (10, 10, "Counter(10)")
    assert step == 10 and step != 9 and step == Counter(10) and step != "10"
    assert 9 < step < 11 and step <= 10 and step >= Counter(10)
    assert list(range(step))[-1] == 9


def test_counter_is_shared_and_only_goes_up():
    step = shared = Counter()
    shared.increment(3)
    assert step == 3
    with pytest.raises(TypeError):
        step += 1
    with pytest.raises(ValueError, match="-1"):
        step.increment(-1)
    with pytest.raises(AttributeError):
        step.value = 3
    with pytest.raises(TypeError):
        hash(step)


def test_counter_goes_on_after_a_resume():
    step = Counter(7)
    resumed = Counter()
    resumed.load_state_dict(step.state_dict())
    assert resumed == 7


def test_asking_what_is_due_changes_nothing():
    every = Every(10)
    assert every.due(3) and every(3)
    assert [every.due(12), every.due(13), every.due(13)] == [False, True, True]
    assert every(13) and not every.due(13)
    assert not Every(0).due(5)
