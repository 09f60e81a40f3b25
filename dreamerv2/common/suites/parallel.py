"""Async: an environment in a thread or in a process of its own."""

import contextlib
import functools
import multiprocessing
import operator
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from dreamerv2.common.errors import UsageError, WorkerFailed, summary
from dreamerv2.common.suites.interface import Action, Env, Obs, Spaces, close, state_of

CONSTRUCTION = 120.0  # Seconds that it is given at least: it may have much to load.

_START = "from dreamerv2.common.suites.parallel import worker_main; worker_main()"


class Async:
    """Run an environment in a thread or a process, and speak to it through a pipe.

    `reset` and `step` return a promise: a function that waits for the observation, so
    that many environments can work at once. What fails there is raised here, as
    RuntimeError with the worker's traceback and the environment's `name`; a UsageError
    stays one. No answer within `timeout` seconds (None: for ever) is a TimeoutError;
    the construction has 120 at least. A process is a fresh interpreter (torch's threads
    do not survive a fork) that loads neither the main script nor torch, unless the
    pickled `constructor` asks for them, and ends with this one."""

    def __init__(
        self,
        constructor: Callable[[], Env],
        strategy: str = "thread",
        name: str = "environment",
        timeout: float | None = 600.0,
    ):
        starters = {"thread": _start_thread, "process": _start_process}
        if strategy not in starters:
            raise UsageError(
                f"Unknown way to run environments in parallel {strategy!r}: "
                "expected thread or process."
            )
        self._name = name
        self._timeout = timeout and max(timeout, CONSTRUCTION)
        self._ticket = 0  # Of the last request; the construction is number 0.
        self._answered = -1  # Ticket of the last answer; they come in order.
        self._replies: dict[int, list[Any]] = {}
        payload = cloudpickle.dumps(constructor)
        self._conn, self._worker = starters[strategy]()
        # Also ends the worker when this object is collected or the program exits.
        self._end = weakref.finalize(self, _end, self._conn, self._worker)
        try:
            self._conn.send_bytes(payload)
            self._receive(0, "its construction")
            self._timeout = timeout
            self.obs_space: Spaces = self.access("obs_space")
            self.act_space: Spaces = self.access("act_space")
        except BaseException:
            self._end()
            raise

    def reset(self) -> Callable[[], Obs]:
        return self.call("reset")

    def step(self, action: Action) -> Callable[[], Obs]:
        return self.call("step", action)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Callable[[], Any]:
        """Start any method of the environment; the promise, called once, waits."""
        return self._request(name, operator.methodcaller(name, *args, **kwargs))

    def state_dict(self) -> dict[str, Any] | None:
        return self._request("save", state_of)()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.call("load_state_dict", state)()

    def access(self, name: str) -> Any:
        """Wait for an attribute of the environment."""
        return self._request(name, operator.attrgetter(name))()

    def close(self, grace: float = 5.0) -> None:
        """Close the environment and end its worker, within about `grace` seconds: then
        a process is killed, a thread left behind, with a warning."""
        if not self._end.alive:
            return
        try:
            if self._alive():
                self._timeout = grace
                self._request("close", close)()
        except TimeoutError:
            warnings.warn(
                f"{self._name} did not close within {grace:g} s and was abandoned.",
                stacklevel=2,
            )
        finally:
            self._end()

    def _alive(self) -> bool:
        is_thread = isinstance(self._worker, threading.Thread)
        return self._worker.is_alive() if is_thread else self._worker.poll() is None

    def _request(self, what: str, function: Callable[[Env], Any]) -> Callable[[], Any]:
        if not self._end.alive:
            raise RuntimeError(f"{self._name} is closed.")
        # One request at a time: two sides that both send more than a pipe holds would
        # wait for each other.
        self._wait(self._ticket, what)
        self._ticket += 1
        try:
            self._conn.send_bytes(cloudpickle.dumps((self._ticket, function)))
        except OSError as error:
            raise RuntimeError(self._death(what)) from error
        return functools.partial(self._receive, self._ticket, what)

    def _receive(self, ticket: int, what: str) -> Any:
        self._wait(ticket, what)
        kind, value = self._replies.pop(ticket)
        if kind == "usage":
            raise UsageError(value)
        if kind == "error":
            trace, summed_up = value
            raise WorkerFailed(f"{self._name} failed in {what}:\n{trace}", summed_up)
        return value

    def _wait(self, ticket: int, what: str) -> None:
        """Wait until a request is answered; the answers are kept for their promises."""
        while self._answered < ticket:
            if not self._conn.poll(self._timeout):
                late = f"gave no answer to {what} within {self._timeout:g} s"
                raise TimeoutError(f"{self._name} {late}.")
            try:
                number, *reply = cloudpickle.loads(self._conn.recv_bytes())
            except (EOFError, OSError) as error:
                raise RuntimeError(self._death(what)) from error
            self._answered = number
            self._replies[number] = reply

    def _death(self, what: str) -> str:
        if isinstance(self._worker, threading.Thread):
            return f"{self._name} ended its thread during {what}."
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._worker.wait(2)
        code = self._worker.returncode
        return f"{self._name} lost its process during {what}, with exit code {code}."


