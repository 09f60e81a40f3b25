"""Episode files: whole or absent, in order of time, and never able to harm a run."""

import errno
import os
import random
import stat
import zipfile

import numpy as np
import pytest

from dreamerv2.common.episodes.episode import Episode, convert, signature
from dreamerv2.common.episodes.files import EpisodeFiles, steps_in
from dreamerv2.common.errors import UsageError


def make_arrays(total=5, offset=0):
    steps = np.arange(total) + offset
    return {
        "image": np.broadcast_to(
            (steps % 256).astype(np.uint8)[:, None, None, None], (total, 4, 4, 1)
        ).copy(),
        "reward": steps.astype(np.float32),
        "count": steps.astype(np.int32),
        "is_first": steps == offset,
        "is_last": steps == offset + total - 1,
    }


def assert_equal(left, right):
    assert sorted(left) == sorted(right)
    for key, value in left.items():
        assert value.dtype == right[key].dtype, key
        np.testing.assert_array_equal(value, right[key], key)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (1, np.int32),
        (1.5, np.float32),
        (True, np.bool_),
        (np.float64(2.5), np.float32),
        (np.float16([0.5]), np.float32),
        (np.int64([3, -4]), np.int32),
        (np.int8([3]), np.int32),
        (np.uint16([65535]), np.int32),
        (np.uint8([255]), np.uint8),
        (np.array([True, False]), np.bool_),
    ],
)
def test_values_are_stored_in_the_types_that_were_promised(given, stored):
    result = convert("key", given)
    assert result.dtype == stored
    np.testing.assert_array_equal(result, given)


@pytest.mark.parametrize("value", ["text", object(), 1j, 2**40, np.uint32(2**32 - 1)])
def test_values_that_cannot_be_stored_are_refused_by_name(value):
    with pytest.raises(UsageError, match="'speed'"):
        convert("speed", value)


def test_saved_episode_comes_back_equal_and_numpy_reads_it_too(tmp_path):
    files = EpisodeFiles(tmp_path)
    arrays = make_arrays(5)
    name = files.save(arrays)
    assert steps_in(name) == 4
    assert sorted(os.listdir(tmp_path)) == [name, "index.jsonl"]
    assert_equal(files.load(name), arrays)
    with np.load(tmp_path / name, allow_pickle=False) as content:
        assert_equal(dict(content), arrays)


def test_numpys_own_files_are_read(tmp_path):
    name = f"20210304T050607-{'0' * 32}-4.npz"
    arrays = make_arrays(5)
    wide = {**arrays, "reward": arrays["reward"].astype(np.float64), "log_x": [1] * 5}
    np.savez_compressed(tmp_path / name, **wide)
    files = EpisodeFiles(tmp_path)
    assert files.scan() == [name]
    assert_equal(files.load(name), arrays)


def test_sorting_by_name_is_order_of_time_even_if_the_clock_stands_or_goes_back(
    tmp_path,
):
    times = iter([1000.0, 1000.0, 1000.0, 900.0, 1000.5, 1000.5])
    files = EpisodeFiles(tmp_path, clock=lambda: next(times))
    names = [files.save(make_arrays(2)) for _ in range(5)]
    assert len({name.split("-")[0] for name in names}) == 5
    assert names == sorted(names)
    again = EpisodeFiles(tmp_path, clock=lambda: 500.0)
    assert again.scan() == names
    assert again.save(make_arrays(2)) > names[-1]


