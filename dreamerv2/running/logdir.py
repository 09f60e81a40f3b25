"""The folder of a run: made, checked, and compared with the run that it holds."""

import errno
import itertools
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dreamerv2.common.config import Config, format_value
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.envs import OWN
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write, writing
from dreamerv2.common.settings.rules import rule_of

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None  # type: ignore[assignment]

CHECKPOINT = "variables.pt"
LOCK = ".lock"

# What a run would go on with if a key changed whose row of keys.yaml says so.
OTHER = {
    "networks": "networks of another shape",
    "episodes": "other episodes",
    "frames": "steps that count otherwise",
}


class Logdir:
    """config.logdir, made, locked (by flock), and compared with the run that it holds,
    by the first rank; `own` is for what each rank has of its own. UsageError for a bad
    logdir, or a config with which the run cannot go on. Only `begin` changes files."""

    def __init__(self, config: Config, ranks: Ranks = ALONE):
        if config.logdir in ("", os.devnull):
            raise UsageError(
                "No --logdir was given: name the folder for this run, such as "
                "--logdir ~/logdir/atari_pong/dreamerv2/1."
            )
        self.path = Path(config.logdir).expanduser().absolute()
        self.changed: dict[str, tuple[Any, Any]] = {}
        self._config, self._before = config, None
        self.own, self._first = ranks.folder(self.path), ranks.rank == 0
        self._lock: IO[str] | None = None
        if not self._first:
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        self._lock = lock(self.path)
        try:
            self._compare()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Save config.yaml; print what changed, and keep the one before by a number."""
        if not self._first:
            return
        if self.changed:
            numbered = (self.path / f"config.{i}.yaml" for i in itertools.count(1))
            self._before.save(next(path for path in numbered if not path.exists()))
            print("Changed since this run was started:")
            for key, (old, new) in self.changed.items():
                print(f"  {key}: {format_value(old)} -> {format_value(new)}")
        self._config.save(self.path / "config.yaml")

    def close(self) -> None:
        """Give the folder free for another process."""
        if self._lock is not None:
            self._lock.close()

    def _compare(self) -> None:
        """Find what changed since the run began, and refuse what it cannot be."""
        path = self.path / "config.yaml"
        if not path.exists():
            return
        self._before = Config.read(path)
        episodes = (self.path / "train_episodes").glob("*.npz")
        if (self.path / CHECKPOINT).exists() or any(episodes):
            self.changed = changes(self._before, self._config)
            refuse_changes(self.path, self.changed)


def lock(folder: Path) -> IO[str] | None:
    """Take the folder for this process, until the returned file is closed; None where
    the system cannot lock. UsageError if it is in use."""
    if fcntl is None:
        return None
    path = folder / LOCK
    with writing(path):
        file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()} on {socket.gethostname()}")
        file.flush()
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip() or "unknown"
        file.close()
        raise UsageError(
            f"The logdir {folder} is in use by the process {holder}: stop that one "
            "first, or choose another --logdir."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL):
            file.close()
            raise cannot_write(path, error) from error
        # Some network disks know no locks, which is no reason not to train.
    return file


def goes_on(folder: Path) -> str:
    """Return what the same command does after a stop, as the end of a sentence."""
    if (folder / CHECKPOINT).exists():
        return "goes on from the last checkpoint."
    return "begins anew, with the episodes that are there: no checkpoint was due yet."


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Return dotted keys whose values differ -> (before, after), but the logdir."""
    old, new = before.flat, after.flat
    pairs = {key: (old.get(key), new.get(key)) for key in {**new, **old}}
    return {k: (a, b) for k, (a, b) in pairs.items() if a != b and k != "logdir"}


def refuse_changes(logdir: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise UsageError for changes with which a run cannot go on, see `OTHER`."""
    refused: dict[str, list[str]] = {}
    for key, (old, new) in changed.items():
        fixed = rule_of(key).fixed
        if fixed and not _harmless(key, old, new):
            shown = f"{key} {format_value(old)} -> {format_value(new)}"
            refused.setdefault(fixed, []).append(shown)
    if refused:
        listed = " and ".join(
            f"{OTHER[fixed]} ({', '.join(keys)})" for fixed, keys in refused.items()
        )
        raise UsageError(
            f"The run in {logdir} cannot go on with {listed}: use the values that it "
            "has, or another --logdir to start anew."
        )


def _harmless(key: str, old: Any, new: Any) -> bool:
    """Return whether this change of a fixed key changes nothing."""
    if old is None or new is None:  # A key of another version.
        return True
    if key == "task":  # A function that makes environments may be renamed.
        return all(str(task).startswith(f"{OWN}_") for task in (old, new))
    return key == "offline" and bool(old) == bool(new)
