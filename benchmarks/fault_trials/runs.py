"""Training runs to be harmed: real ones, on Atari, with networks of a few units."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dreamerv2 import train

# Episodes of 30 steps, an evaluation and a checkpoint every 40 steps: a run makes more
# than 100 steps per second on one core.
FLAGS = (
    r"--configs defaults atari --task atari_pong --device cpu --jit False"
    r" --precision 32 --rssm.hidden 8 --rssm.deter 8 --rssm.stoch 4 --rssm.discrete 4"
    r" --(encoder|decoder).cnn_depth 2 --.*\.layers 1 --.*\.units 8 --imag_horizon 3"
    r" --dataset.batch 2 --dataset.length 6 --replay.minlen 5 --replay.maxlen 10"
    r" --prefill 60 --pretrain 1 --time_limit 30 --train_every 4 --log_every 20"
    r" --eval_every 40 --save_every 1 --logger none --steps 1e8"
).split()
REPEAT = 4  # Frames of a step, in `atari`.
LOG_EVERY = 20
PATIENCE = 300.0  # Seconds after which a run is said to hang, on a busy machine.


class Result(NamedTuple):
    """How a run ended: exit code (minus the signal's number), and what it printed."""

    code: int
    out: str
    err: str


class Hangs(Exception):
    """A run did not do within PATIENCE what was waited for."""


class Child:
    """A run of train.py in a process of its own, which ends with its context.

    Args:
      logdir: the run's.
      flags: beyond FLAGS.
      fresh: a new interpreter. Otherwise a fork of this one, which has imported all
        that a run needs and so saves two seconds.
      prepare: called in the fork before the run, to set a trap or give up rights.
    """

    def __init__(
        self,
        logdir: Path,
        flags: Sequence[str] = (),
        fresh: bool = False,
        prepare: Callable[[], None] | None = None,
    ):
        self.logdir = logdir
        # Relative, so that a run is the same one wherever it is copied to.
        self._argv = [*FLAGS, *flags, "--logdir", logdir.name]
        number = len(list(logdir.parent.glob(f"{logdir.name}.out*")))
        self._out = logdir.with_name(f"{logdir.name}.out{number}")
        self._err = logdir.with_name(f"{logdir.name}.err{number}")
        self._fresh, self._prepare = fresh, prepare

    def __enter__(self) -> "Child":
        with self._out.open("wb") as out, self._err.open("wb") as err:
            if self._fresh:
                self._process: Any = subprocess.Popen(
                    [sys.executable, train.__file__, *self._argv],
                    cwd=self.logdir.parent,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,
                )
            else:
                self._process = _Fork(self._argv, out, err, self._begin)
        self._start = time.monotonic()
        return self

    def _begin(self) -> None:
        os.chdir(self.logdir.parent)
        if self._prepare:
            self._prepare()

    def __exit__(self, *exc: object) -> None:
        # The group, since environments may have processes of their own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds of computing since its start; of the clock, where none are told."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2]
        except OSError:
            return time.monotonic() - self._start
        ticks = sum(map(int, fields.split()[11:13]))  # In its own code, in the system.
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def out(self) -> str:
        """What it has printed to standard output so far."""
        return self._out.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: int) -> None:
        """Send the run a signal, if it still lives."""
        if not self.ended:
            os.kill(self._process.pid, number)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for condition(); False if the run ended before. May raise Hangs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.ended:
                return condition()
            if time.monotonic() > end:
                raise Hangs
            time.sleep(0.01)
        return True

    def result(self) -> Result:
        """Wait for the end. May raise Hangs."""
        self.wait_until(lambda: False)
        err = self._err.read_text(errors="replace")
        return Result(self._process.poll(), self.out, err)


class _Fork:
    """train.main in a fork of this process, with the interface of Popen."""

    def __init__(
        self,
        argv: list[str],
        out: Any,
        err: Any,
        prepare: Callable[[], None],
    ):
        self._code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            return
        try:
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            for ours, theirs in ((null, 0), (out.fileno(), 1), (err.fileno(), 2)):
                os.dup2(ours, theirs)
            # Whatever pytest or a caller has put there.
            for name, fd in (("stdout", 1), ("stderr", 2)):
                setattr(sys, name, os.fdopen(fd, "w", buffering=1, closefd=False))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            code = _like_an_interpreter(argv, prepare)
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            code = 1
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return self._code


def _like_an_interpreter(argv: list[str], prepare: Callable[[], None]) -> int:
    """The exit code that `python train.py` would end with."""
    try:
        prepare()
        return train.main(argv)
    except SystemExit as exit:
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
            return 1
        return exit.code or 0
    except BaseException as error:
        traceback.print_exc()
        return 130 if isinstance(error, KeyboardInterrupt) else 1


def resumed_at(out: str) -> int | None:
    """The step at which a run says that it goes on."""
    mark = "Resumed at step "
    if mark not in out:
        return None
    digits = out.rpartition(mark)[2].partition(".")[0].replace(",", "")
    return int(digits) if digits.isdigit() else None
