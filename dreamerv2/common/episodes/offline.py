"""Stored episodes in the place of an environment: read, and taken into a run."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.episodes.episode import convert
from dreamerv2.common.episodes.files import NAME, STAMP
from dreamerv2.common.episodes.npz import from_bytes, to_bytes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write, write_atomically
from dreamerv2.common.suites.wrappers import OneHotSpace

NEEDED = {"action", "reward", "is_first", "is_last", "is_terminal"}

Spaces = tuple[dict[str, Any], dict[str, Any]]


def load_episode(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays (T, ...) of an episode's file; UsageError if it is none."""
    path = Path(path).expanduser()
    try:
        content = from_bytes(path.read_bytes(), convert)
        arrays = {key: value.copy() for key, value in content.arrays.items()}
    except OSError as error:
        raise UsageError(
            f"Cannot read the episode {path} ({error.strerror}): name an .npz file of "
            "a run's train_episodes."
        ) from error
    except Exception as error:  # Damaged bytes raise nearly anything.
        raise UsageError(
            f"The file {path} is damaged or no episode: name an .npz file of a run's "
            "train_episodes."
        ) from error
    missing = NEEDED - {*arrays}
    if missing:
        raise UsageError(
            f"The file {path} is no episode, it lacks {', '.join(sorted(missing))}: "
            "name an .npz file of a run's train_episodes."
        )
    return arrays


def episode_spaces(arrays: Mapping[str, np.ndarray]) -> Spaces:
    """The observations' and actions' spaces, as far as an episode tells them.

    Actions are one-hot vectors if all in the episode are, and of more than one number,
    since a single one may well stay at its bound.
    """
    obs_space = {k: _box(v) for k, v in arrays.items() if k != "action"}
    action = arrays["action"][1:]  # The first is zero.
    size = action.shape[-1]
    one_hot = np.isin(action, (0, 1)).all() and (action.sum(-1) == 1).all()
    discrete = one_hot and size > 1
    space = OneHotSpace(size) if discrete else Box(-1, 1, (size,), np.float32)
    return obs_space, {"action": space}


def _box(values: np.ndarray) -> Box:
    if values.dtype == np.uint8:
        return Box(0, 255, values.shape[1:], np.uint8)
    if values.dtype == bool:
        return Box(0, 1, values.shape[1:], bool)
    return Box(-np.inf, np.inf, values.shape[1:], np.float32)


def find_episodes(folder: str | Path) -> list[Path]:
    """The .npz files in a folder, or in the train_episodes of a logdir, by name.

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


def recorded_spaces(folder: str | Path) -> Spaces:
    """The spaces of the first episode in a folder that can be read.

    Raises UsageError if there is none.
    """
    for path in (found := find_episodes(folder)):
        try:
            return episode_spaces(load_episode(path))
        except UsageError:
            # The replay puts damaged ones aside, and says so.
            if path == found[-1]:
                raise


def take_in(source: str | Path, target: str | Path) -> int:
    """Puts the episodes of one folder into another, a run's; returns how many.

    The source is left as it is. Files named as a replay names them get a second name
    there (or a copy, where the disk knows no links), others are written anew. What is
    in the target already is not taken again, so a call that was cut short can be made
    again.

    Raises UsageError if there are none, if one is no episode, and if they cannot be
    written.
    """
    target = Path(target)
    found = find_episodes(source)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in found:
            _take(path, target)
    except OSError as error:
        raise cannot_write(target, error) from error
    return len(found)


def _take(path: Path, target: Path) -> None:
    if NAME.fullmatch(path.name):
        place = target / path.name
        if not place.exists():
            _link(path, place)
        return
    arrays = load_episode(path)
    # The same file gets the same name each time.
    stamp = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime(STAMP)
    code = hashlib.md5(path.name.encode()).hexdigest()
    place = target / f"{stamp}-{code}-{len(arrays['action']) - 1}.npz"
    if not place.exists():
        write_atomically(place, lambda file: file.write(to_bytes(arrays)))


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except OSError:  # Another disk, or one without links.
        temporary = place.with_name(f".{place.name}.tmp")
        shutil.copyfile(path, temporary)
        os.replace(temporary, place)
