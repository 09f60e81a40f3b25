"""Train runs, each by train.py in a process of its own; several at once here."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from dreamerv2.running.signals import StopSignals
from replication.plan import Job
from replication.state import locked, read_sessions, read_state, write_sessions

TRAIN = (sys.executable, "-m", "dreamerv2.train")
OUTPUT = "output.txt"
POLL = 0.2  # Seconds between two looks at the processes,
NOTE = 10.0  # and between two notes of how long they have run.
_TAIL = 12  # Lines of a failed run's output that are shown.
_SIGNAL_ON_DEATH = 1  # PR_SET_PDEATHSIG of Linux.


class Run:
    """A job, to be called: trains it to its end, or until it is asked to stop.

    Attributes:
      job: What to train.
      command: What is started, with the job's flags.
      threads: CPU threads, unless OMP_NUM_THREADS says otherwise.
      facts: Noted with each session of training: command, hardware, versions, at_once.
      code: The exit code; None before the end.
    """

    def __init__(
        self,
        job: Job,
        facts: Mapping[str, Any],
        threads: int = 1,
        command: Sequence[str] = TRAIN,
    ):
        self.job, self.facts = job, dict(facts)
        self.threads, self.command = threads, tuple(command)
        self.code: int | None = None
        self._process: subprocess.Popen | None = None
        self._asked: int | None = None

    def __call__(self, say: Callable[[str], None] = print) -> bool:
        """Return False if another process has the run, else True at its end."""
        folder = self.job.folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as lock:
            if lock is None:
                return False
            if self._asked is None and not read_state(folder).has(self.job.frames):
                say(f"{self.job.name}: started; its output is in {folder / OUTPUT}.")
                self._train(lock)
                say(self.verdict())
            return True

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Pass a signal on to the process, or to the one that is about to start."""
        self._asked, process = number, self._process
        if process is not None:
            process.send_signal(number)

    def verdict(self) -> str:
        """How it ended, in a sentence, and if badly its last words."""
        if not self.code:
            hours = read_state(self.job.folder).hours
            return f"{self.job.name}: done, {hours:.3g} hours in all."
        if self._asked is not None:
            return f"{self.job.name}: stopped; it goes on from its last checkpoint."
        if self.code < 0:
            how = f"was killed by {signal.Signals(-self.code).name}"
        else:
            how = f"failed with exit code {self.code}"
        output = self.job.folder / OUTPUT
        lines = output.read_text(errors="replace").splitlines()[-_TAIL:]
        end = "\n".join(f"    {line}" for line in lines)
        return f"{self.job.name}: {how}; {output} ends with\n{end}"

    def _train(self, lock: int) -> None:
        folder, start = self.job.folder, time.monotonic()
        reached = read_state(folder).reached
        session = {
            **self.facts,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "from_frames": reached,
        }
        before = read_sessions(folder)

        def note(frames: int) -> None:
            seconds = round(time.monotonic() - start, 1)
            now = {"seconds": seconds, "frames": frames, "exit_code": self.code}
            write_sessions(folder, [*before, {**session, **now}])

        self.code = None
        note(reached)
        threads = {"OMP_NUM_THREADS": str(self.threads)}
        with (folder / OUTPUT).open("a") as output:
            self._process = subprocess.Popen(
                [*self.command, *self.job.flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**threads, **os.environ, "PYTHONUNBUFFERED": "1"},
                # It has the lock, too, and keeps it where this process is killed.
                pass_fds=[lock],
                # A Ctrl-C is for this process, which passes it on once.
                start_new_session=True,
                preexec_fn=_ask_to_stop_when_parent_dies(),
            )
        if self._asked is not None:  # Just now.
            self.stop(self._asked)
        while self.code is None:
            try:
                self.code = self._process.wait(NOTE)
            except subprocess.TimeoutExpired:
                note(reached)
        note(read_state(folder).reached)
        self._process = None


def runs_at_once(cuda: bool, cores: int, runs: int) -> int:
    """How many runs to train at once, if nobody says.

    On a GPU four, since one alone waits for its game and for launches, or fewer where
    there are not two CPU cores for each; on a CPU one per two cores.
    """
    most = min(4, cores // 2) if cuda else cores // 2
    return max(1, min(most, runs))


def train(
    runs: Sequence[Run],
    at_once: int,
    stop: StopSignals,
    say: Callable[[str], None] = print,
) -> list[Job]:
    """Train what is not done yet, on this machine. Return the jobs that failed.

    A job that another process trains is waited for. If this process is asked to stop,
    it asks its children to save, waits for them, and raises Stopped; if it is killed,
    the system asks them (on Linux; elsewhere they go on to their end).

    Args:
      runs: In this order.
      at_once: How many are trained at the same time.
      stop: Asked all the time whether to stop.
      say: Takes a sentence on each start and each end.
    """
    failed, told = [], set()
    pool = ThreadPoolExecutor(at_once)
    futures = {pool.submit(run, say): run for run in runs}
    try:
        while futures:
            for future in wait(futures, POLL, FIRST_COMPLETED).done:
                run = futures.pop(future)
                if not future.result():
                    futures[pool.submit(_later, run, say)] = run
                    if run not in told:
                        told.add(run)
                        say(f"{run.job.name}: waiting for the process that trains it.")
                elif run.code:
                    failed.append(run.job)
            stop.check()
    finally:
        _stop({future: run for future, run in futures.items() if not future.cancel()})
        pool.shutdown()
    return failed


def _later(run: Run, say: Callable[[str], None]) -> bool:
    time.sleep(POLL)
    return run(say)


def _stop(futures: Mapping[Future, Run]) -> None:
    """Let each of them save; a Ctrl-C meanwhile ends them at once."""
    number = signal.SIGTERM
    while True:
        for run in futures.values():
            run.stop(number)
        try:
            wait(futures)
            return
        except KeyboardInterrupt:
            number = signal.SIGINT


def _ask_to_stop_when_parent_dies() -> Callable[[], None] | None:
    """What a new process does first, so that the system sends it SIGTERM when its
    parent ends, be it by SIGKILL. None where the system is not Linux."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_SIGNAL_ON_DEATH, signal.SIGTERM)
        if os.getppid() != parent:  # It died before that.
            os._exit(128 + signal.SIGTERM)

    return ask
