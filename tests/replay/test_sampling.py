"""The replay: which sequences come out."""

from collections import Counter

import numpy as np
import pytest
from replay_tools import add, make_step, sequences, streams, take

from dreamerv2.common.episodes.sampling import draw_sequence
from dreamerv2.common.errors import UsageError
from dreamerv2.common.replay import Replay


@pytest.mark.parametrize("prioritize", [False, True])
@pytest.mark.parametrize(
    ("total", "minlen", "maxlen"),
    [(51, 50, 50), (20, 5, 8), (20, 5, 0), (9, 8, 30), (2, 1, 50), (30, 1, 7)],
)
def test_sequences_follow_the_rule(total, minlen, maxlen, prioritize):
    expected = Counter()
    for jitter in range(minlen):
        length = max(minlen, (min(total, maxlen) if maxlen else total) - jitter)
        upper = total - length + 1 + (minlen if prioritize else 0)
        for place in range(upper):
            start = min(place, total - length)
            expected[start, length] += 1 / minlen / upper
    assert sum(expected.values()) == pytest.approx(1)
    rng = np.random.default_rng(0)
    amount = 6000
    counts = Counter(
        draw_sequence(rng, total, minlen, maxlen, prioritize) for _ in range(amount)
    )
    assert set(counts) <= set(expected)
    for outcome, chance in expected.items():
        deviation = np.sqrt(amount * chance * (1 - chance)) + 1e-9
        assert abs(counts[outcome] - amount * chance) < 5 * deviation, outcome


def test_episodes_are_drawn_uniformly_whatever_their_length(tmp_path):
    replay = Replay(tmp_path, minlen=5, maxlen=5)
    for number, steps in enumerate((5, 50, 12, 100)):
        add(replay, number, steps)
    numbers = np.concatenate(
        [b["count"][:, 0] // 1000 for b in take(replay.dataset(40, 5), 100)]
    )
    assert np.allclose(np.bincount(numbers) / 4000, 0.25, atol=0.035)


def test_is_first_is_true_where_a_sequence_begins_and_nowhere_else(tmp_path):
    replay = Replay(tmp_path, minlen=4, maxlen=9, prioritize_ends=True)
    for number in range(3):
        add(replay, number, 20)
    stream = streams(take(replay.dataset(5, 7), 40))
    assert stream["is_first"].dtype == bool
    lengths = set()
    for counts, firsts in zip(stream["count"], stream["is_first"], strict=True):
        *complete, _ = sequences(counts, firsts)
        for piece in complete:
            assert (np.diff(piece) == 1).all()
            lengths.add(len(piece))
    assert lengths == set(range(6, 10))
    assert (stream["image"][..., 0, 0, 0] == stream["count"] % 1000).all()
    assert (stream["reward"] == stream["count"] % 1000).all()
    # Begun in the middle of an episode, too.
    assert (stream["count"][stream["is_first"]] % 1000 > 0).any()


def test_rest_of_a_sequence_goes_on_in_the_same_row(tmp_path):
    replay = Replay(tmp_path, minlen=30, maxlen=30)
    for number in range(5):
        add(replay, number, 30)
    stream = streams(take(replay.dataset(4, 7), 31))
    for counts, firsts in zip(stream["count"], stream["is_first"], strict=True):
        *complete, _ = sequences(counts, firsts)
        assert len(complete) == 7
        for piece in complete:
            assert len(piece) == 30 and (np.diff(piece) == 1).all()


def test_short_episodes_fill_long_batches(tmp_path):
    replay = Replay(tmp_path, minlen=1, maxlen=50)
    for number in range(3):
        add(replay, number, 10)
    batch = next(replay.dataset(2, 50))
    assert batch["image"].shape == (2, 50, 4, 4, 1)
    assert batch["image"].dtype == np.uint8
    for counts, firsts in zip(batch["count"], batch["is_first"], strict=True):
        assert len(sequences(counts, firsts)) == 5  # 4 x 11 + 6.


def test_unfinished_episodes_are_drawn_only_if_asked_and_long_enough(tmp_path):
    for ongoing, expected in ((False, {0}), (True, {0, 1})):
        replay = Replay(tmp_path / str(ongoing), ongoing=ongoing, minlen=5, maxlen=5)
        add(replay, 0, 10)
        add(replay, 1, 5, worker=1, finish=False)
        add(replay, 2, 4, worker=2, finish=False)
        counts = np.concatenate([b["count"] for b in take(replay.dataset(8, 5), 20)])
        assert set(counts.ravel() // 1000) == expected
        assert counts[counts // 1000 == 1].max(initial=0) <= 1005


def test_growing_episodes_are_never_read_beyond_their_length(tmp_path):
    replay = Replay(tmp_path, ongoing=True, minlen=2, maxlen=20)
    replay.add_step(make_step(7, 0))
    replay.add_step(make_step(7, 1))
    replay.add_step(make_step(7, 2))
    dataset = replay.dataset(4, 10)
    for index in range(3, 400):
        batch = next(dataset)  # The one planned before the latest step.
        counts = batch["count"]
        assert counts.min() >= 7000 and counts.max() < 7000 + max(index - 1, 3)
        assert (batch["image"][..., 0, 0, 0] == counts % 1000 % 256).all()
        replay.add_step(make_step(7, index, index == 399))
    assert replay.stats["total_steps"] == 399


def test_forgotten_episodes_can_still_be_copied(tmp_path):
    replay = Replay(tmp_path, capacity=40, minlen=30)
    add(replay, 0, 40)
    dataset = replay.dataset(2, 10)
    next(dataset)
    add(replay, 1, 40)
    old = streams(take(dataset, 2))  # The planned one and the rests of its sequences.
    assert set((old["count"] // 1000).ravel()) <= {0, 1}
    assert (old["count"][:, :10] // 1000 == 0).all()


@pytest.mark.parametrize(
    ("steps", "finish", "words"),
    [
        (None, True, ["0 on disk", "minlen"]),
        (4, True, ["1 skipped", "9 steps"]),
        (30, False, ["1 unfinished with 30 steps"]),
    ],
)
def test_nothing_to_sample_says_what_there_is_and_what_is_needed(
    tmp_path, steps, finish, words
):
    replay = Replay(tmp_path, minlen=9)
    if steps:
        add(replay, 0, steps, finish=finish)
    dataset = replay.dataset(2, 5)
    for _ in range(2):
        with pytest.raises(UsageError) as error:
            next(dataset)
        for word in words:
            assert word in str(error.value)
    add(replay, 1, 9)
    assert set(next(dataset)["count"].ravel() // 1000) == {1}
