"""Environments that come from Python rather than by the name of a task."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from dreamerv2.common.config import Config
from dreamerv2.common.envs import OWN, GymWrapper, finish
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.wrappers import ActionRepeat, ResizeImage

MakeEnv = Callable[[], Any]


class GivenEnvs:
    """What `train` was given, as the maker of environments that a `Run` calls.

    Attributes:
      config: With the number of environments, a name for the task, and, if there are
        environments that are made already, no restarts.
      evaluates: Whether there are environments for evaluation.

    Raises UsageError for environments that cannot be used so.
    """

    def __init__(self, train: Any, evaluation: Any, config: Config):
        if evaluation is None and is_maker(train):
            evaluation = train
        self.evaluates = evaluation is not None
        self._sources = {True: _source(train), False: _source(evaluation)}
        sources = self._sources.values()
        if any(isinstance(source, list) and source for source in sources):
            if config.envs_parallel != "none":
                raise UsageError(
                    f"envs_parallel is {config.envs_parallel}, but environments were "
                    "given that are made already: give a function that makes one."
                )
            # One that is given as it is cannot be made anew.
            config = config.update(env_restarts=0)
        if isinstance(self._sources[True], list):
            if not self._sources[True]:
                raise UsageError("The list of environments is empty: give one or more.")
            config = config.update(envs=len(self._sources[True]))
        if isinstance(self._sources[False], list) and self.evaluates:
            fewest = min(config.envs, config.eval_eps)
            if len(self._sources[False]) < fewest:
                raise UsageError(
                    f"{len(self._sources[False])} environments were given for "
                    f"evaluation, but {fewest} are needed, as many as for training or "
                    "as eval_eps: give more of them, or a function that makes one."
                )
        self.config = config.update(task=f"{OWN}_{_name(train)}")

    def __call__(self, config: Config, seed: int, train: bool) -> Any:
        """One environment; those that were given are handed out in their order."""
        source = self._sources[train]
        env = source.pop(0) if isinstance(source, list) else source()
        return prepare_env(env, config, seed)


def is_maker(env: Any) -> bool:
    """Whether this makes environments, rather than being one."""
    return isinstance(env, type) or (callable(env) and not hasattr(env, "step"))


def prepare_env(env: Any, config: Config, seed: int) -> Any:
    """Any environment, wrapped as those that `make_env` makes."""
    if not hasattr(env, "obs_space"):
        env = GymWrapper(env, seed=seed)
    env = ActionRepeat(ResizeImage(env, config.render_size), config.action_repeat)
    return finish(env, config, seed)


def _source(env: Any) -> MakeEnv | list[Any]:
    """A function that makes environments, or a list of them that is our own."""
    if env is None:
        return []
    if is_maker(env):
        return env
    return list(env) if isinstance(env, Sequence) else [env]


def _name(env: Any) -> str:
    """What the environment is called: its id, or the name of its class or maker."""
    if isinstance(env, Sequence):
        env = env[0] if env else env
    env = env.func if isinstance(env, functools.partial) else env
    spec = getattr(env, "spec", None)
    name = getattr(spec, "id", None) or getattr(env, "__name__", type(env).__name__)
    return name.strip("<>").replace("/", "-")