def _start_thread() -> tuple[Connection, threading.Thread]:
    ours, theirs = multiprocessing.Pipe()
    # A daemon, so that an environment which hangs cannot keep the program alive.
    worker = threading.Thread(target=_serve, args=(theirs,), daemon=True)
    worker.start()
    return ours, worker


def _start_process() -> tuple[Connection, subprocess.Popen]:
    # Multiprocessing's "spawn" would run the main script again in every worker.
    if os.name != "posix":
        raise UsageError(
            "Environments in processes need Linux or macOS: use --envs_parallel thread."
        )
    ours, theirs = socket.socketpair()
    path = os.pathsep.join(p or os.getcwd() for p in sys.path)
    # One thread, as many workers share the cores.
    env = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", _START, str(theirs.fileno()), str(os.getpid())]
    files = {"stdin": subprocess.DEVNULL, "pass_fds": [theirs.fileno()]}
    worker = subprocess.Popen(command, env=env, **files)
    theirs.close()  # So that the pipe ends when the worker does.
    return Connection(ours.detach()), worker


def _end(conn: Connection, worker: threading.Thread | subprocess.Popen) -> None:
    conn.close()
    if isinstance(worker, threading.Thread):
        worker.join(0.5)
        return
    try:
        worker.wait(1)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def worker_main() -> None:
    """Serve an environment in a worker process: python -c ... FD PARENT_PID."""
    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(fd, False)
    # Ctrl-C reaches every process of the terminal, and the others often every process
    # of a job; the parent decides what it means.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    _serve(Connection(fd))


def _watch(parent: int) -> None:
    """End this process when the parent is gone, even in the middle of a step."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _serve(conn: Connection) -> None:
    ticket, env, serving = 0, None, True
    # OSError and EOFError: the other side is gone, and with it whoever wants an answer.
    with contextlib.suppress(OSError, EOFError), conn:
        payload = conn.recv_bytes()
        try:
            env = cloudpickle.loads(payload)()
            answer = cloudpickle.dumps((ticket, "value", None))
        except Exception as error:
            answer, serving = _failure(ticket, error), False
        conn.send_bytes(answer)
        while serving:
            ticket, function = cloudpickle.loads(conn.recv_bytes())
            serving = function is not close
            try:
                answer = cloudpickle.dumps((ticket, "value", function(env)))
            except Exception as error:
                answer = _failure(ticket, error)
            conn.send_bytes(answer)
    if serving:
        close(env)


def _failure(ticket: int, error: Exception) -> bytes:
    if isinstance(error, UsageError):
        return cloudpickle.dumps((ticket, "usage", str(error)))
    value = traceback.format_exc(), summary(error)
    return cloudpickle.dumps((ticket, "error", value))
