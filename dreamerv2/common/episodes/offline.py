"""Recorded episodes in the place of an environment: checked, and taken into a run."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.episodes.episode import difference, signature
from dreamerv2.common.episodes.files import NAME, STAMP
from dreamerv2.common.episodes.index import Signature
from dreamerv2.common.episodes.npz import Arrays, to_bytes
from dreamerv2.common.episodes.recording import (
    ActionKind,
    Actions,
    DamagedRecording,
    read_recording,
)
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write, write_atomically

Spaces = tuple[dict[str, Any], dict[str, Any]]

# Numbers of 3 dimensions that go beyond the first and stay within the second are
# pictures that were not saved as uint8: boards and features are smaller, or negative.
_PICTURE = 32, 255


def find_episodes(folder: str | Path) -> list[Path]:
    """Return the .npz files in a folder, or in the train_episodes of a logdir, by name.

    Raises UsageError if there are none.
    """
    folder = Path(folder).expanduser()
    if (folder / "train_episodes").is_dir():
        folder = folder / "train_episodes"
    found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not found:
        raise UsageError(
            f"Found no episodes in {folder}: give --offline a folder of .npz files, or "
            "the logdir of a run."
        )
    return found


class _Facts(NamedTuple):
    """What is remembered of a file: it can be taken as it is; its keys and numbers."""

    path: Path
    as_it_is: bool
    signature: Signature
    actions: Actions
    ranges: dict[str, tuple[float, float]]  # Of pictures that are not uint8.


class Recordings:
    """Episodes in .npz files, all read and checked before anything is learned.

    Whether actions are discrete, and in which form, is decided over all files. Files
    that a run wrote and that are damaged are left to its replay, which sets them aside.

    spaces: of the observations and of the actions, as those of an environment.

    Raises UsageError that names the file and the key that do not fit.
    """

    def __init__(self, paths: Sequence[Path]):
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            looked = list(pool.map(_look, paths))
        self._facts = [facts for facts in looked if isinstance(facts, _Facts)]
        self._damaged = [facts for facts in looked if isinstance(facts, Path)]
        if not self._facts:
            read_recording(paths[0])  # Raises the error.
        first = self._facts[0]
        for facts in self._facts:
            if changed := difference(facts.signature, first.signature):
                raise UsageError(
                    f"Cannot use the recording {facts.path}: {changed} as in "
                    f"{first.path}; all are to have the same keys, types and shapes."
                )
        self._kind = ActionKind.of([facts.actions for facts in self._facts])
        self._pictures = {key for key in first.ranges if self._is_picture(key)}
        obs_space = {
            key: self._box(key, np.dtype(dtype), shape)
            for key, (dtype, shape) in first.signature.items()
        }
        self.spaces: Spaces = obs_space, {"action": self._kind.space()}
        if self._kind.indexes:
            print(f"The recorded actions are taken as indexes of {self._kind.size}.")
        for key in sorted(self._pictures):
            print(f"The recorded '{key}' is taken as pictures of 0 to 255.")

    def load(self, path: Path) -> Arrays:
        """Read a file in stored form: arrays (T, ...)."""
        arrays, _ = read_recording(path)
        for key in self._pictures:
            arrays[key] = np.rint(arrays[key]).astype(np.uint8)
        return {**arrays, "action": self._kind.stored(arrays["action"])}

    def take_in(self, target: Path) -> int:
        """Put the episodes into the folder of a run; return how many.

        The source is left as it is. Files in stored form that are named as a replay
        names them get a second name there (or a copy, where the disk knows no links),
        others are written anew. What is in the target already is not taken again.

        Raises UsageError if they cannot be written.
        """
        try:
            target.mkdir(parents=True, exist_ok=True)
            for path in self._damaged:
                _link(path, target / path.name)
            for facts in self._facts:
                self._take(facts, target)
        except OSError as error:
            raise cannot_write(target, error) from error
        return len(self._facts) + len(self._damaged)

    def _box(self, key: str, dtype: np.dtype, shape: tuple[int, ...]) -> Box:
        if key in self._pictures or dtype == np.uint8:
            return Box(0, 255, shape, np.uint8)
        low, high = self._range(key) if key in self._facts[0].ranges else (0, np.inf)
        if dtype.kind == "b" or 0 <= low <= high <= 1:
            return Box(0, 1, shape, bool if dtype.kind == "b" else np.float32)
        return Box(-np.inf, np.inf, shape, np.float32)

    def _is_picture(self, key: str) -> bool:
        above, most = _PICTURE
        low, high = self._range(key)
        return low >= 0 and above < high <= most

    def _range(self, key: str) -> tuple[float, float]:
        ranges = [facts.ranges[key] for facts in self._facts]
        return min(r[0] for r in ranges), max(r[1] for r in ranges)

    def _take(self, facts: _Facts, target: Path) -> None:
        path, named = facts.path, NAME.fullmatch(facts.path.name)
        place = target / (path.name if named else _name(path, facts.actions.steps))
        changed = not facts.as_it_is or self._pictures or self._kind.indexes
        if place.exists():
            return
        if named and not changed:
            _link(path, place)
        else:
            content = to_bytes(self.load(path))
            write_atomically(place, lambda file: file.write(content))


def _look(path: Path) -> _Facts | Path:
    """Read and check a file; the path alone of one that a replay will set aside."""
    try:
        arrays, as_it_is = read_recording(path)
    except DamagedRecording:
        if NAME.fullmatch(path.name):
            return path
        raise
    actions = Actions.of(path, arrays.pop("action"))
    ranges = {
        key: (float(value.min()), float(value.max()))
        for key, value in arrays.items()
        if value.ndim == 4 and value.size and value.dtype not in (np.uint8, bool)
    }
    return _Facts(path, as_it_is, signature(arrays), actions, ranges)


def _name(path: Path, steps: int) -> str:
    """A replay's name for a file of another one, the same each time."""
    stamp = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime(STAMP)
    return f"{stamp}-{hashlib.md5(path.name.encode()).hexdigest()}-{steps}.npz"


def _link(path: Path, place: Path) -> None:
    if place.exists():
        return
    try:
        os.link(path, place)
    except OSError:  # Another disk, or one without links.
        with path.open("rb") as source:
            write_atomically(place, lambda file: shutil.copyfileobj(source, file))
