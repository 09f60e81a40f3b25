"""Driver: steps environments with a policy and calls back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError

# (obs of (N, ...) arrays, state) -> ({"action": (N, A), ...}, state)
Policy = Callable[[dict[str, np.ndarray], Any], tuple[dict[str, np.ndarray], Any]]


class Driver:
    """Steps N environments with one policy, and tells the callbacks what happened.

    A transition is a dict of numpy arrays: the observation's keys and the action's. Its
    action is the one that led *to* its observation; a reset transition has a zero
    action. So in an episode of T+1 observations:

        index    0      1      2           T
        obs     o_0 -> o_1 -> o_2  ...  -> o_T     o_0.is_first, o_T.is_last
        action   0     a_0    a_1        a_(T-1)   a_t was chosen at o_t

    `on_reset` and `on_step` callbacks get each transition, `on_episode` callbacks the
    whole episode as a dict of stacked (T+1, ...) arrays; all get `worker=i`, the index
    of the environment. Dtypes are what the environments and the policy give.

    An environment's reset and step return the observation, or (see Async) a function
    that waits for it, called only after all environments have been started.
    """

    def __init__(self, envs: Sequence[Any]):
        if not envs:
            raise ValueError("A Driver needs at least one environment.")
        self._envs = list(envs)
        self._act_spaces = [dict(env.act_space) for env in self._envs]
        self._on_step: list[Callable[..., Any]] = []
        self._on_reset: list[Callable[..., Any]] = []
        self._on_episode: list[Callable[..., Any]] = []
        self.reset()

    def on_step(self, callback: Callable[..., Any]) -> None:
        """Call `callback(transition, worker=i)` after every step."""
        self._on_step.append(callback)

    def on_reset(self, callback: Callable[..., Any]) -> None:
        """Call `callback(transition, worker=i)` after every reset."""
        self._on_reset.append(callback)

    def on_episode(self, callback: Callable[..., Any]) -> None:
        """Call `callback(episode, worker=i)` after every finished episode."""
        self._on_episode.append(callback)

    def reset(self) -> None:
        """Forget observations, unfinished episodes and the policy's state."""
        self._obs: list[dict[str, Any] | None] = [None] * len(self._envs)
        self._episodes: list[list[dict[str, np.ndarray]]] = [[] for _ in self._envs]
        self._state: Any = None

    def __call__(
        self,
        policy: Policy,
        steps: int = 0,
        episodes: int = 0,
        episodes_per_env: int = 0,
    ) -> None:
        """Run until at least `steps` steps and `episodes` episodes are done.

        Both count over all environments, and the environments stop in mid-episode, to
        go on there with the next call. The first `episodes` episodes of several
        environments are the shortest ones: to evaluate, call `reset()` and ask for
        `episodes_per_env` instead. Then each environment plays that many episodes and
        stands still until the others have, too.

        Raises RuntimeError naming the environment that failed.
        """
        if episodes_per_env and (steps or episodes):
            raise ValueError("Give episodes_per_env alone, without steps or episodes.")
        step, finished = 0, [0] * len(self._envs)
        active = list(range(len(self._envs)))
        while step < steps or sum(finished) < episodes or episodes_per_env:
            if episodes_per_env:
                active = [i for i in active if finished[i] < episodes_per_env]
                if not active:
                    break
            self._reset_ended(active)
            actions = self._act(policy)
            self._advance(active, actions)
            step += len(active)
            for i in active:
                finished[i] += int(bool(self._obs[i]["is_last"]))

    def _reset_ended(self, active: list[int]) -> None:
        """Reset the environments that have no observation or whose episode ended."""
        ended = [i for i in active if not self._obs[i] or self._obs[i]["is_last"]]
        observed = self._gather({i: (self._envs[i].reset, ()) for i in ended})
        for i, ob in observed.items():
            self._obs[i] = ob
            spaces = self._act_spaces[i].items()
            tran = _transition(ob, {k: np.zeros(v.shape, v.dtype) for k, v in spaces})
            self._episodes[i] = [tran]
            for callback in self._on_reset:
                callback(tran, worker=i)

    def _act(self, policy: Policy) -> list[dict[str, np.ndarray]]:
        """One batched call of the policy, split into each environment's action."""
        obs = {k: np.stack([ob[k] for ob in self._obs]) for k in self._obs[0]}
        outputs, self._state = policy(obs, self._state)
        return [
            {k: np.asarray(outputs[k][i]) for k in spaces}
            for i, spaces in enumerate(self._act_spaces)
        ]

    def _advance(self, active: list[int], actions: list[dict[str, np.ndarray]]) -> None:
        """One step of each active environment, and its callbacks."""
        calls = {i: (self._envs[i].step, (actions[i],)) for i in active}
        for i, ob in self._gather(calls).items():
            self._obs[i] = ob
            tran = _transition(ob, actions[i])
            self._episodes[i].append(tran)
            for callback in self._on_step:
                callback(tran, worker=i)
            if ob["is_last"]:
                trans, self._episodes[i] = self._episodes[i], []
                episode = {k: np.stack([t[k] for t in trans]) for k in trans[0]}
                for callback in self._on_episode:
                    callback(episode, worker=i)

    def _gather(self, calls: dict[int, tuple[Callable, tuple]]) -> dict[int, Any]:
        """Start all calls, then wait for those that returned a promise."""
        results = {}
        for i, (function, args) in calls.items():
            results[i] = _named(i, function, *args)
        for i, result in results.items():
            if callable(result):
                results[i] = _named(i, result)
        return results


def _transition(obs: dict[str, Any], action: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copies, since an environment or a policy may reuse its arrays."""
    return {k: np.array(v) for k, v in {**obs, **action}.items()}


def _named(index: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call the function; if it fails, say which environment it was."""
    try:
        return function(*args)
    except UsageError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"Environment {index} failed with {type(error).__name__}: {error}"
        ) from error
