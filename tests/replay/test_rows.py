"""How rows go on: in one stream, each in its own, or from latents of acting."""

import numpy as np
import pytest
from replay_tools import add, assert_same, make_step, sequences, take

from dreamerv2.common.episodes.episode import LATENT
from dreamerv2.common.replay import Replay

ROWS = ["stream", "rows", "acted"]


def latent_of(number, index):
    """What an agent might have kept before step `index` of episode `number`."""
    return np.full(4, 40 * number + index + 1, np.uint8)


def add_acted(replay, number, steps, worker=0):
    for index in range(steps + 1):
        kept = {LATENT: latent_of(number, index)}
        replay.add_step(make_step(number, index, index == steps, **kept), worker)


def test_in_a_stream_the_rest_of_a_sequence_goes_on_in_the_next_row(tmp_path):
    replay = Replay(tmp_path, minlen=30, maxlen=30)
    for number in range(5):
        add(replay, number, 30)
    batches = take(replay.dataset(4, 7, rows="stream"), 31)
    counts, firsts = (
        np.concatenate([batch[key].ravel() for batch in batches])
        for key in ("count", "is_first")
    )
    *complete, _ = sequences(counts, firsts)
    assert len(complete) == 28  # 31 * 4 * 7 = 28 * 30 + 28.
    for piece in complete:
        assert len(piece) == 30 and (np.diff(piece) == 1).all()


def test_sequences_as_long_as_their_rows_are_the_same_whatever_the_way(tmp_path):
    replay = Replay(tmp_path, minlen=6, maxlen=6, prioritize_ends=True, seed=4)
    for number in range(5):
        add(replay, number, 9)
    state = replay.dataset(3, 6).state_dict()
    found = []
    for rows in ROWS:
        dataset = replay.dataset(3, 6, rows=rows)
        dataset.load_state_dict({**state, "stream": rows == "stream"})
        found.append(take(dataset, 20))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])
    assert all(batch["is_first"][:, 0].all() for batch in found[0])


@pytest.mark.parametrize("rows", ROWS)
def test_a_saved_dataset_goes_on_with_the_same_rows(tmp_path, rows):
    replay = Replay(tmp_path, minlen=5, maxlen=9)
    for number in range(4):
        add_acted(replay, number, 20)
    dataset, again = (replay.dataset(3, 7, rows=rows) for _ in range(2))
    take(dataset, 5)
    again.load_state_dict(dataset.state_dict())
    assert_same(take(again, 9), take(dataset, 9))


def test_another_way_begins_all_rows_afresh(tmp_path):
    replay = Replay(tmp_path, minlen=9, maxlen=9)
    add(replay, 0, 30)
    dataset, again = replay.dataset(3, 7), replay.dataset(3, 7, rows="stream")
    assert next(dataset)["is_first"][:, 0].all()
    assert not next(dataset)["is_first"][:, 0].any()
    again.load_state_dict(dataset.state_dict())
    assert next(again)["is_first"][0, 0]


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_batch_has_the_latent_before_each_rows_first_step(tmp_path, storage):
    replay = Replay(tmp_path, minlen=5, maxlen=9, storage=storage)
    for number in range(2):
        add_acted(replay, number, 30)
    add(replay, 2, 30)  # An older one, or one of random actions.
    seen = set()
    for batch in take(replay.dataset(8, 7, rows="acted"), 20):
        assert batch[LATENT].shape == (8, 4)
        for count, kept in zip(batch["count"][:, 0], batch[LATENT], strict=True):
            number, index = divmod(int(count), 1000)
            seen.add(number)
            expected = np.zeros(4) if number == 2 else latent_of(number, index)
            np.testing.assert_array_equal(kept, expected)
    assert seen == {0, 1, 2}


def test_without_any_latents_a_batch_has_none(tmp_path):
    replay = Replay(tmp_path)
    add(replay, 0, 30)
    assert LATENT not in next(replay.dataset(3, 7, rows="acted"))


@pytest.mark.parametrize("before", [True, False])
def test_a_run_may_begin_or_end_to_keep_latents_within_an_episode(tmp_path, before):
    replay = Replay(tmp_path, ongoing=True)
    for index in range(4):
        kept = (index < 2) == before
        extra = {LATENT: latent_of(0, index)} if kept else {}
        replay.add_step(make_step(0, index, index == 3, **extra))
    (path,) = tmp_path.glob("*.npz")
    with np.load(path) as episode:
        assert (LATENT in episode) == before
        if before:
            np.testing.assert_array_equal(episode[LATENT][:, 0], [1, 2, 0, 0])
