"""Train several runs at once, each by train.py in a process of its own."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from dreamerv2.running.signals import Stopped, StopSignals
from replication.plan import Job
from replication.state import (
    locked,
    read_sessions,
    read_state,
    write_sessions,
)

TRAIN = (sys.executable, "-m", "dreamerv2.train")
OUTPUT = "output.txt"
POLL = 0.2  # Seconds between two looks at the processes,
NOTE = 10.0  # and between two notes of how long they have run.
_TAIL = 12  # Lines of a failed run's output that are shown.
_SIGNAL_ON_DEATH = 1  # PR_SET_PDEATHSIG of Linux.


def runs_at_once(cuda: bool, cores: int, runs: int) -> int:
    """How many runs to train at once, if nobody says.

    On a GPU four, since one alone waits for its game and for launches, or fewer where
    there are not two CPU cores for each; on a CPU one per two cores.
    """
    most = min(4, cores // 2) if cuda else cores // 2
    return max(1, min(most, runs))


def train(
    jobs: Sequence[Job],
    at_once: int,
    stop: StopSignals,
    facts: dict[str, Any],
    threads: int = 1,
    command: Sequence[str] = TRAIN,
    say: Callable[[str], None] = print,
) -> list[Job]:
    """Train what is not done yet. Return the jobs that failed.

    A job that another process trains is waited for. If this process is asked to stop,
    it asks its children to save, waits for them, and raises Stopped; if it is killed,
    the system asks them (on Linux; elsewhere they go on to their end). The system
    does so when the thread ends that started a child, so no executor's threads may.

    Args:
      jobs: In this order.
      at_once: How many are trained at the same time.
      stop: Asked all the time whether to stop.
      facts: Noted with each session of training: command, hardware, versions.
      threads: CPU threads of each, unless OMP_NUM_THREADS says otherwise.
      command: What is started, with a job's flags.
      say: Takes a sentence on each start and each end.
    """
    waiting, running, failed, told = list(jobs), [], [], set()
    try:
        while waiting or running:
            stop.check()
            for child in [child for child in running if not child.look()]:
                running.remove(child)
                say(child.verdict())
                if child.process.returncode:
                    failed.append(child.job)
            for job in list(waiting):
                if len(running) == at_once:
                    break
                if read_state(job.folder).has(job.frames):
                    waiting.remove(job)
                elif child := _start(job, [*command], facts, at_once, threads):
                    waiting.remove(job)
                    running.append(child)
                    say(f"{job.name}: started; its output is in {child.output}.")
                elif job.name not in told:
                    told.add(job.name)
                    say(f"{job.name}: waiting for the process that trains it already.")
            time.sleep(POLL)
    except (Stopped, KeyboardInterrupt):
        _stop(running)
        raise
    except BaseException:
        for child in running:
            child.process.terminate()
        raise
    return failed


class _Child:
    """A process that trains a job, with the lock on its folder."""

    def __init__(self, job: Job, process: Any, stack: ExitStack, session: dict):
        self.job = job
        self.process = process
        self.output = job.folder / OUTPUT
        self.sessions = [*read_sessions(job.folder), session]
        self._stack = stack
        self._start = self._noted = time.monotonic()
        write_sessions(job.folder, self.sessions)

    def look(self) -> bool:
        """Return whether it still runs. Note now and then for how long it has."""
        alive, now = self.process.poll() is None, time.monotonic()
        if not alive or now - self._noted > NOTE:
            self._noted = now
            session = self.sessions[-1]
            session["seconds"] = round(now - self._start, 1)
            session["exit_code"] = self.process.returncode
            if not alive:
                session["frames"] = read_state(self.job.folder).reached
            write_sessions(self.job.folder, self.sessions)
        if not alive:
            self._stack.close()
        return alive

    def verdict(self) -> str:
        """How it ended, in a sentence, and if badly its last words."""
        code = self.process.returncode
        if code == 0:
            hours = read_state(self.job.folder).hours
            return f"{self.job.name}: done, {hours:.3g} hours in all."
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"failed with exit code {code}"
        lines = self.output.read_text(errors="replace").splitlines()[-_TAIL:]
        end = "\n".join(f"    {line}" for line in lines)
        return f"{self.job.name}: {how}; {self.output} ends with\n{end}"


def _start(
    job: Job, command: list[str], facts: dict[str, Any], at_once: int, threads: int
) -> _Child | None:
    """Start a job, unless another process has it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context(locked(job.folder))
        if lock is None:
            return None
        state = read_state(job.folder)
        output = stack.enter_context((job.folder / OUTPUT).open("a"))
        process = subprocess.Popen(
            [*command, *job.flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                "OMP_NUM_THREADS": str(threads),
                **os.environ,
                "PYTHONUNBUFFERED": "1",
            },
            # It has the lock, too, so that it keeps it where this process is killed.
            pass_fds=[lock],
            # A Ctrl-C is for this process, which passes it on once.
            start_new_session=True,
            preexec_fn=_ask_to_stop_when_parent_dies(),
        )
        session = {
            **facts,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "seconds": 0.0,
            "from_frames": state.reached,
            "frames": state.reached,
            "exit_code": None,
            "at_once": at_once,
        }
        return _Child(job, process, stack.pop_all(), session)


def _stop(children: Sequence[_Child]) -> None:
    """Let each of them save; a Ctrl-C meanwhile ends them at once."""
    number = signal.SIGTERM
    while True:
        for child in children:
            if child.process.poll() is None:
                child.process.send_signal(number)
        try:
            while any([child.look() for child in children]):
                time.sleep(POLL)
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
