"""The replay: what goes in, and what is kept in memory and on disk."""

import numpy as np
import pytest
from replay_tools import add, assert_same, files_in, make_step, sequences, take

from dreamerv2.common.errors import UsageError
from dreamerv2.common.replay import Replay

# What goes in.


def test_steps_become_an_episode_in_memory_and_on_disk(tmp_path):
    replay = Replay(tmp_path)
    add(replay, 3, 9)
    assert replay.stats == {
        "total_steps": 9,
        "total_episodes": 1,
        "loaded_steps": 9,
        "loaded_episodes": 1,
    }
    (file,) = files_in(tmp_path)
    assert file.name.endswith("-9.npz")
    with np.load(file, allow_pickle=False) as content:
        assert content["count"].tolist() == list(range(3000, 3010))
        assert {k: str(content[k].dtype) for k in content} == {
            "image": "uint8",
            "count": "int32",
            "reward": "float32",
            "action": "float32",
            "is_first": "bool",
            "is_last": "bool",
            "is_terminal": "bool",
        }


def test_whole_episode_equals_its_steps(tmp_path):
    steps = [make_step(1, i, i == 6) for i in range(7)]
    one, two = Replay(tmp_path / "one"), Replay(tmp_path / "two")
    one.add_episode({k: np.stack([s[k] for s in steps]) for k in steps[0]})
    for step in steps:
        two.add_step(step)
    assert one.stats == two.stats
    assert_same(take(one.dataset(2, 9), 3), take(two.dataset(2, 9), 3))


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_what_is_stored_does_not_change_with_the_arrays_that_were_given(
    tmp_path, storage
):
    replay = Replay(tmp_path, storage=storage)
    steps = [make_step(1, i, i == 6) for i in range(7)]
    buffers = {k: np.array(v) for k, v in steps[0].items()}
    for step in steps:
        for key, value in step.items():
            buffers[key][...] = value
        replay.add_step(buffers)
    whole = {k: np.stack([s[k] for s in steps]) for k in steps[0]}
    expected = {k: v.copy() for k, v in whole.items()}
    replay.add_episode(whole)
    for value in whole.values():
        value[...] = 0
    assert [len(batch["count"]) for batch in take(replay.dataset(2, 7), 1)] == [2]
    for index in range(2):
        found = replay.read(replay._store.recent[index])
        for key, value in found.items():
            np.testing.assert_array_equal(value, expected[key], key)


def test_log_keys_are_not_stored(tmp_path):
    replay = Replay(tmp_path)
    for index in range(5):
        replay.add_step(make_step(0, index, index == 4, log_depth="any" * index))
    batch = next(replay.dataset(1, 4))
    assert "log_depth" not in batch and "reward" in batch


