"""Environments that come from Python rather than by the name of a task."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from dreamerv2.common.config import Config
from dreamerv2.common.envs import OWN, Env, GymWrapper, limited
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.wrappers import ActionRepeat, ResizeImage

# A function that makes environments, or those that are made already.
Source = Callable[[], Any] | list[Any]


class OwnEnvs:
    """Make the environments of a run from what `train` was given.

    Attributes:
      config: with the number of environments, a name for the task, and, if there are
        environments that are made already, no restarts.
      evaluates: True if there are environments for evaluation.

    Raises UsageError for environments that cannot be used so.
    """

    def __init__(self, train: Any, evaluation: Any, config: Config):
        if evaluation is None and is_maker(train):
            evaluation = train
        self.evaluates = evaluation is not None
        self._sources = {True: _source(train), False: _source(evaluation)}
        training, evaluating = self._sources.values()
        if training == []:
            raise UsageError("The list of environments is empty: give one or more.")
        if isinstance(training, list):
            config = config.update(envs=len(training))
        fewest = min(config.envs, config.eval_eps) if self.evaluates else 0
        if isinstance(evaluating, list) and len(evaluating) < fewest:
            raise UsageError(
                f"{len(evaluating)} environments were given for evaluation, but "
                f"{fewest} are needed, as many as for training or as eval_eps: give "
                "more of them, or a function that makes one."
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
        env = source.pop(0) if isinstance(source, list) else source()
        return prepare_env(env, config, seed)


def is_maker(env: Any) -> bool:
    """Check that this makes environments, rather than being one."""
    return isinstance(env, type) or (callable(env) and not hasattr(env, "step"))


def prepare_env(env: Any, config: Config, seed: int) -> Env:
    """Wrap any environment as `make_env` does."""
    if not hasattr(env, "obs_space"):
        env = GymWrapper(env, seed=seed)
    env = ActionRepeat(ResizeImage(env, config.render_size), config.action_repeat)
    return limited(env, config, seed)


def _source(env: Any) -> Source:
    if env is None or is_maker(env):
        return env or []
    return list(env) if isinstance(env, Sequence) else [env]


def _name(env: Any) -> str:
    """Return the environment's id, or the name of its class or maker."""
    env = env[0] if isinstance(env, Sequence) else env
    env = env.func if isinstance(env, functools.partial) else env
    spec = getattr(env, "spec", None)
    name = getattr(spec, "id", None) or getattr(env, "__name__", type(env).__name__)
    return name.strip("<>").replace("/", "-")
