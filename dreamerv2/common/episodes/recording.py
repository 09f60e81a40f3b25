"""One recorded episode of any origin: read, checked, and brought into stored form."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.episodes.episode import LATENT, convert
from dreamerv2.common.episodes.npz import Arrays, ObjectArrayError, from_bytes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.actions import MOST_ACTIONS
from dreamerv2.common.suites.wrappers import OneHotSpace

FLAGS = ("is_first", "is_last", "is_terminal")
_BOUND = 1 + 1e-4  # Of continuous actions; rounding may exceed 1.


class DamagedRecording(UsageError):
    """A file is no .npz file, or some of its bytes are wrong."""


def refuse(path: Path, key: str, what: str) -> UsageError:
    """Return the error for a key of a file."""
    return UsageError(f"Cannot use the recording {path}: its '{key}' {what}.")


def read_recording(path: Path) -> tuple[Arrays, bool]:
    """Read an .npz file with an array (T, ...) for each key, and check it. Return the
    arrays, and whether they are as in the file: of the replay's types and shapes, but
    the action, (T, A) of any numbers, with a first row of zeros. Missing flags are
    made; `log_` keys are left out. DamagedRecording, or UsageError."""
    try:
        raw = from_bytes(path.read_bytes(), lambda key, value: value).arrays
    except OSError as error:
        raise UsageError(
            f"Cannot read the recording {path} ({error.strerror}): name an .npz file "
            "of a run's train_episodes, or one of the same form."
        ) from error
    except ObjectArrayError as error:
        raise refuse(path, error.key, "holds Python objects; save numbers") from error
    except MemoryError:
        raise  # That is not the file's fault.
    except Exception as error:  # Damaged bytes raise nearly anything.
        raise DamagedRecording(
            f"The recording {path} is damaged or no .npz file: remove it, or save it "
            "again with np.savez."
        ) from error
    raw.pop(LATENT, None)  # Of another agent.
    if missing := sorted({"action", "reward", "is_terminal"} - {*raw}):
        raise UsageError(
            f"The recording {path} is no episode, it lacks {', '.join(missing)}: save "
            "an array with an entry for each step of each of them."
        )
    length = len(np.atleast_1d(raw["action"]))
    for key in ("action", *raw):
        if trouble := _trouble(key, raw[key], length):
            raise refuse(path, key, trouble)
    place = np.arange(length)
    made = {"is_first": place == 0, "is_last": place == length - 1}
    arrays = {k: _tidy(path, k, v, length) for k, v in {**made, **raw}.items()}
    same = [value is raw.get(key) for key, value in arrays.items()]
    return arrays, all(same) and arrays["action"].dtype == np.float32


def _trouble(key: str, value: np.ndarray, length: int) -> str:
    """Say why an array is none of `length` finite numbers or rows; empty if it is."""
    if value.dtype.kind not in "fiub":
        return f"is of type {value.dtype}; save numbers, or name it log_{key}"
    if not value.ndim or len(value) != length or not length:
        found = f"has shape {value.shape}, where the action has {length} entries"
        return f"{found}; save one for each step, the reset's included"
    if value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(_float32(value))
        if not finite.all():
            at, bad = int(np.argwhere(~finite)[0][0]), value[~finite][0]
            return f"is {bad} at index {at}; save finite 32-bit floats"
    return ""


def _tidy(path: Path, key: str, value: np.ndarray, length: int) -> np.ndarray:
    """Bring a key into stored form; return the same object where it is so already."""
    if key == "action":
        return _tidy_action(path, value)
    if key in FLAGS or key == "reward":
        if value.size != length:
            raise refuse(path, key, f"has shape {value.shape} instead of ({length},)")
        value = value if value.ndim == 1 else value.reshape(length)
        return _tidy_flag(path, key, value) if key in FLAGS else _float32(value)
    try:
        value = convert(key, value)
    except UsageError as error:
        raise refuse(path, key, "holds integers beyond 32 bits; save floats") from error
    # Steps get 1 or 3 dimensions, as the networks take them; scalars stay.
    shape = value.shape[1:]
    if len(shape) == 2 and value.dtype == np.uint8:
        return value[..., None]
    if len(shape) == 2 or len(shape) > 3:
        return value.reshape(len(value), -1)
    if len(shape) == 3 and shape[0] in (1, 3, 4) and min(shape[1:]) > 4:
        return np.ascontiguousarray(np.moveaxis(value, 1, -1))  # Channels were first.
    return value


def _tidy_flag(path: Path, key: str, value: np.ndarray) -> np.ndarray:
    if not np.isin(value, (0, 1)).all():
        raise refuse(path, key, "has values other than False and True")
    value = value if value.dtype == bool else value.astype(bool)
    inner = {"is_first": value[1:], "is_last": value[:-1]}.get(key, value[:0])
    if inner.any():
        at = int(inner.argmax()) + (key == "is_first")
        what = f"is True at index {at}; save each episode, from its reset on, in a file"
        raise refuse(path, key, what)
    return np.arange(len(value)) == 0 if key == "is_first" and not value[0] else value


def _tidy_action(path: Path, value: np.ndarray) -> np.ndarray:
    if value.ndim > 2 or not value.size:
        raise refuse(path, "action", f"has shape {value.shape} instead of (T, A)")
    value = value if value.ndim == 2 else value[:, None]
    # The first one led to no observation of this episode.
    return (
        np.append(np.zeros_like(value[:1]), value[1:], 0) if value[0].any() else value
    )


def _float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32, copy=False)


class Actions(NamedTuple):
    """What the actions of one file are like, without the first row."""

    path: Path
    steps: int
    size: int  # A
    low: float
    high: float
    integral: bool  # Stored as integers or booleans.
    one_hot: bool
    indexes: bool  # One whole number of at least 0 each.

    @classmethod
    def of(cls, path: Path, action: np.ndarray) -> "Actions":
        """Look at the actions (T, A) of a recording."""
        rows, size = action[1:], action.shape[1]
        low, high = (float(rows.min()), float(rows.max())) if len(rows) else (0.0, 0.0)
        one_hot = bool(np.isin(rows, (0, 1)).all() and (rows.sum(-1) == 1).all())
        whole = size == 1 and low >= 0 and bool((rows == np.round(rows)).all())
        integral = action.dtype.kind != "f"
        return cls(path, len(rows), size, low, high, integral, one_hot, whole)


class ActionKind(NamedTuple):
    """One-hot vectors of `size`, given as such or as `indexes`; else a box."""

    size: int
    discrete: bool
    indexes: bool = False

    @classmethod
    def of(cls, files: Sequence[Actions]) -> "ActionKind":
        """Decide over all files; UsageError for neither. One number is an index if it
        is whole in all files, and stored as an integer or above 1 in some."""
        first = files[0]
        for file in files:
            if file.size != first.size:
                what = f"has {file.size} numbers per step, and that of {first.path} has"
                raise refuse(file.path, "action", f"{what} {first.size}; save one size")
        stepped = [file for file in files if file.steps]
        if not stepped:
            raise refuse(first.path, "action", "tells no step but the reset's")
        if first.size > 1 and all(file.one_hot for file in stepped):
            return cls(first.size, True)
        integral = all(file.integral for file in stepped)
        high = max(stepped, key=lambda file: file.high)
        if all(file.indexes for file in stepped) and (integral or high.high > 1):
            size = int(high.high) + 1
            if size > MOST_ACTIONS:
                what = f"is the index {size - 1}; at most {MOST_ACTIONS} actions are "
                what += "told apart, and continuous ones are to be floats in [-1, 1]"
                raise refuse(high.path, "action", what)
            return cls(max(size, 2), True, True)
        if integral:
            what = "holds integers that are neither indexes from 0 on nor one-hot; save"
            what += " these for discrete actions, and floats in [-1, 1] for others"
            raise refuse(stepped[0].path, "action", what)
        for file in stepped:
            if max(-file.low, file.high) > _BOUND:
                found = f"goes from {file.low:.4g} to {file.high:.4g}"
                what = f"{found}; save continuous actions scaled to [-1, 1]"
                raise refuse(file.path, "action", what)
        return cls(first.size, False)

    def space(self) -> Box:
        """Return the space of the actions in stored form."""
        size = self.size
        return OneHotSpace(size) if self.discrete else Box(-1, 1, (size,), np.float32)

    def stored(self, action: np.ndarray) -> np.ndarray:
        """Bring the actions (T, A) of a recording into stored form, (T, size)."""
        if self.indexes:
            action = np.eye(self.size, dtype=np.float32)[action[:, 0].astype(int)]
            action[0] = 0
        return _float32(action)
