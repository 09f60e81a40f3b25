"""The replay: the same seed gives the same batches, and threads change nothing."""

import gc
import json
import threading
import time

import numpy as np
import pytest
from replay_tools import add, assert_same, differ, files_in, sequences, take

from dreamerv2.common.replay import Replay

# The same seed, the same batches.


def filled(path, seed=0, **settings):
    replay = Replay(path, minlen=4, maxlen=9, seed=seed, **settings)
    for number in range(6):
        add(replay, number, 10 + number)
    return replay


def test_seed_decides_the_batches_and_threads_do_not(tmp_path):
    def run(name, seed, delay=None):
        replay = filled(tmp_path / name, seed)

        def slow(batch):
            time.sleep(delay.random() / 200)
            return batch

        dataset = replay.dataset(3, 7, slow if delay else None)
        batches = []
        for number in range(6, 30):
            batches.append(next(dataset))
            add(replay, number, 10)
        return batches

    reference = run("a", 1)
    assert_same(reference, run("b", 1))
    assert_same(reference, run("c", 1, np.random.default_rng(0)))
    assert differ(reference, run("d", 2))


def test_global_random_states_are_neither_used_nor_touched(tmp_path):
    np.random.seed(0)
    one = take(filled(tmp_path / "a").dataset(3, 7), 4)
    assert np.random.get_state()[2] == np.random.RandomState(0).get_state()[2]
    np.random.seed(1)
    assert_same(one, take(filled(tmp_path / "b").dataset(3, 7), 4))


def test_datasets_of_one_replay_are_independent(tmp_path):
    replay = filled(tmp_path / "a")
    train, report = replay.dataset(3, 7), replay.dataset(3, 7)
    assert differ(take(train, 3), take(report, 3))
    alone = filled(tmp_path / "b").dataset(3, 7)
    take(alone, 3)
    assert_same(take(train, 3), take(alone, 3))


def test_resumed_dataset_gives_the_batches_it_would_have_given(tmp_path):
    replay = filled(tmp_path)
    for before in (0, 1, 5):
        dataset = replay.dataset(3, 7)
        take(dataset, before)
        state = json.loads(json.dumps(dataset.state_dict()))
        again = filled_again(tmp_path).dataset(3, 7)
        next(again)  # What it did before does not matter.
        again.load_state_dict(state)
        assert_same(take(again, 6), take(dataset, 6))


def filled_again(path, **settings):
    return Replay(path, minlen=4, maxlen=9, **settings)


def test_resumed_replay_restores_all_of_its_datasets(tmp_path):
    replay = filled(tmp_path)
    train, report = replay.dataset(3, 7), replay.dataset(2, 5)
    take(train, 4)
    take(report, 2)
    state = json.loads(json.dumps(replay.state_dict()))
    again = filled_again(tmp_path)
    first = again.dataset(3, 7)
    again.load_state_dict(state)
    assert again.state_dict() == state
    second = again.dataset(2, 5)
    assert again.state_dict() == state
    assert_same(take(first, 5), take(train, 5))
    assert_same(take(second, 5), take(report, 5))