def test_half_episode_is_dropped_when_the_driver_resets(tmp_path, capsys):
    replay = Replay(tmp_path)
    for number in (1, 2):
        add(replay, number, 5, finish=False)
    add(replay, 3, 6)
    assert replay.stats["total_steps"] == 6
    counts = np.concatenate([b["count"].ravel() for b in take(replay.dataset(2, 5), 9)])
    assert set(counts // 1000) == {3}
    assert capsys.readouterr().out == ""  # This is so after every prefill.


def test_workers_do_not_mix(tmp_path):
    replay = Replay(tmp_path)
    for index in range(8):
        for worker in range(3):
            replay.add_step(make_step(worker, index, index == 7), worker)
    assert replay.stats["total_episodes"] == 3
    batch = next(replay.dataset(16, 8))
    for row, firsts in zip(batch["count"], batch["is_first"], strict=True):
        for piece in sequences(row, firsts):
            assert (np.diff(piece) == 1).all()


def test_episode_must_begin_with_is_first(tmp_path):
    replay = Replay(tmp_path)
    with pytest.raises(UsageError, match="environment 2"):
        replay.add_step(make_step(0, 1), 2)
    with pytest.raises(UsageError, match="is_last"):
        replay.add_step({"is_first": True})


def test_short_episodes_are_skipped_with_few_words(tmp_path, capsys):
    replay = Replay(tmp_path, minlen=5)
    add(replay, 0, 4)
    assert "Skipped 1 of the episodes so far" in capsys.readouterr().out
    for number in range(1, 25):
        add(replay, number, 3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Skipped 10 of") and line.endswith("the last one has 3.")
    assert replay.stats["total_steps"] == 0
    add(replay, 1, 5)
    assert replay.stats["total_steps"] == 5
    assert capsys.readouterr().out == ""


def test_another_environment_in_the_same_directory_is_refused(tmp_path):
    add(Replay(tmp_path), 0, 5)
    replay = Replay(tmp_path)
    with pytest.raises(UsageError, match=r"'image' is uint8 of shape \(8, 8, 3\)"):
        replay.add_step(make_step(1, 0, image=np.zeros((8, 8, 3), np.uint8)))


def test_sequences_cannot_be_shorter_than_the_shortest(tmp_path):
    with pytest.raises(UsageError, match=r"replay\.maxlen is 8.*which is 9"):
        Replay(tmp_path, minlen=9, maxlen=8)


# What is kept.


def test_oldest_episodes_leave_memory_and_their_files_stay(tmp_path):
    replay = Replay(tmp_path, capacity=25)
    for number in range(5):
        add(replay, number, 10)
    assert replay.stats == {
        "total_steps": 50,
        "total_episodes": 5,
        "loaded_steps": 20,
        "loaded_episodes": 2,
    }
    assert len(files_in(tmp_path)) == 5
    counts = np.concatenate([b["count"].ravel() for b in take(replay.dataset(4, 9), 9)])
    assert set(counts // 1000) == {3, 4}


def test_newest_episode_stays_even_if_it_exceeds_the_capacity(tmp_path):
    replay = Replay(tmp_path, capacity=5)
    add(replay, 0, 10)
    add(replay, 1, 11)
    assert replay.stats["loaded_steps"] == 11
    assert Replay(tmp_path, capacity=5).stats == replay.stats


def test_list_of_episodes_does_not_grow_with_those_forgotten(tmp_path, monkeypatch):
    replay = Replay(tmp_path, capacity=30)
    names = iter(range(10**6))
    save = replay._store._files
    monkeypatch.setattr(save, "save", lambda arrays: f"{next(names):09}")
    for number in range(2500):
        add(replay, number % 100, 3)
    assert replay.stats["loaded_episodes"] == 10
    assert len(replay._store.recent._episodes) <= 1100
    counts = np.concatenate([b["count"].ravel() for b in take(replay.dataset(9, 9), 9)])
    assert set(counts // 1000) == set(range(90, 100))


@pytest.mark.parametrize("capacity", [0, 12, 30, 31, 1000])
def test_reloading_changes_nothing(tmp_path, capacity):
    replay = Replay(tmp_path, capacity, minlen=3, seed=1)
    for number in range(10):
        add(replay, number, 3 + (7 * number) % 11)
    again = Replay(tmp_path, capacity, minlen=3, seed=1)
    assert again.stats == replay.stats
    assert_same(take(again.dataset(3, 7), 5), take(replay.dataset(3, 7), 5))


def test_loading_applies_minlen_and_says_what_it_loaded(tmp_path, capsys):
    replay = Replay(tmp_path)
    for number, steps in enumerate((3, 20, 4, 30)):
        add(replay, number, steps)
    capsys.readouterr()
    replay = Replay(tmp_path, minlen=10, maxlen=10)
    (line,) = capsys.readouterr().out.splitlines()
    assert "Loaded 2 of 4 episodes (50 of 57 steps)" in line
    assert "2 are shorter" in line
    assert replay.stats["total_steps"] == 57
    counts = np.concatenate([b["count"].ravel() for b in take(replay.dataset(4, 9), 9)])
    assert set(counts // 1000) == {1, 3}


def test_damaged_and_foreign_files_are_named_and_not_counted(tmp_path, capsys):
    replay = Replay(tmp_path)
    for number in range(4):
        add(replay, number, 10)
    cut, flipped, *_ = files_in(tmp_path)
    cut.write_bytes(cut.read_bytes()[:100])
    content = bytearray(flipped.read_bytes())
    content[content.index(b"image.npy") + 40] ^= 255
    flipped.write_bytes(content)
    (tmp_path / "notes.txt").write_text("mine")
    capsys.readouterr()
    replay = Replay(tmp_path)
    assert replay.stats["total_steps"] == replay.stats["loaded_steps"] == 20
    loaded, aside = capsys.readouterr().out.splitlines()
    assert "Loaded 2 of 2" in loaded
    assert "Set aside 3 files" in aside
    for name in (cut.name, flipped.name, "notes.txt"):
        assert name in aside
    Replay(tmp_path)
    assert "Set aside 1 files" in capsys.readouterr().out


def test_damaged_files_are_made_up_for_by_older_ones(tmp_path):
    replay = Replay(tmp_path)
    for number in range(4):
        add(replay, number, 10)
    newest = files_in(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-5] + b"12345")
    replay = Replay(tmp_path, capacity=20)
    assert replay.stats["loaded_steps"] == 20
    assert replay.stats["total_steps"] == 30


def test_episodes_of_another_environment_are_not_loaded(tmp_path, capsys):
    old = Replay(tmp_path / "old")
    for index in range(6):
        old.add_step(make_step(0, index, index == 5, extra=np.zeros(3)))
    replay = Replay(tmp_path / "new")
    add(replay, 1, 7)
    (file,) = files_in(tmp_path / "old")
    file.rename(tmp_path / "new" / file.name)
    capsys.readouterr()
    assert Replay(tmp_path / "new").stats["total_steps"] == 7
    assert "'extra' is float32 of shape (3,), not missing" in capsys.readouterr().out
    assert (tmp_path / "new" / file.name).exists()
