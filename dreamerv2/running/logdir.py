"""The folder of a run: made, checked, and compared with the run that it holds."""

import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from dreamerv2.common.config import Config, format_value
from dreamerv2.common.envs import OWN
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write
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
    """config.logdir, made, locked, and compared with the run that it holds.

    Until `begin`, no file of the run is changed, so that what is refused leaves all as
    it was. The lock is the system's (flock) and goes with the process, however that
    ends.

    Args:
      config: of the run that is to begin, or to go on, there.

    Raises UsageError for a missing --logdir, one that cannot be written, one that
    another process uses, one whose config is damaged, and one whose run has networks
    or episodes of another shape; each change is named.
    """

    def __init__(self, config: Config):
        if config.logdir in ("", os.devnull):
            raise UsageError(
                "No --logdir was given: name the folder for this run, such as "
                "--logdir ~/logdir/atari_pong/dreamerv2/1."
            )
        self.path = Path(config.logdir).expanduser().absolute()
        self.changed: dict[str, tuple[Any, Any]] = {}
        self._config = config
        self._before: Config | None = None
        self._make()
        self._lock = lock(self.path)
        try:
            self._compare()
        except BaseException:
            self.close()
            raise

    def begin(self) -> None:
        """Saves the config as config.yaml.

        Of a run that goes on, what changed is printed, and the config before is kept
        as config.1.yaml and so on.
        """
        path = self.path / "config.yaml"
        if self.changed:
            _keep(path, self._before)
            print("Changed since this run was started:")
            for key, (old, new) in self.changed.items():
                print(f"  {key}: {show(old)} -> {show(new)}")
        self._config.save(path)

    def close(self) -> None:
        """Gives the folder free for another process."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"Cannot write to the logdir {self.path} ({error.strerror}): choose "
                "another --logdir or change its permissions."
            ) from error

    def _compare(self) -> None:
        """Finds what changed since the run was started, and refuses other shapes."""
        path = self.path / "config.yaml"
        begun = (self.path / CHECKPOINT).exists() or any(
            (self.path / "train_episodes").glob("*.npz")
        )
        if not path.exists():
            return
        self._before = load_config(path)
        if begun:
            self.changed = changes(self._before, self._config)
            refuse_changes(self.path, self.changed)


def lock(folder: Path) -> IO[str] | None:
    """Takes the folder for this process, until the file that it returns is closed.

    None where the system cannot lock. Raises UsageError if another process has it.
    """
    if fcntl is None:
        return None
    path = folder / LOCK
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
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
    """What the same command does after a stop, as the end of a sentence."""
    if (folder / CHECKPOINT).exists():
        return "goes on from the last checkpoint."
    return "begins anew, with the episodes that are there: no checkpoint was due yet."


def load_config(path: Path) -> Config:
    """A config that a run has left; UsageError if it is damaged."""
    try:
        return Config.read(path)
    except UsageError:
        raise
    except Exception as error:  # The reader of YAML may raise anything for damage.
        raise UsageError(
            f"The config {path} is damaged ({type(error).__name__}); mend or remove it."
        ) from error


def config_of_run(path: Path, defaults: Config) -> Config:
    """The config that a run has left, maybe of another version.

    Keys that it lacks are as in `defaults`, and those that it has more are left out.
    Raises UsageError if it is damaged.
    """
    found = load_config(path).flat
    return defaults.update({k: v for k, v in found.items() if defaults.match(k)})


def changes(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted keys whose values differ -> (before, after). Not the logdir itself."""
    old, new = before.flat, after.flat
    keys = [key for key in {**new, **old} if key != "logdir"]
    pairs = {key: (old.get(key), new.get(key)) for key in keys}
    return {key: (a, b) for key, (a, b) in pairs.items() if a != b}


def refuse_changes(logdir: Path, changed: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise UsageError for changes with which a run cannot go on.

    Those are other networks, other episodes, and steps that are another number of
    frames: the metrics count in frames, so theirs would be cut, or go back.
    """
    refused: dict[str, list[str]] = {}
    for key, (old, new) in changed.items():
        fixed = rule_of(key).fixed
        if fixed and not _harmless(key, old, new):
            shown = f"{key} {show(old)} -> {show(new)}"
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


def show(value: Any) -> Any:
    """Return a config's value, or None for a key that it lacks, for a sentence."""
    return value if value is None else format_value(value)


def _keep(path: Path, config: Config) -> None:
    """Saves the config before under the first free number."""
    number = 1
    while (kept := path.with_name(f"config.{number}.yaml")).exists():
        number += 1
    config.save(kept)
