"""The environments of a run: made, made anew where one fails, saved, closed."""

import contextlib
import functools
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config
from dreamerv2.common.envs import Async, make_env
from dreamerv2.common.errors import RunFailed, UsageError, summary
from dreamerv2.common.files import writing
from dreamerv2.common.suites.interface import state_of
from dreamerv2.running.seeds import derive_env_seed

ERRORS = "env_errors.log"

_GRACE = 1.0  # Seconds for one that failed to close by itself.

# (config, seed, train) -> an environment.
MakeEnv = Callable[[Config, int, bool], Any]


class Restarts:
    """Counts failures of all environments together, with tracebacks in
    `env_errors.log`; the one after `limit` ends the run."""

    def __init__(self, limit: int, folder: Path):
        self._limit = limit
        self.path = folder / ERRORS
        self._count = 0

    def take(self, name: str, error: Exception) -> None:
        """Log a failure of the environment of that name; RunFailed for one too many."""
        self._count += 1
        self.log(f"{name}, failure {self._count}", error)
        failure = f"{name} failed ({summary(error)})"
        if self._count > self._limit:
            raise RunFailed(
                f"{failure} after {self._limit} restarts, which is all that "
                f"--env_restarts allows: mend it with the help of {self.path} and "
                "start the same command again to go on."
            )
        print(
            f"{failure}, so it was made anew without its unfinished episode, restart "
            f"{self._count} of {self._limit}; {self.path} has the traceback.",
            flush=True,
        )

    def log(self, title: str, error: Exception) -> None:
        """Append a traceback to the log."""
        trace = "".join(traceback.format_exception(error))
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        with (
            writing(self.path),
            self.path.open("a", encoding="utf-8", errors="replace") as file,
        ):
            file.write(f"{stamp} {title}\n{trace}\n")


class Environments:
    """`count` environments of one task, for training or evaluation; `make` makes them
    in place of config.task. `start` tells this start of a run from those before it, so
    that no episode is played again. UsageError or RunFailed for one that fails."""

    def __init__(
        self,
        config: Config,
        count: int,
        train: bool,
        restarts: Restarts,
        make: MakeEnv | None = None,
        start: tuple[int, ...] = (),
    ):
        self._config, self.train, self._restarts = config, train, restarts
        self._make_env = make or make_env
        self._failed = [0] * count  # Failures of each.
        self._start = tuple(start)
        self.envs: list[Any] = []
        try:
            for index in range(count):
                self.envs.append(self._make(index))
        except BaseException as error:
            self.close()
            if isinstance(error, UsageError) or not isinstance(error, Exception):
                raise
            name = self._name(len(self.envs))
            restarts.log(name, error)
            raise RunFailed(
                f"{name} cannot be made ({summary(error)}): mend it with the help of "
                f"{restarts.path}."
            ) from error

    def replace(self, index: int, error: Exception) -> Any:
        """Close the environment that failed with `error`, and return a new one."""
        while True:
            self._restarts.take(self._name(index), error)
            self._failed[index] += 1
            old = self.envs[index]
            self._close(old, *((_GRACE,) if isinstance(old, Async) else ()))
            try:
                new = self.envs[index] = self._make(index)
                return new
            except UsageError:
                raise
            except Exception as failure:  # Constructors may raise anything.
                error = failure

    def state_dict(self) -> dict[str, Any] | None:
        """Return the states of all; None if one of them cannot be saved."""
        states = []
        for index, env in enumerate(self.envs):
            try:
                states.append(state_of(env))
            except Exception as error:  # A broken one: the next step will tell more.
                self._restarts.log(f"{self._name(index)}, while it was saved", error)
                return None
            if states[-1] is None:
                return None
        return {"states": states, "failed": list(self._failed), "start": self._start}

    def load_state_dict(self, state: dict[str, Any] | None) -> str:
        """Go on from what state_dict returned; or return why not, to follow "since"."""
        if state is None:
            return "the checkpoint has no states of them"
        if len(state["states"]) != len(self.envs):
            return f"there were {len(state['states'])} and are {len(self.envs)}"
        try:
            for env, saved in zip(self.envs, state["states"], strict=True):
                env.load_state_dict(saved)
        except Exception as error:  # Such as those of another version of a package.
            return f"their saved states do not fit ({summary(error)})"
        self._failed, self._start = list(state["failed"]), tuple(state["start"])
        return ""

    def close(self) -> None:
        """Close all. An environment that cannot be closed is left behind."""
        for env in self.envs:
            self._close(env)

    def _close(self, env: Any, *grace: float) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # It hangs, as was already said.
                env.close(*grace)
        except Exception as error:  # It does not matter any more.
            with contextlib.suppress(UsageError):  # A full disk, on the way out.
                self._restarts.log(f"{self._role} environment, while closed", error)

    def _make(self, index: int) -> Any:
        numbers = index, self._failed[index], *self._start
        seed = derive_env_seed(self._config.seed, self.train, *numbers)
        make = functools.partial(self._make_env, self._config, seed, self.train)
        if self._config.envs_parallel == "none":
            return make()
        timeout = self._config.env_timeout or None
        return Async(make, self._config.envs_parallel, self._name(index), timeout)

    @property
    def _role(self) -> str:
        return "Training" if self.train else "Evaluation"

    def _name(self, index: int) -> str:
        return f"{self._role} environment {index} ({self._config.task})"