def test_failed_write_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    files = EpisodeFiles(tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        files.save(make_arrays())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_disks_that_cannot_sync_a_folder_take_episodes_all_the_same(
    tmp_path, monkeypatch, code
):
    fsync = os.fsync

    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    files = EpisodeFiles(tmp_path)
    if code == errno.EIO:  # A disk that fails is another matter.
        with pytest.raises(UsageError, match="Cannot write .*npz"):
            files.save(make_arrays())
        return
    name = files.save(make_arrays())
    assert_equal(files.load(name), make_arrays())


def test_half_written_file_is_no_episode_and_is_cleaned_up_when_it_is_old(tmp_path):
    files = EpisodeFiles(tmp_path)
    name = files.save(make_arrays())
    new, old = tmp_path / f".{name}.tmp", tmp_path / f".{name[:-4]}1.npz.tmp"
    for path in (new, old):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert files.scan() == [name]
    assert new.exists() and not old.exists()
    assert files.aside == []


def test_foreign_files_stay_as_they_are(tmp_path):
    for name in ("notes.txt", "episode.npz", f"20211304T050607-{'0' * 32}-4.npz"):
        (tmp_path / name).write_text("mine")
    (tmp_path / ".hidden").write_text("mine")
    (tmp_path / "folder").mkdir()
    files = EpisodeFiles(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert files.scan() == []
    assert len(files.aside) == 4
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x03\x04" + b"\0" * 200])
def test_garbage_is_set_aside_but_kept(tmp_path, content):
    name = f"20210304T050607000001-{'0' * 32}-4.npz"
    (tmp_path / name).write_bytes(content)
    files = EpisodeFiles(tmp_path)
    assert files.scan() == []
    assert (tmp_path / f"{name}.damaged").read_bytes() == content
    assert [aside for aside, _ in files.aside] == [name]
    assert EpisodeFiles(tmp_path).scan() == []


def test_truncated_and_flipped_files_are_noticed_or_unharmed(tmp_path):
    files = EpisodeFiles(tmp_path)
    arrays = make_arrays(20)
    name = files.save(arrays)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    noticed = 0
    for trial in range(300):
        content = bytearray(whole)
        if trial % 3 == 0:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / name).write_bytes(content)
        loaded = files.load(name) if name in files.scan() else None
        if loaded is None:
            noticed += 1
            assert (tmp_path / f"{name}.damaged").read_bytes() == content
        elif signature(loaded) == signature(arrays):
            # The bit that flipped was in a date or the like.
            assert_equal(loaded, arrays)
    assert noticed > 150


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    bomb = Bomb()
    Bomb.path = str(tmp_path / "exploded")
    name = f"20210304T050607000001-{'0' * 32}-4.npz"
    np.savez(tmp_path / name, **{**make_arrays(5), "reward": np.array([bomb] * 5)})
    files = EpisodeFiles(tmp_path)
    assert files.scan() == [name]
    assert files.load(name) is None
    assert not os.path.exists(Bomb.path)


def test_names_do_not_lead_out_of_the_directory(tmp_path):
    outside = EpisodeFiles(tmp_path / "outside")
    name = outside.save(make_arrays())
    inside = EpisodeFiles(tmp_path / "inside")
    assert inside.load(f"../outside/{name}") is None
    assert not inside.has(f"../outside/{name}")
    assert outside.has(name)


@pytest.mark.parametrize("change", ["length", "no_is_first", "no_arrays"])
def test_file_that_contradicts_itself_is_set_aside(tmp_path, change):
    arrays = make_arrays(5)
    if change == "length":
        arrays["reward"] = arrays["reward"][:4]
    elif change == "no_is_first":
        del arrays["is_first"]
    else:
        arrays = {}
    name = f"20210304T050607000001-{'0' * 32}-4.npz"
    if arrays:
        np.savez(tmp_path / name, **arrays)
    else:
        zipfile.ZipFile(tmp_path / name, "w").close()
    files = EpisodeFiles(tmp_path)
    assert [files.load(name) for name in files.scan()] == [None]
    assert (tmp_path / f"{name}.damaged").exists()


def test_directory_that_cannot_be_made_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--logdir"):
        EpisodeFiles(tmp_path / "file" / "episodes")


def test_growing_episode_never_changes_what_was_there(tmp_path):
    arrays = make_arrays(300)
    episode = Episode()
    snapshots = []
    for index in range(300):
        episode.append({k: v[index] for k, v in arrays.items()})
        snapshots.append((episode.arrays, episode.total))
    for held, total in snapshots:
        assert_equal(
            {k: v[:total] for k, v in held.items()},
            {k: v[:total] for k, v in arrays.items()},
        )
    assert_equal(episode.trimmed(), arrays)
    assert episode.steps == 299


@pytest.mark.parametrize(
    "change",
    [
        {"reward": np.int32(1)},
        {"reward": np.zeros(1, np.float32)},
        {"extra": np.float32(1)},
    ],
)
def test_step_unlike_the_ones_before_is_refused(change):
    step = {"reward": np.array(1, np.float32), "is_first": np.array(True)}
    episode = Episode()
    episode.append(step)
    with pytest.raises(UsageError, match=f"'{next(iter(change))}' is"):
        episode.append({**step, **{k: np.asarray(v) for k, v in change.items()}})
    assert episode.total == 1


def test_episode_of_one_transition_has_no_steps():
    assert Episode({"is_first": np.ones(1, bool)}, 1).steps == 0
