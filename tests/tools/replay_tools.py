"""Episodes that say where each of their steps comes from, for tests of the replay."""

import numpy as np


def make_step(number, index, last=False, **extra):
    """Step `index` of episode `number`; `count` tells both."""
    return {
        "image": np.full((4, 4, 1), index % 256, np.uint8),
        "count": np.int64(1000 * number + index),
        "reward": np.float64(index),
        "action": np.zeros(2, np.float32),
        "is_first": index == 0,
        "is_last": last,
        "is_terminal": last,
        **extra,
    }


def add(replay, number, steps, worker=0, finish=True):
    for index in range(steps + 1):
        last = finish and index == steps
        replay.add_step(make_step(number, index, last), worker)


def take(dataset, amount):
    return [next(dataset) for _ in range(amount)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key], key)


def differ(left, right):
    return any(
        (a["count"] != b["count"]).any() for a, b in zip(left, right, strict=True)
    )


def streams(batches):
    """Per row, its batches one after the other: (B, T * number of batches)."""
    return {
        k: np.concatenate([batch[k] for batch in batches], 1)
        for k in ("count", "is_first", "image", "reward")
    }


def sequences(counts, firsts):
    """Cut one stream where sequences begin; the last one may be incomplete."""
    starts = np.flatnonzero(firsts)
    assert starts[0] == 0
    return np.split(counts, starts[1:])


def files_in(folder):
    """The episodes' files, oldest first."""
    return sorted(folder.glob("*.npz"))
