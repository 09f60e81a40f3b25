"""Environments that come from Python rather than by the name of a task."""

import functools
from collections.abc import Callable
from typing import Any

import gymnasium

from dreamerv2.common.config import Config
from dreamerv2.common.envs import OWN, Env, GymWrapper, limited
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.checks import check_env
from dreamerv2.common.suites.own import OwnWrapper
from dreamerv2.common.suites.wrappers import ActionRepeat, ResizeImage

# A function that makes environments, or those that are made already.
Source = Callable[[], Any] | list[Any]


class OwnEnvs:
    """Makes the environments of a run from what `train` was given; UsageError for what
    is unusable. `config` has their number, a name for the task, and, if some are made
    already, no restarts; `evaluates` tells whether there are any for evaluation."""

    def __init__(self, train: Any, evaluation: Any, config: Config):
        if evaluation is None and is_maker(train):
            evaluation = train
        self.evaluates = evaluation is not None
        self._sources = {True: _source(train), False: _source(evaluation)}
        self._claimed: list[tuple[Any, str]] = []  # Environments and their roles.
        training, evaluating = self._sources.values()
        for role, source in (("training", training), ("evaluation", evaluating)):
            for env in source if isinstance(source, list) else ():
                self._claim(env, role)
        if training == []:
            raise UsageError("The list of environments is empty: give one or more.")
        if isinstance(training, list):
            config = config.update(envs=len(training))
        self._first = {True: config.envs, False: min(config.envs, config.eval_eps)}
        fewest = min(config.envs, config.eval_eps) if self.evaluates else 0
        if isinstance(evaluating, list) and len(evaluating) < fewest:
            raise UsageError(
                f"{len(evaluating)} environments were given for evaluation, but "
                f"{fewest} are needed: give more of them, or a function that makes one."
            )
        if isinstance(training, list) or (isinstance(evaluating, list) and evaluating):
            if config.envs_parallel != "none":
                raise UsageError(
                    f"envs_parallel is {config.envs_parallel}, but environments were "
                    "given that are made already: give a function that makes one."
                )
            # One that is given as it is cannot be made anew.
            config = config.update(env_restarts=0)
        self.config = config.update(task=f"{OWN}_{_name(train)}")

    def __call__(self, config: Config, seed: int, train: bool) -> Env:
        """Make one, or hand out the next of those that were given."""
        source = self._sources[train]
        if isinstance(source, list):
            return prepare_env(source.pop(0), config, seed)
        env = source()
        self._first[train] -= 1
        # One that takes the place of another may well be the same.
        self._claim(env, "training" if train else "evaluation", self._first[train] >= 0)
        return prepare_env(env, config, seed)

    def _claim(self, env: Any, role: str, alone: bool = True) -> None:
        """Refuse an environment that has another role, or the same one twice."""
        env = _innermost(env)
        roles = [known for other, known in self._claimed if other is env]
        if {*roles} - {role} or (roles and alone):
            raise UsageError(
                f"One and the same {type(env).__name__} was given for {roles[0]} and "
                f"again for {role}: give environments that share nothing, or a "
                "function that makes a new one each time."
            )
        self._claimed.append((env, role))


def is_maker(env: Any) -> bool:
    """Check that this makes environments, rather than being one."""
    return isinstance(env, type) or (callable(env) and not hasattr(env, "step"))


def prepare_env(env: Any, config: Config, seed: int) -> Env:
    """Wrap any environment as `make_env` does; UsageError if it fails the check."""
    own = hasattr(env, "obs_space") and not isinstance(env, gymnasium.Env)
    inner = OwnWrapper(env) if own else GymWrapper(env, seed)
    env = ActionRepeat(ResizeImage(inner, config.render_size), config.action_repeat)
    check_env(limited(env, config, seed))
    if not own:
        inner.seed(seed)  # The check has used it.
    return limited(env, config, seed)


def _innermost(env: Any) -> Any:
    """Return what Gymnasium's wrappers, gym's or our own are around."""
    seen = []
    while not any(env is other for other in seen):
        seen.append(env)
        inner = getattr(env, "__dict__", {})
        inner = inner.get("env", inner.get("_env"))
        env = inner if hasattr(inner, "step") else env
    return env


def _source(env: Any) -> Source:
    if is_maker(env):
        return env
    if env is None:
        return []
    return list(env) if isinstance(env, list | tuple) else [env]


def _name(env: Any) -> str:
    env = env[0] if isinstance(env, list | tuple) else env
    env = env.func if isinstance(env, functools.partial) else env
    spec = getattr(env, "spec", None)
    name = getattr(spec, "id", None) or getattr(env, "__name__", type(env).__name__)
    return name.strip("<>").replace("/", "-")
