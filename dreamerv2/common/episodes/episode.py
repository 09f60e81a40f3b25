"""One episode: its arrays, growing or finished, and the types they are stored in."""

from collections.abc import Mapping

import numpy as np

from dreamerv2.common.episodes.index import Signature
from dreamerv2.common.episodes.npz import Arrays, Field
from dreamerv2.common.errors import UsageError


def convert(name: str, value: object) -> np.ndarray:
    """Return `value` in the type in which the replay stores it; no copy if it has it.

    Floats become float32, signed integers (and unsigned ones that fit) int32; uint8
    and bool stay. Raises UsageError, naming the key, for anything else.
    """
    value = np.asarray(value)
    kind, size = value.dtype.kind, value.dtype.itemsize
    if kind == "f":
        dtype = np.float32
    elif kind == "b" or (kind == "u" and size == 1):
        dtype = value.dtype
    elif kind == "i" or kind == "u":
        dtype = np.int32
        if not _fits_int32(value):
            raise UsageError(
                f"The values of '{name}' do not fit into 32-bit integers; have the "
                "environment give them as floats or in smaller units."
            )
    else:
        raise UsageError(
            f"The replay cannot store '{name}' of type {value.dtype}; have the "
            "environment give floats, integers or booleans."
        )
    return np.asarray(value, dtype, order="C")


def _fits_int32(value: np.ndarray) -> bool:
    if not value.size or np.can_cast(value.dtype, np.int32):
        return True
    limit = np.iinfo(np.int32)
    return bool(limit.min <= value.min() and value.max() <= limit.max)


def stored_keys(mapping: Mapping[str, object]) -> list[str]:
    """The keys that the replay keeps: those beginning `log_` are for logging only."""
    return [key for key in mapping if not key.startswith("log_")]


def signature(arrays: Arrays) -> Signature:
    """Per key the type and shape of one step, the same for all of a replay."""
    return {k: (str(v.dtype), v.shape[1:]) for k, v in sorted(arrays.items())}


def difference(found: Signature, wanted: Signature) -> str:
    """The first key at which two signatures differ, in words; empty if none does."""

    def words(entry: tuple | None) -> str:
        return f"{entry[0]} of shape {entry[1]}" if entry else "missing"

    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            return f"'{key}' is {words(found.get(key))}, not {words(wanted.get(key))}"
    return ""


class Episode:
    """One episode, in memory or in its file.

    `arrays` holds one contiguous array (N, ...) per key, of which the first `total`
    rows are the transitions. Those are never written again, and growing makes new
    arrays instead of changing the old ones: who holds `arrays` and a `total` of any
    moment may read that much at any later time, from any thread. `arrays` is None if
    they are to be read from the file when they are needed; `fields` are their places
    there, once known. `name` is the file's name once the episode is finished.
    """

    def __init__(
        self, arrays: Arrays | None = None, total: int = 0, name: str | None = None
    ):
        self.arrays = arrays
        self.total = total
        self.name = name
        self.fields: dict[str, Field] | None = None

    @property
    def steps(self) -> int:
        """Policy steps: one less than the transitions, as the first is the reset's."""
        return self.total - 1

    def append(self, transition: Arrays) -> None:
        """Add one transition; UsageError if its keys, types or shapes changed."""
        if not self.arrays:
            self.arrays = {
                k: np.empty((64, *v.shape), v.dtype) for k, v in transition.items()
            }
        if not self._like_before(transition):
            one = signature({k: v[None] for k, v in transition.items()})
            changed = difference(one, signature(self.arrays))
            raise UsageError(
                f"The environment's steps differ within an episode: {changed}; every "
                "step must give the same keys, types and shapes."
            )
        if self.total == len(next(iter(self.arrays.values()))):
            self.arrays = {k: self._grown(v) for k, v in self.arrays.items()}
        for key, value in transition.items():
            self.arrays[key][self.total] = value
        self.total += 1

    def finish(self, name: str, mapped: bool) -> None:
        """Give up the spare room or, if the file is to be mapped, the arrays."""
        # In this order: another thread that finds no arrays needs the file's name.
        self.name = name
        arrays = self.trimmed()
        self.arrays = None if mapped else {k: v.copy() for k, v in arrays.items()}

    def trimmed(self) -> Arrays:
        """Return views of the arrays without spare room."""
        return {k: v[: self.total] for k, v in self.arrays.items()}

    def _like_before(self, transition: Arrays) -> bool:
        return transition.keys() == self.arrays.keys() and all(
            value.dtype == self.arrays[key].dtype
            and value.shape == self.arrays[key].shape[1:]
            for key, value in transition.items()
        )

    def _grown(self, old: np.ndarray) -> np.ndarray:
        new = np.empty((2 * len(old), *old.shape[1:]), old.dtype)
        new[: len(old)] = old
        return new
