"""Recorded episodes in the place of an environment: checked, and taken into a run."""

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.episodes import recording
from dreamerv2.common.episodes.episode import difference, signature
from dreamerv2.common.episodes.files import NAME, STAMP
from dreamerv2.common.episodes.index import Signature
from dreamerv2.common.episodes.npz import Arrays, to_bytes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically, writing

# Numbers of 3 dimensions from 0 on that go beyond the first and stay within the second
# are pictures that were not saved as uint8: boards and features are smaller.
_PICTURE = 32, 255


def find_episodes(folder: str | Path) -> list[Path]:
    """Return the .npz files in a folder or a logdir's train_episodes; or UsageError."""
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
    """What is remembered of a file."""

    path: Path
    as_it_is: bool  # It can be taken so.
    signature: Signature
    actions: recording.Actions
    ranges: dict[str, tuple[float, float]]  # Of pictures that are not uint8.


class Recordings:
    """Episodes in .npz files, all read and checked before anything is learned. Over all
    files it is decided whether actions are discrete, and in which form; damaged ones of
    a run are left to its replay. `spaces` are those of observations and actions."""

    def __init__(self, paths: Sequence[Path]):
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            looked = list(pool.map(_look, paths))
        self._facts = [facts for facts in looked if isinstance(facts, _Facts)]
        self._damaged = [facts for facts in looked if isinstance(facts, Path)]
        if not self._facts:
            recording.read_recording(paths[0])  # Raises the error.
        first = self._facts[0]
        for facts in self._facts:
            if changed := difference(facts.signature, first.signature):
                raise UsageError(
                    f"Cannot use the recording {facts.path}: {changed} as in "
                    f"{first.path}; all are to have the same keys, types and shapes."
                )
        self._kind = recording.ActionKind.of([facts.actions for facts in self._facts])
        self._ranges, self._pictures = {}, set()
        for key in first.ranges:
            lows, highs = zip(*(x.ranges[key] for x in self._facts), strict=True)
            self._ranges[key] = low, high = min(lows), max(highs)
            if low >= 0 and _PICTURE[0] < high <= _PICTURE[1]:
                self._pictures.add(key)
        obs_space = {k: self._box(k, *v) for k, v in first.signature.items()}
        self.spaces = obs_space, {"action": self._kind.space()}
        if self._kind.indexes:
            print(f"The recorded actions are taken as indexes of {self._kind.size}.")
        for key in sorted(self._pictures):
            print(f"The recorded '{key}' is taken as pictures of 0 to 255.")

    def load(self, path: Path) -> Arrays:
        """Read a file in stored form: writable arrays (T, ...)."""
        arrays, _ = recording.read_recording(path)
        for key in self._pictures:
            arrays[key] = np.rint(arrays[key]).astype(np.uint8)
        arrays["action"] = self._kind.stored(arrays["action"])
        return {key: np.require(value, None, "W") for key, value in arrays.items()}

    def take_in(self, target: Path) -> int:
        """Link or copy the episodes that the folder of a run lacks into it, or write
        them anew, as a replay takes them; return how many. UsageError if that fails."""
        with writing(target):
            target.mkdir(parents=True, exist_ok=True)
            for path in self._damaged:
                _link(path, target / path.name)
            for facts in self._facts:
                self._take(facts, target)
        return len(self._facts) + len(self._damaged)

    def _box(self, key: str, dtype: str, shape: tuple[int, ...]) -> Box:
        if key in self._pictures or dtype == "uint8":
            return Box(0, 255, shape, np.uint8)
        if dtype == "bool":
            return Box(0, 1, shape, bool)
        low, high = self._ranges.get(key, (0, np.inf))
        ends = (0, 1) if 0 <= low <= high <= 1 else (-np.inf, np.inf)
        return Box(*ends, shape, np.float32)

    def _take(self, facts: _Facts, target: Path) -> None:
        path, name = facts.path, facts.path.name
        named = NAME.fullmatch(name)
        if not named:  # A replay's name, the same each time.
            stamp = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc)
            digest = hashlib.md5(name.encode()).hexdigest()
            name = f"{stamp.strftime(STAMP)}-{digest}-{facts.actions.steps}.npz"
        if named and facts.as_it_is and not self._pictures and not self._kind.indexes:
            _link(path, target / name)
        elif not (target / name).exists():
            content = to_bytes(self.load(path))
            write_atomically(target / name, lambda file: file.write(content))


def _look(path: Path) -> _Facts | Path:
    """Read and check a file; return the path of one that a replay will set aside."""
    try:
        arrays, as_it_is = recording.read_recording(path)
    except recording.DamagedRecording:
        if NAME.fullmatch(path.name):
            return path
        raise
    actions = recording.Actions.of(path, arrays.pop("action"))
    ranges = {
        key: (float(value.min()), float(value.max()))
        for key, value in arrays.items()
        if value.ndim == 4 and value.size and value.dtype not in (np.uint8, bool)
    }
    return _Facts(path, as_it_is, signature(arrays), actions, ranges)


def _link(path: Path, place: Path) -> None:
    if place.exists():
        return
    try:
        os.link(path, place)
    except OSError:  # Another disk, or one without links.
        with path.open("rb") as source:
            write_atomically(place, lambda file: shutil.copyfileobj(source, file))
