"""DreamerV2 from Python: train on an environment of your own, and act with the agent.

    import gymnasium
    import dreamerv2.api as dv2

    config = dv2.defaults.update(dv2.presets["gym"])
    config = config.update(logdir="~/logdir/cartpole", steps=3e4).parse_flags()

    dv2.train(lambda: gymnasium.make("CartPole-v1"), config)

The same script again goes on where the run was stopped."""

import functools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import Env, make_env
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.flags import Flags
from dreamerv2.common.logger import Output
from dreamerv2.common.settings.rules import checked
from dreamerv2.common.suites.interface import close
from dreamerv2.running.exported import open_agent
from dreamerv2.running.exporting import export_run as export
from dreamerv2.running.exporting import push_agent as push
from dreamerv2.running.loading import refuse_other_spaces
from dreamerv2.running.logdir import Logdir, goes_on
from dreamerv2.running.own_envs import OwnEnvs, is_maker, prepare_env
from dreamerv2.running.seeds import derive_seed
from dreamerv2.running.signals import Stopped, StopSignals
from dreamerv2.train import Trainer

__all__ = ["Player", "RunFailed", "UsageError", "defaults", "export", "load"]
__all__ += ["presets", "push", "train"]

P = ParamSpec("P")
R = TypeVar("R")

presets: Mapping[str, Mapping[str, Any]] = load_presets()
"""Named overrides of the defaults: `defaults.update(presets["crafter"])`."""


class ScriptConfig(Config):
    """A Config of a script, whose arguments may change it."""

    def parse_flags(self, argv: Sequence[str] | None = None) -> "ScriptConfig":
        """Return a copy changed by command line arguments, by default the program's.
        Wrong ones end the program with a sentence and exit code 2; so does --help."""
        try:
            return Flags(self).parse(argv)
        except UsageError as error:
            program = Path(sys.argv[0]).name or "python"
            print(f"{program}: {error}", file=sys.stderr)
            raise SystemExit(2) from None


defaults = ScriptConfig(presets["defaults"])
"""The default configuration; `update` and `parse_flags` return changed copies."""


def _brief(function: Callable[P, R]) -> Callable[P, R]:
    """Have the errors that are for the user end their traceback in the user's call."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UsageError as error:
            raise error.with_traceback(None) from None
        except RunFailed as error:  # Its cause, as of an environment, is worth seeing.
            raise error.with_traceback(None) from error.__cause__

    return call


@_brief
def train(
    env: Any, config: Config, outputs: Sequence[Output] = (), eval_env: Any = None
) -> None:
    """Train an agent in config.logdir, or go on with the one that is there.

    env: an environment, a list of them, or a function without arguments that makes one.
      With a function there are config.envs for training, and more for evaluation, maybe
      in threads or processes (config.envs_parallel), and one that fails is made anew.
      They are of gymnasium, of the older gym, or of the interface
      `dreamerv2.common.envs.Env`; actions are normalized, images resized.
    config: from `defaults`; it must name a logdir.
    outputs: of metrics, besides those of config.logger: see `dreamerv2.common.logger`.
    eval_env: likewise, for evaluation; by default the function that makes those for
      training, and without one, there is no evaluation.

    Ctrl-C and SIGTERM save and end the program with SystemExit. Raises UsageError for
    what can be mended in the arguments, and RunFailed for a run that failed on its way.
    """
    envs = OwnEnvs(env, eval_env, checked(config))
    config = envs.config
    with ExitStack() as stack:
        logdir = stack.enter_context(closing(Logdir(config)))
        stop = StopSignals()
        if threading.current_thread() is threading.main_thread():
            stack.enter_context(stop)
        try:
            args = config, logdir, stop, stack, envs, envs.evaluates, outputs
            Trainer(*args).run()
        except Stopped as stopped:
            print(f"{stopped} The same program {goes_on(logdir.path)}")
            raise SystemExit(stopped.code) from None


@_brief
def load(source: str | Path, env: Any = None, **changes: Any) -> "Player":
    """Load a finished agent, to act with; UsageError if there is none that fits.

    source: a run's folder, the name of an agent that comes along ("freeway"), the
      folder of an exported one, or hf://ORG/NAME.
    env: the environment to act in, of any kind that `train` takes; by default the one
      of the agent's task, as it was for evaluation.
    changes: to the agent's config, such as device="cpu"."""
    trained = open_agent(source)
    config = checked(trained.config.update({"jit": False, **changes}))
    seed = derive_seed(config.seed, "play_env", bits=32)
    if env is None:
        env = make_env(config, seed, train=False)
    else:
        env = prepare_env(env() if is_maker(env) else env, config, seed)
    refuse_other_spaces(trained.name, trained.shapes, env)
    agent = Agent(config, env.obs_space, env.act_space, Counter(), learns=False)
    trained.restore(agent)
    return Player(agent, env)


class Player(AbstractContextManager):
    """A trained agent and one environment in which it acts.

        player = dv2.load("~/logdir/cartpole", gymnasium.make("CartPole-v1"))
        obs = player.env.reset()
        while not obs["is_last"]:
            obs = player.env.step(player(obs))

    `agent` is the `Agent`, `env` the environment, by the interface
    `dreamerv2.common.envs.Env`."""

    def __init__(self, agent: Agent, env: Env):
        self.agent, self.env = agent, env
        self._state: tuple | None = None

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment."""
        close(self.env)

    @_brief
    def __call__(
        self, obs: Mapping[str, Any], mode: str = "eval"
    ) -> dict[str, np.ndarray]:
        """Return the action {"action": (A,)} for what `env` observed last; by `mode`
        `eval` the most likely one, by `train` a sampled one. What came before is
        remembered, until an is_first. UsageError for what `env` never observes."""
        spaces = self.env.obs_space
        if not _fits(obs, spaces):
            raise UsageError(
                f"A player takes what player.env observes, {', '.join(spaces)} in the "
                f"shapes of its spaces, but got {_described(obs)}: take it from there."
            )
        batch = {key: np.asarray(obs[key])[None] for key in spaces}
        actions, self._state = self.agent.policy(batch, self._state, mode)
        return {key: value[0] for key, value in actions.items()}

    def episode(self, mode: str = "eval") -> dict[str, np.ndarray]:
        """Play a whole episode; return arrays (T+1, ...), where index t has observation
        t and the action that led to it, index 0 a zero action."""
        obs = self.env.reset()
        zero = np.zeros(self.env.act_space["action"].shape, np.float32)
        steps = [{**obs, "action": zero}]
        while not obs["is_last"]:
            action = self(obs, mode)
            obs = self.env.step(action)
            steps.append({**obs, **action})
        return {key: np.stack([step[key] for step in steps]) for key in steps[0]}


def _fits(obs: Any, spaces: Mapping[str, Any]) -> bool:
    return isinstance(obs, Mapping) and all(
        k in obs and np.shape(obs[k]) == tuple(v.shape) for k, v in spaces.items()
    )


def _described(obs: Any) -> str:
    if isinstance(obs, Mapping):
        return ", ".join(f"{k} of shape {np.shape(v)}" for k, v in obs.items())
    return f"a {type(obs).__name__}"
