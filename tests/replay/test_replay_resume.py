"""The replay of a run that goes on from a checkpoint holds what it would have held."""

import numpy as np
import pytest
from replay_tools import add, assert_same, files_in, make_step, take

from dreamerv2.common.errors import UsageError
from dreamerv2.common.replay import Replay
from dreamerv2.running.statefile import load_checkpoint, save_checkpoint

STORAGES = ["memory", "disk"]


def script(workers=2, length=400):
    """(transition, worker) of environments that play on, whoever watches."""
    rng = np.random.default_rng(0)
    number = dict.fromkeys(range(workers))
    left = dict.fromkeys(range(workers), -1)
    index = dict.fromkeys(range(workers), 0)
    steps = []
    for count in range(length):
        worker = count % workers
        if left[worker] < 0:
            left[worker] = int(rng.integers(6, 20))
            number[worker] = count % 90
            index[worker] = 0
        step = make_step(number[worker], index[worker], left[worker] == 0)
        steps.append((step, worker))
        left[worker] -= 1
        index[worker] += 1
    return steps


def make(path, **settings):
    return Replay(path, minlen=5, maxlen=9, prioritize_ends=True, seed=3, **settings)


def play(replay, steps, dataset=None):
    """Add the steps, one batch after every fifth; returns the batches."""
    batches = []
    for count, (step, worker) in enumerate(steps):
        replay.add_step(step, worker)
        if dataset is not None and count % 5 == 4:
            batches.append(next(dataset))
    return batches


def through_a_file(path, state):
    save_checkpoint(path, state)
    return load_checkpoint(path)


def contents(folder):
    """What is in the files, in order of time."""
    found = []
    for path in files_in(folder):
        with np.load(path, allow_pickle=False) as content:
            found.append({k: content[k].tolist() for k in sorted(content)})
    return found


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("settings", [{}, {"ongoing": True}, {"capacity": 60}])
@pytest.mark.parametrize("rows", ["rows", "stream"])
@pytest.mark.parametrize("lost", [1, 60])
def test_a_resumed_replay_gives_the_same_batches_in_the_middle_of_episodes(
    tmp_path, storage, settings, rows, lost
):
    settings = {**settings, "storage": storage}
    steps = script()
    whole, halves = make(tmp_path / "a", **settings), make(tmp_path / "b", **settings)
    datasets = [replay.dataset(3, 7, rows=rows) for replay in (whole, halves)]
    for replay, dataset in zip((whole, halves), datasets, strict=True):
        play(replay, steps[:100])
        play(replay, steps[100:203], dataset)
    expected = play(whole, steps[203:], datasets[0])
    state = through_a_file(tmp_path / "state", halves.state_dict())
    play(halves, steps[203 : 203 + lost], datasets[1])  # And then it is killed.
    again = make(tmp_path / "b", **settings)
    dataset = again.dataset(3, 7, rows=rows)
    again.load_state_dict(state, unfinished=True)
    # The same state as it was taken from, again.
    assert again.state_dict() == state
    assert_same(play(again, steps[203:], dataset), expected)
    assert again.stats == whole.stats
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    last = [next(make(tmp_path / x, **settings).dataset(9, 9)) for x in "ab"]
    assert_same(last[:1], last[1:])


