"""One episode: its arrays, growing or finished, and the types they are stored in."""

from collections.abc import Mapping

import numpy as np

from dreamerv2.common.episodes.index import Signature
from dreamerv2.common.episodes.npz import Arrays, Field
from dreamerv2.common.errors import UsageError

_INT32 = np.iinfo(np.int32)

# A key that episodes may lack: bytes of the agent's latent before the transition.
LATENT = "latent_before"


def convert(name: str, value: object) -> np.ndarray:
    """Return `value` as the replay stores it: floats as float32, integers as int32,
    uint8 and bool as they are. UsageError, naming the key, for what does not fit."""
    value = np.asarray(value)
    dtype = value.dtype
    if dtype.kind == "f":
        dtype = np.float32
    elif dtype.kind in "iu" and dtype != np.uint8:
        small = not value.size or np.can_cast(dtype, np.int32)
        if not small and (value.min() < _INT32.min or value.max() > _INT32.max):
            raise UsageError(
                f"The values of '{name}' do not fit into 32-bit integers; have the "
                "environment give them as floats or in smaller units."
            )
        dtype = np.int32
    elif dtype.kind not in "bu":
        raise UsageError(
            f"The replay cannot store '{name}' of type {dtype}; have the environment "
            "give floats, integers or booleans."
        )
    return np.asarray(value, dtype, order="C")


def stored_keys(mapping: Mapping[str, object]) -> list[str]:
    """Return the keys that the replay keeps: those that begin `log_` are for people."""
    return [key for key in mapping if not key.startswith("log_")]


def signature(arrays: Arrays) -> Signature:
    """Return per key the type and shape of one step, the same for all of a replay."""
    items = sorted(arrays.items())
    return {k: (str(v.dtype), v.shape[1:]) for k, v in items if k != LATENT}


def difference(found: Signature, wanted: Signature) -> str:
    """Name the first key at which two signatures differ; empty if none does."""

    def words(entry: tuple | None) -> str:
        return f"{entry[0]} of shape {entry[1]}" if entry else "missing"

    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            return f"'{key}' is {words(found.get(key))}, not {words(wanted.get(key))}"
    return ""


class Episode:
    """One episode, in memory or in its file, whose `name` it has once finished.

    arrays: (N, ...) per key, of which the first `total` rows are the transitions. Those
    are never written again, and growing makes new arrays, so any thread may read what
    it holds. None if they are in the file, at the places `fields`, once known."""

    def __init__(
        self, arrays: Arrays | None = None, total: int = 0, name: str | None = None
    ):
        self.arrays, self.total, self.name = arrays, total, name
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
        rows = self.arrays
        if LATENT in {*rows, *transition}:  # The run may keep it from now on, or not.
            transition = {
                k: v for k, v in transition.items() if k in rows or k != LATENT
            }
            if LATENT in rows:
                transition.setdefault(LATENT, np.zeros_like(rows[LATENT][0]))
        if transition.keys() != rows.keys() or any(
            v.dtype != rows[k].dtype or v.shape != rows[k].shape[1:]
            for k, v in transition.items()
        ):
            one = signature({k: v[None] for k, v in transition.items()})
            raise UsageError(
                "The environment's steps differ within an episode: "
                f"{difference(one, signature(rows))}; all must have the same."
            )
        if self.total == len(next(iter(rows.values()))):
            rows = {k: np.concatenate([v, np.empty_like(v)]) for k, v in rows.items()}
            self.arrays = rows
        for key, value in transition.items():
            rows[key][self.total] = value
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
