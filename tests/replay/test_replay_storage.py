"""The replay on disk: mapped files, their index, and how many of them are kept."""

import gc
import json
import os
import random
import runpy
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from replay_tools import add, assert_same, files_in, streams, take

from dreamerv2.common.episodes import npz
from dreamerv2.common.episodes.episode import Episode
from dreamerv2.common.episodes.files import EpisodeFiles
from dreamerv2.common.episodes.npz import EpisodeLostError, Reader
from dreamerv2.common.replay import Replay

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "replay.py"


def filled(path, episodes=8, **settings):
    settings = {"storage": "disk", "minlen": 4, "maxlen": 9, **settings}
    replay = Replay(path, **settings)
    for number in range(len(files_in(path)), episodes):
        add(replay, number, 10 + number)
    return replay


def flip(path, where=b"image.npy"):
    """Change a value of a key in a file."""
    content = bytearray(path.read_bytes())
    content[content.rindex(where, 0, len(content) // 2) + 200] ^= 1
    path.write_bytes(content)


def read_files(monkeypatch):
    """A list that fills with the names of files that are read as a whole."""
    read, load = [], EpisodeFiles.load

    def loading(self, name):
        read.append(name)
        return load(self, name)

    monkeypatch.setattr(EpisodeFiles, "load", loading)
    return read


# Mapped files.


def test_memory_and_disk_give_the_same_batches(tmp_path):
    kinds = {"memory": "one", "disk": "two"}
    replays = [filled(tmp_path / v, storage=k, seed=1) for k, v in kinds.items()]
    one, two = (take(replay.dataset(3, 7), 30) for replay in replays)
    assert_same(one, two)
    assert replays[0].stats == replays[1].stats
    # And files of either are opened by both.
    for name in kinds.values():
        for storage in kinds:
            again = filled(tmp_path / name, storage=storage, seed=1)
            assert_same(take(again.dataset(3, 7), 30), one)


def test_files_that_are_mapped_are_npz_files_as_numpy_reads_them(tmp_path):
    filled(tmp_path, 1)
    (file,) = files_in(tmp_path)
    with np.load(file, allow_pickle=False) as content:
        assert content["count"].tolist() == list(range(11))
        assert content["image"].dtype == np.uint8


def test_finished_episodes_do_not_stay_in_memory(tmp_path):
    replay = filled(tmp_path)
    take(replay.dataset(3, 7), 5)
    recent = replay._store.recent
    assert [recent[i].arrays for i in range(8)] == [None] * 8
    array = replay.read(recent[0])["image"]
    assert not array.flags.owndata and not array.flags.writeable
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base.obj).__name__ == "mmap"


def test_few_files_are_open_at_a_time(tmp_path):
    opened = []

    def open_episode(episode):
        opened.append(episode.name)
        return {"image": np.zeros(episode.total, np.uint8)}

    reader = Reader(open_episode, files=3, size=100)
    names = "abcdabdc"
    for name in names:
        assert len(reader.read(Episode(None, 10, name))["image"]) == 10
    assert "".join(opened) == "abcdabc"  # Of which d was still open.
    reader.read(Episode(None, 95, "large"))
    assert list(reader._cache) == ["large"]
    reader.read(Episode(None, 500, "larger"))
    assert list(reader._cache) == ["larger"]
    reader.close("larger")
    assert reader._used == 0


def test_compressed_files_are_made_mappable_when_they_are_drawn_from(tmp_path):
    filled(tmp_path, storage="memory")
    before = {path: path.stat().st_size for path in files_in(tmp_path)}
    expected = take(filled(tmp_path, storage="memory").dataset(3, 7), 9)
    replay = filled(tmp_path)
    assert_same(take(replay.dataset(3, 7), 9), expected)
    take(replay.dataset(16, 9), 9)
    assert files_in(tmp_path) == list(before)
    assert all(path.stat().st_size > size for path, size in before.items())
    assert not list(tmp_path.glob(".*"))
    assert_same(take(filled(tmp_path).dataset(3, 7), 9), expected)


def test_compressed_files_are_read_if_there_is_no_room_for_larger_ones(
    tmp_path, monkeypatch
):
    expected = take(filled(tmp_path, storage="memory").dataset(3, 7), 9)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_same(take(filled(tmp_path).dataset(3, 7), 9), expected)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_file_that_is_lost_while_it_is_used_does_not_stop_the_run(
    tmp_path, capsys, how
):
    replay = filled(tmp_path)
    dataset = replay.dataset(8, 7)
    next(dataset)
    lost = files_in(tmp_path)[3]
    again = filled(tmp_path)
    again.load_state_dict(replay.state_dict())
    dataset.close()  # Whoever has mapped a file that is cut gets a SIGBUS.
    del replay, dataset
    if how == "flipped":
        flip(lost)
    elif how == "cut":
        lost.write_bytes(lost.read_bytes()[:-50])
    else:
        lost.unlink()
    capsys.readouterr()
    stream = streams(take(again.dataset(8, 7), 20))
    assert 3 not in stream["count"] // 1000
    for counts, firsts in zip(stream["count"], stream["is_first"], strict=True):
        assert ((np.diff(counts) == 1) | firsts[1:]).all()
    assert (again.stats["total_episodes"], again.stats["loaded_episodes"]) == (7, 7)
    (line,) = capsys.readouterr().out.splitlines()
    assert lost.name in line and "Set aside 1 files" in line
    assert (tmp_path / f"{lost.name}.damaged").exists() == (how != "gone")


def test_lengths_that_contradict_a_files_name_are_noticed(tmp_path):
    files = EpisodeFiles(tmp_path, compress=False)
    name = files.save({k: np.zeros(5, bool) for k in ("is_first", "is_last")})
    os.rename(tmp_path / name, tmp_path / name.replace("-4.npz", "-6.npz"))
    episode = Episode(None, 7, name.replace("-4.npz", "-6.npz"))
    with pytest.raises(EpisodeLostError, match="lengths or keys are wrong"):
        files.open(episode)


# The index.


def test_opening_reads_no_file_that_the_index_knows(tmp_path, monkeypatch):
    replay = filled(tmp_path)
    state = replay.state_dict()
    read = read_files(monkeypatch)
    again = filled(tmp_path)
    assert again.stats == replay.stats and again.state_dict() == state
    assert read == []
    (tmp_path / "index.jsonl").unlink()
    assert filled(tmp_path).stats == replay.stats
    assert sorted(read) == [path.name for path in files_in(tmp_path)]
    read.clear()
    assert filled(tmp_path).stats == replay.stats
    assert read == []


def test_a_file_that_changed_is_read_whatever_the_index_says(tmp_path, capsys):
    filled(tmp_path)
    changed = files_in(tmp_path)[2]
    flip(changed)
    os.utime(changed, (1, 1))
    capsys.readouterr()
    assert filled(tmp_path, 7).stats["total_episodes"] == 7
    assert "Set aside 1 files" in capsys.readouterr().out


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_any_index_gives_the_same_replay(tmp_path, storage, capsys):
    expected = filled(tmp_path, storage=storage).state_dict()
    batches = take(filled(tmp_path, storage=storage).dataset(3, 7), 3)
    index = tmp_path / "index.jsonl"
    whole = index.read_bytes()
    rng = random.Random(0)
    for trial in range(60):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[rng.randrange(len(content)) :]
        elif trial % 3 == 1:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            content[: rng.randrange(len(content))] = rng.randbytes(99)
        index.write_bytes(content)
        capsys.readouterr()
        replay = filled(tmp_path, storage=storage)
        assert replay.state_dict() == expected
        assert_same(take(replay.dataset(3, 7), 3), batches)
        out = capsys.readouterr().out.splitlines()
        assert out[-1].startswith("Loaded 8 of 8") and len(out) <= 2
        if len(out) > 1:
            assert "The index" in out[0] and "is made again" in out[0]
        assert sorted(index.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_an_index_of_other_files_is_not_believed(tmp_path):
    filled(tmp_path / "one")
    filled(tmp_path / "two", 5)
    os.replace(tmp_path / "one" / "index.jsonl", tmp_path / "two" / "index.jsonl")
    assert filled(tmp_path / "two", 5).stats["total_episodes"] == 5
    lines = (tmp_path / "two" / "index.jsonl").read_text().splitlines()
    assert len(lines) == 6


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path, monkeypatch):
    replay = filled(tmp_path, 3)
    index = replay._store._files.index
    with (tmp_path / "index.jsonl").open("ab") as file:
        file.write(b"half a li")
    index._torn = True
    filled(tmp_path, 3)  # Another that repairs it.
    add(replay, 3, 13)
    read = read_files(monkeypatch)
    assert filled(tmp_path, 4).stats["total_episodes"] == 4
    assert read == []


def test_a_folder_that_cannot_be_written_is_opened_all_the_same(tmp_path, monkeypatch):
    expected = filled(tmp_path).stats
    (tmp_path / "index.jsonl").unlink()

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert filled(tmp_path).stats == expected
    assert sorted(os.listdir(tmp_path)) == [p.name for p in files_in(tmp_path)]


# How many are kept.


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_the_oldest_files_are_removed_beyond_the_disk_capacity(
    tmp_path, storage, capsys
):
    settings = {"storage": storage, "minlen": 4}
    replay = Replay(tmp_path, disk_capacity=45, **settings)
    for number in range(12):
        add(replay, number, 10)
    assert replay.stats == {
        "total_steps": 40,
        "total_episodes": 4,
        "loaded_steps": 40,
        "loaded_episodes": 4,
    }
    counts = np.concatenate([b["count"] for b in take(replay.dataset(6, 9), 20)])
    assert set(counts.ravel() // 1000) == {8, 9, 10, 11}
    assert len(files_in(tmp_path)) == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert "Removed 1 of the oldest episodes (10 steps)" in line
    assert "replay.disk_capacity is 45 steps" in line
    for number in range(12, 14):  # The tenth one is worth a word again.
        add(replay, number, 10)
    (line,) = capsys.readouterr().out.splitlines()
    assert "Removed 10 of the oldest episodes (100 steps)" in line
    again = Replay(tmp_path, disk_capacity=25, **settings)
    assert again.stats["total_steps"] == again.stats["loaded_steps"] == 20
    loaded, removed = capsys.readouterr().out.splitlines()
    assert "Loaded 4 of 4" in loaded and "Removed 2 of" in removed
    assert Replay(tmp_path, **settings).stats == again.stats


def test_files_beyond_the_capacity_stay_until_that_of_the_disk(tmp_path):
    replay = Replay(tmp_path, capacity=25, disk_capacity=45)
    for number in range(9):
        add(replay, number, 10)
    assert replay.stats == {
        "total_steps": 40,
        "total_episodes": 4,
        "loaded_steps": 20,
        "loaded_episodes": 2,
    }
    assert Replay(tmp_path, capacity=25, disk_capacity=45).stats == replay.stats


def test_the_newest_file_stays_even_if_it_exceeds_the_disk_capacity(tmp_path):
    replay = Replay(tmp_path, disk_capacity=5)
    for number in range(2):
        add(replay, number, 10)
    assert replay.stats["total_steps"] == replay.stats["loaded_steps"] == 10
    (file,) = files_in(tmp_path)
    with np.load(file) as content:
        assert content["count"][0] == 1000


@pytest.mark.parametrize("limit", ["capacity", "disk_capacity"])
def test_removed_episodes_can_be_drawn_from_as_long_as_they_were_planned(
    tmp_path, limit
):
    replays = [
        Replay(tmp_path / storage, storage=storage, minlen=30, **{limit: 40})
        for storage in ("memory", "disk")
    ]
    streams_of = []
    for replay in replays:
        add(replay, 0, 40)
        dataset = replay.dataset(4, 6)
        batches = take(dataset, 1)
        for number in (1, 2):
            add(replay, number, 40)
            gc.collect()
            batches += take(dataset, 2)
        streams_of.append(batches)
    assert_same(*streams_of)
    assert {0} == set((streams_of[1][2]["count"] // 1000).ravel())


def test_files_that_cannot_be_removed_stay_and_are_named_once(
    tmp_path, monkeypatch, capsys
):
    replay = Replay(tmp_path, disk_capacity=25)

    def refuse(self, missing_ok=False):
        if self.suffix == ".npz":
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    for number in range(6):
        add(replay, number, 10)
    assert replay.stats["total_steps"] == 60
    (line,) = capsys.readouterr().out.splitlines()
    assert "Cannot remove the oldest episodes" in line and "Permission denied" in line


# Many threads at once.


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_eight_writers_and_four_samplers_lose_and_tear_nothing(tmp_path, storage):
    contend = runpy.run_path(str(BENCHMARK))["contend"]
    found = contend(tmp_path, 10_000, storage)
    assert found["operations"] > 10_000 and found["batches"] >= 40
    assert (found["torn_reads"], found["lost_episodes"]) == (0, 0)


def test_the_benchmark_measures_both_storages(tmp_path, capsys):
    main = runpy.run_path(str(BENCHMARK))["main"]
    result = tmp_path / "result.json"
    flags = ["--steps", "2000", "--operations", "2000", "--dir", str(tmp_path)]
    flags += ["--batches", "5"]
    assert main([*flags, "--json", str(result)]) == 0, capsys.readouterr().out
    result = json.loads(result.read_text())
    assert [row["storage"] for row in result["rows"]] == ["memory", "disk"]
    for row in result["rows"]:
        assert row["steps"] == 2000 and row["raw_bytes_per_step"] == pytest.approx(
            4127, rel=0.01
        )
        assert row["open_seconds"] > 0 and row["batch_seconds_median"] > 0
    assert result["threads"]["lost_episodes"] == 0 and result["failed"] == []
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_headers_are_parsed_by_one_thread_at_a_time(tmp_path, monkeypatch):
    # Numpy parses them by ast, which in Python 3.11.7 may fail in two threads at once
    # ("AST constructor recursion depth mismatch"): whole files would be set aside.
    replay = filled(tmp_path, episodes=20)
    parse, busy = np.lib.format.read_array_header_1_0, threading.Lock()

    def parse_alone(file):
        if not busy.acquire(blocking=False):
            raise SystemError("AST constructor recursion depth mismatch")
        try:
            time.sleep(0.001)
            return parse(file)
        finally:
            busy.release()

    npz._header.cache_clear()
    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", parse_alone)
    assert filled(tmp_path, episodes=20, storage="memory").stats == replay.stats
    assert not list(tmp_path.glob("*.damaged"))