@pytest.mark.parametrize("storage", STORAGES)
def test_episodes_ahead_are_held_back_until_they_are_played_again(
    tmp_path, capsys, storage
):
    replay = make(tmp_path, storage=storage)
    add(replay, 1, 10)
    state = replay.state_dict()
    add(replay, 2, 11)
    add(replay, 3, 12)
    files = files_in(tmp_path)
    again = make(tmp_path, storage=storage)
    capsys.readouterr()
    again.load_state_dict(state, unfinished=True)
    assert "Holding back 2 episodes (23 steps)" in capsys.readouterr().out
    assert (again.stats["total_steps"], again.stats["loaded_episodes"]) == (10, 1)
    add(again, 2, 11)
    assert (again.stats["total_steps"], again.stats["loaded_episodes"]) == (21, 2)
    assert again.state_dict()["newest"] == files[1].name
    assert files_in(tmp_path) == files
    add(again, 3, 12)
    assert files_in(tmp_path) == files
    add(again, 4, 13)
    assert len(files_in(tmp_path)) == 4
    assert again.stats["total_steps"] == 46
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("storage", STORAGES)
def test_nothing_is_lost_if_the_run_takes_another_way(tmp_path, capsys, storage):
    replay = make(tmp_path, storage=storage)
    add(replay, 1, 10)
    state = replay.state_dict()
    for number in (2, 3, 4):
        add(replay, number, 11)
    again = make(tmp_path, storage=storage)
    again.load_state_dict(state, unfinished=True)
    add(again, 2, 11)
    capsys.readouterr()
    add(again, 7, 11)
    assert "the 2 episodes of " in capsys.readouterr().out
    assert again.stats["total_steps"] == again.stats["loaded_steps"] == 10 + 4 * 11
    order = [content["count"][0] // 1000 for content in contents(tmp_path)]
    assert order == [1, 2, 3, 4, 7]
    fresh = make(tmp_path, storage=storage)
    for one in (again, fresh):
        one.load_state_dict(replay.state_dict())
    assert_same(take(again.dataset(4, 9), 5), take(fresh.dataset(4, 9), 5))


def test_environments_that_start_anew_get_all_finished_episodes(tmp_path, capsys):
    replay = make(tmp_path)
    add(replay, 1, 10)
    add(replay, 2, 10, worker=1, finish=False)
    state = replay.state_dict()
    add(replay, 3, 12)
    again = make(tmp_path)
    capsys.readouterr()
    again.load_state_dict(state)
    assert capsys.readouterr().out == ""
    assert again.stats == {
        "total_steps": 22,
        "total_episodes": 2,
        "loaded_steps": 22,
        "loaded_episodes": 2,
    }
    assert again.state_dict()["unfinished"] == []
    with pytest.raises(UsageError, match="environment 1"):
        again.add_step(make_step(2, 11), 1)


@pytest.mark.parametrize("unfinished", [False, True])
def test_old_checkpoints_load_as_before(tmp_path, unfinished):
    replay = make(tmp_path)
    add(replay, 1, 10)
    dataset = replay.dataset(2, 7)
    take(dataset, 2)
    state = {"datasets": replay.state_dict()["datasets"]}
    again = make(tmp_path)
    again.load_state_dict(state, unfinished=unfinished)
    assert_same(take(again.dataset(2, 7), 3), take(dataset, 3))


def test_memory_holds_what_it_held_at_the_checkpoint(tmp_path):
    replay = make(tmp_path, capacity=40)
    for number in range(5):
        add(replay, number, 10)
    state = replay.state_dict()
    for number in range(5, 9):
        add(replay, number, 12)
    again = make(tmp_path, capacity=40)
    again.load_state_dict(state, unfinished=True)
    assert again.stats["loaded_steps"] == 40
    counts = np.concatenate([b["count"] for b in take(again.dataset(6, 9), 30)])
    assert set(counts.ravel() // 1000) == {1, 2, 3, 4}


def test_an_episode_ahead_that_is_damaged_is_written_again(tmp_path, capsys):
    replay = make(tmp_path)
    add(replay, 1, 10)
    state = replay.state_dict()
    add(replay, 2, 11)
    again = make(tmp_path)
    again.load_state_dict(state, unfinished=True)
    damaged = files_in(tmp_path)[1]
    damaged.write_bytes(damaged.read_bytes()[:-30])
    add(again, 2, 11)
    assert again.stats["total_steps"] == 21
    first, second = files_in(tmp_path)
    assert second.name != damaged.name
    assert contents(tmp_path)[1]["count"][0] == 2000
    assert "Set aside 1 files" in capsys.readouterr().out


def test_episodes_that_went_missing_are_counted(tmp_path, capsys):
    replay = make(tmp_path)
    for number in range(3):
        add(replay, number, 10)
    state = replay.state_dict()
    files_in(tmp_path)[1].unlink()
    again = make(tmp_path)
    capsys.readouterr()
    again.load_state_dict(state)
    out = capsys.readouterr().out
    assert "Of the 3 episodes (30 steps)" in out and "1 are gone or damaged" in out


@pytest.mark.parametrize("unfinished", [False, True])
def test_an_episode_that_found_no_room_is_in_the_checkpoint(
    tmp_path, monkeypatch, unfinished
):
    replay = make(tmp_path)
    add(replay, 1, 10)

    def full(handle):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UsageError, match="No space left on device"):
            add(replay, 2, 11)
    assert len(files_in(tmp_path)) == 1
    assert not list(tmp_path.glob(".*.tmp"))
    state = through_a_file(tmp_path / "state", replay.state_dict())
    again = make(tmp_path)
    again.load_state_dict(state, unfinished=unfinished)
    assert again.stats["total_steps"] == 21
    assert contents(tmp_path)[1]["count"] == list(range(2000, 2012))
    assert again.state_dict()["unfinished"] == []
