"""An environment that somebody wrote for our own interface."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.actions import FlatAction
from dreamerv2.common.suites.checks import read_flag, read_reward, refuse_many
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.observations import FlatObservation
from dreamerv2.common.suites.wrappers import Wrapper


class OwnWrapper(Wrapper):
    """An environment of our own interface that somebody else wrote, of any spaces; keys
    that begin `log_` stay. UsageError for what is not as the interface says."""

    def __init__(self, env: Any):
        super().__init__(env)
        refuse_many(env)
        spaces, actions = env.obs_space, env.act_space
        if not isinstance(spaces, Mapping) or not isinstance(actions, Mapping):
            raise UsageError(
                "An environment's obs_space and act_space are dicts of spaces, but got "
                f"{spaces} and {actions}: give them names, as in {{'action': space}}."
            )
        if [*actions] != ["action"]:
            raise UsageError(
                f"The act_space has the keys {', '.join(map(str, actions))}, but "
                "'action' alone is expected: join them to one space of that name."
            )
        self._logs = {k: v for k, v in spaces.items() if str(k).startswith("log_")}
        self._needed = {*signal_spaces(), *self._logs}
        own = {k: v for k, v in spaces.items() if k not in self._needed}
        self._observation = FlatObservation(own)
        action = actions["action"]
        # One-hot vectors are given as they are.
        flat = None if getattr(action, "discrete", False) else FlatAction(action)
        self._action = flat or np.asarray
        self.obs_space = {**self._observation.spaces, **self._logs, **signal_spaces()}
        self.act_space = {"action": flat.space if flat else action}

    def reset(self) -> Obs:
        return self._checked(self._env.reset(), first=True)

    def step(self, action: Action) -> Obs:
        taken = self._action(action["action"])
        return self._checked(self._env.step({"action": taken}), first=False)

    def _checked(self, obs: Any, first: bool) -> Obs:
        if not isinstance(obs, Mapping) or not self._needed <= obs.keys():
            found = ", ".join(obs) if isinstance(obs, Mapping) else type(obs).__name__
            needed = ", ".join(sorted(self._needed))
            raise UsageError(
                f"An environment with obs_space gives dicts with {needed}, but got "
                f"{found}: add what is missing."
            )
        flags = [read_flag(k, obs[k]) for k in ("is_first", "is_last", "is_terminal")]
        if flags[0] != first or (first and flags[1]) or (flags[2] and not flags[1]):
            raise UsageError(
                f"The environment gave is_first, is_last, is_terminal {flags} in "
                f"{'reset' if first else 'step'}(): is_first belongs to a reset alone, "
                "is_last to a step, and is_terminal to one that is_last, too."
            )
        own = self._observation({k: v for k, v in obs.items() if k not in self._needed})
        own.update((k, obs[k]) for k in self._logs)
        return with_signals(own, read_reward(obs["reward"]), *flags)