def test_episodes_added_after_planning_do_not_change_the_resumed_batch(tmp_path):
    replay = filled(tmp_path, capacity=60)
    dataset = replay.dataset(3, 7)
    next(dataset)
    for number in range(6, 12):  # All that was planned leaves memory.
        add(replay, number, 10)
    state = dataset.state_dict()
    again = filled_again(tmp_path, capacity=60).dataset(3, 7)
    again.load_state_dict(state)
    expected = take(dataset, 5)
    assert (expected[0]["count"] // 1000 < 6).all()
    assert_same(take(again, 5), expected)


def test_rows_of_which_episodes_are_gone_start_afresh(tmp_path):
    replay = filled(tmp_path)
    dataset = replay.dataset(6, 7)
    take(dataset, 3)
    state = dataset.state_dict()
    lost = state["rows"][0][0][0]
    (tmp_path / lost).unlink()
    number = replay.find(lost).arrays["count"][0] // 1000
    again = filled_again(tmp_path).dataset(6, 7)
    again.load_state_dict(state)
    expected, resumed = next(dataset), next(again)
    untouched = [i for i, row in enumerate(state["rows"]) if lost not in str(row)]
    assert 0 < len(untouched) < 6
    assert_same(
        [{k: v[untouched] for k, v in resumed.items()}],
        [{k: v[untouched] for k, v in expected.items()}],
    )
    assert resumed["is_first"][0, 0]
    assert not (resumed["count"] // 1000 == number).any()


def test_other_sizes_after_a_resume_start_afresh(tmp_path):
    replay = filled(tmp_path)
    dataset = replay.dataset(3, 7)
    next(dataset)
    other = replay.dataset(2, 5)
    other.load_state_dict(dataset.state_dict())
    batch = next(other)
    assert batch["count"].shape == (2, 5)
    assert batch["is_first"][:, 0].all()


def test_state_does_not_lead_out_of_the_directory(tmp_path):
    outside = filled(tmp_path / "outside")
    name = files_in(tmp_path / "outside")[0].name
    inside = filled(tmp_path / "inside")
    assert inside.find(f"../outside/{name}") is None
    assert outside.find(name).steps >= 10


# The background thread.


def test_transform_runs_in_the_background_on_new_arrays(tmp_path):
    names = []

    def transform(batch):
        names.append(threading.current_thread().name)
        batch["count"] += 10**6
        return batch

    replay = filled(tmp_path)
    batches = take(replay.dataset(3, 7, transform), 5)
    assert set(names) == {"dataset"}
    plain = take(filled_again(tmp_path).dataset(3, 7), 5)
    for changed, batch in zip(batches, plain, strict=True):
        np.testing.assert_array_equal(changed["count"], batch["count"] + 10**6)
    batches[0]["image"][:] = 0
    assert batches[1]["image"].any()


def test_next_batch_is_made_while_the_current_one_is_used(tmp_path):
    made = threading.Semaphore(0)

    def transform(batch):
        made.release()
        return batch

    next(filled(tmp_path).dataset(3, 7, transform))
    assert made.acquire(timeout=10) and made.acquire(timeout=10)


def test_error_in_the_background_is_raised_at_the_next_batch(tmp_path):
    calls = []

    def transform(batch):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("pinning failed")
        return batch

    dataset = filled(tmp_path).dataset(3, 7, transform)
    take(dataset, 2)
    with pytest.raises(RuntimeError, match="pinning failed") as error:
        next(dataset)
    assert "transform" in [entry.name for entry in error.traceback]


def test_closed_dataset_ends_and_its_thread_with_it(tmp_path):
    dataset = filled(tmp_path).dataset(3, 7)
    next(dataset)
    thread = dataset._thread
    assert thread.daemon and thread.is_alive()
    dataset.close()
    dataset.close()
    assert not thread.is_alive()
    assert list(dataset) == []


def test_forgotten_dataset_takes_its_thread_with_it(tmp_path):
    dataset = filled(tmp_path).dataset(3, 7)
    next(dataset)
    thread = dataset._thread
    del dataset
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_adding_in_several_threads_while_sampling_tears_nothing(tmp_path):
    replay = Replay(tmp_path, capacity=300, ongoing=True, minlen=5, maxlen=9)
    add(replay, 0, 10)

    def write(worker):
        for _ in range(10):
            add(replay, worker, 12, worker)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(1, 5)]
    for thread in threads:
        thread.start()
    dataset = replay.dataset(8, 20)
    for _ in range(50):
        batch = next(dataset)
        for row, firsts in zip(batch["count"], batch["is_first"], strict=True):
            for piece in sequences(row, firsts | (np.arange(20) == 0)):
                assert (np.diff(piece) == 1).all()
    for thread in threads:
        thread.join()
    assert replay.stats["total_episodes"] == 41
    assert replay.stats["loaded_steps"] <= 300
