"""Read from a run's folder how far it is, how it did, and who trains it."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.config import Config
from dreamerv2.common.files import write_atomically
from dreamerv2.common.plots.curves import LoggedRun, read_run
from dreamerv2.running.logdir import LOCK as TRAIN_LOCK

SESSIONS = "sessions.json"
LOCK = ".replicate.lock"
BIN = 1_000_000  # Frames of which a published figure is the mean.

# Exit codes of a run that was asked to stop, and none of one that was not heard of.
_STOPPED = (None, 0, *(x for n in (2, 10, 12, 15) for x in (-n, 128 + n)))


@dataclass(frozen=True)
class JobState:
    """A run on disk.

    Attributes:
      reached: Frames of the last thing that it wrote; 0 before there is one.
      target: Frames that its config.yaml has; 0 before there is one.
      x, y: (N,) frames and returns of its evaluations.
      sessions: Of training, oldest first: command, started, seconds, frames, exit_code
        (null while it runs, and where the power went), hardware, versions, at_once.
      running: Whether some process trains it now.
      queue: queued or running, if Slurm has it.
    """

    reached: int
    target: int
    x: np.ndarray
    y: np.ndarray
    sessions: list[dict[str, Any]]
    running: bool
    queue: str = ""

    @property
    def hours(self) -> float:
        """Of all sessions."""
        return sum(session["seconds"] for session in self.sessions) / 3600

    def has(self, frames: float) -> bool:
        """Return whether it was evaluated after so many frames."""
        return bool(len(self.x)) and bool(self.x[-1] >= frames)

    def score(self, frames: float) -> float:
        """Mean evaluation return in the million frames (or what there is of it) that
        ends at `frames`. NaN if the run has not got there."""
        if not self.has(frames):
            return math.nan
        start = BIN * (math.ceil(frames / BIN) - 1)
        # The last evaluation may come some frames late.
        end = math.inf if frames >= self.target else frames
        inside = ((self.x > start) | (start == 0)) & (self.x <= end)
        return float(self.y[inside].mean()) if inside.any() else math.nan

    def word(self, frames: float) -> str:
        """done, running, queued, failed, stopped, or not started."""
        if self.running:
            return "running"
        if self.has(frames):
            return "done"
        if self.queue:
            return self.queue
        if not self.sessions:
            return "stopped" if self.reached else "not started"
        return "stopped" if self.sessions[-1]["exit_code"] in _STOPPED else "failed"


def read_state(folder: Path) -> JobState:
    """The state of the run in a folder, which need not exist."""
    path, target = folder / "metrics.jsonl", 0
    evaluations = lines = LoggedRun("", "", "", path, np.empty(0), np.empty(0))
    if path.exists():
        evaluations, _ = read_run(evaluations, "step", "eval_return", warn=_quiet)
        lines, _ = read_run(lines, "step", "step", warn=_quiet)
    if (folder / "config.yaml").exists():
        config = Config.read(folder / "config.yaml")
        target = config.steps * config.action_repeat
    return JobState(
        int(lines.x[-1]) if len(lines.x) else 0,
        target,
        evaluations.x,
        evaluations.y,
        read_sessions(folder),
        is_running(folder),
    )


def read_sessions(folder: Path) -> list[dict[str, Any]]:
    """The sessions of training so far; none before the first."""
    path = folder / SESSIONS
    return json.loads(path.read_text()) if path.exists() else []


def write_sessions(folder: Path, sessions: list[dict[str, Any]]) -> None:
    """Replace the file in one go."""
    text = json.dumps(sessions, indent=1) + "\n"
    write_atomically(folder / SESSIONS, lambda file: file.write(text.encode()))


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """The right to train the run in a folder, as an open file: None if another process
    has it. A child that inherits the file has it, too, however long it lives."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = not _held(folder / TRAIN_LOCK)
        except BlockingIOError:
            free = False
        yield file if free else None
    finally:
        os.close(file)


def is_running(folder: Path) -> bool:
    """Return whether a process trains it, be it started by hand."""
    return _held(folder / LOCK) or _held(folder / TRAIN_LOCK)


def _held(path: Path) -> bool:
    """Return whether a process has locked a file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # There is none, as in a folder that was copied.
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _quiet(sentence: str) -> None:
    """A line that a kill cut short is repaired when the run goes on."""
