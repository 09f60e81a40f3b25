"""What is put into the process of a run, so that a fault comes at a sure moment.

All of it changes functions of the process that calls it, which must be a fork made for
one trial: the product itself knows nothing of it.
"""

import builtins
import io
import itertools
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.suites.atari import Atari
from dreamerv2.running.logdir import CHECKPOINT

# Patterns for the paths of files, temporary ones, too.
CHECKPOINTS = re.escape(CHECKPOINT.partition(".")[0])
EPISODES = r"-\d+\.npz"
TRAINING = r"train_episodes/\S*" + EPISODES
MOMENTS = ("write", "fsync", "rename", "renamed")


@dataclass(frozen=True)
class Trap:
    """Something that happens at a moment of the writing of a file.

    Args:
      pattern: searched for in a file's path; in a rename, in either path.
      moment: "write", after so many bytes of the file; "fsync" and "rename", just
        before; "renamed", just after.
      number: 1 is the first such moment after the trap was set.
      after: bytes, for "write".
      marker: a file to make, and then to sleep until it is removed; without one,
        SIGKILL.
    """

    pattern: str
    moment: str
    number: int = 1
    after: int = 0
    marker: Path | None = None

    def set(self) -> None:
        """Set the trap in this process, by changing os and open."""
        count = itertools.count(1)

        def spring(*names: Any) -> None:
            named = any(re.search(self.pattern, str(x)) for x in names)
            if named and next(count) == self.number:
                self._act()

        if self.moment == "write":
            _trap_open(self.pattern, self.number, self.after, self._act)
        elif self.moment == "fsync":
            fsync = os.fsync

            def trapped(fd: int) -> None:
                spring(os.readlink(f"/proc/self/fd/{fd}"))
                fsync(fd)

            os.fsync = trapped
        else:
            for name in ("rename", "replace"):
                setattr(os, name, self._rename(getattr(os, name), spring))

    def _rename(self, rename: Callable, spring: Callable) -> Callable:
        def trapped(source: Any, target: Any, **kwargs: Any) -> None:
            if self.moment == "rename":
                spring(source, target)
            rename(source, target, **kwargs)
            if self.moment == "renamed":
                spring(source, target)

        return trapped

    def _act(self) -> None:
        if self.marker is None:
            os.kill(os.getpid(), signal.SIGKILL)
        self.marker.touch()
        while self.marker.exists():
            time.sleep(0.05)


def _trap_open(pattern: str, number: int, after: int, act: Callable) -> None:
    """Let open() give files that act after so many bytes were written to them."""
    real, count = io.open, itertools.count(1)

    class Raw(io.FileIO):
        left = after

        def write(self, data: Any) -> int:
            data = memoryview(data).cast("B")
            done = 0
            if 0 <= self.left <= len(data):
                done = super().write(data[: self.left])
                self.left = -1  # Once is enough, if what it does is interrupted.
                act()
            elif self.left > 0:
                self.left -= len(data)
            return done + super().write(data[done:])

    def trapped(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        writes = mode in ("wb", "xb", "ab", "bw", "bx", "ba")
        waited = writes and re.search(pattern, str(file))
        if waited and next(count) == number:
            return io.BufferedWriter(Raw(file, mode.replace("b", "")))
        return real(file, mode, *args, **kwargs)

    io.open = builtins.open = trapped
    if sys.version_info < (3, 11):  # There Path.open() keeps the one of its import.
        pathlib._NormalAccessor.open = staticmethod(trapped)


def break_atari(kind: str, at: int, always: bool) -> None:
    """Let the Atari games of this process fail, counted over all of them.

    Args:
      kind: "raises", "raises in reset", "hangs", "NaN reward" or "NaN image".
      at: number of the step (or reset) that fails.
      always: all those after it fail, too.
    """
    name = "reset" if kind.endswith("reset") else "step"
    real, count = getattr(Atari, name), itertools.count(1)

    def broken(self: Any, *args: Any) -> dict[str, Any]:
        number = next(count)
        if number != at and not (always and number > at):
            return real(self, *args)
        if kind.startswith("raises"):
            raise ValueError("the emulator\nhas crashed")
        if kind == "hangs":
            time.sleep(3600)
        obs = real(self, *args)
        if kind == "NaN reward":
            obs["reward"] = np.float32(np.nan)
        else:
            obs["image"] = np.full(obs["image"].shape, np.nan, np.float32)
        return obs

    setattr(Atari, name, broken)
