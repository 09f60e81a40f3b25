"""Driver: steps environments with a policy and calls back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamerv2.common.errors import UsageError

if TYPE_CHECKING:  # For annotations alone: the driver needs no torch.
    from dreamerv2.common.other import Timer

# (obs of (N, ...) arrays, state) -> ({"action": (N, A), ...}, state)
Policy = Callable[[dict[str, np.ndarray], Any], tuple[dict[str, np.ndarray], Any]]


class Driver:
    """Steps N environments with one policy, and tells the callbacks what happened.

    A transition is a dict of numpy arrays: the observation's keys and the action's. Its
    action led *to* its observation, and is zero at the reset. So in an episode of T+1
    observations:

        index    0      1      2           T
        obs     o_0 -> o_1 -> o_2  ...  -> o_T     o_0.is_first, o_T.is_last
        action   0     a_0    a_1        a_(T-1)   a_t was chosen at o_t

    Callbacks get a transition, or an episode as a dict of stacked (T+1, ...) arrays,
    and the environment's index as `worker`. Reset and step return the observation, or
    (see Async) a function that waits for it, called after all have been started.

    An environment fails when it raises anything but a UsageError, or gives a number
    that is not finite (but for `log_` keys). Then its unfinished episode is dropped,
    and `replace(worker, error)` gives one in its place, or a RuntimeError is raised.
    `timer` is told the time of waiting for them, as env. `extra` are outputs of the
    policy, beside actions, that transitions keep, with what stands for missing ones."""

    def __init__(
        self,
        envs: Sequence[Any],
        replace: Callable[[int, Exception], Any] | None = None,
        timer: Timer | None = None,
        extra: Mapping[str, np.ndarray] | None = None,
    ):
        self._envs = list(envs)
        self._replace = replace
        self._timer = timer or (lambda name: contextlib.nullcontext())
        self._extra = dict(extra or {})
        spaces = [env.act_space.items() for env in self._envs]
        self._no_actions = [
            {**{k: np.zeros(v.shape, v.dtype) for k, v in items}, **self._extra}
            for items in spaces
        ]
        self._on_step: list[Callable[..., Any]] = []
        self._on_reset: list[Callable[..., Any]] = []
        self._on_episode: list[Callable[..., Any]] = []
        self._keep: list[Callable[[str], bool]] = []
        self.reset()

    def on_step(self, callback: Callable[..., Any]) -> None:
        """Call `callback(transition, worker=i)` after every step."""
        self._on_step.append(callback)

    def on_reset(self, callback: Callable[..., Any]) -> None:
        """Call `callback(transition, worker=i)` after every reset."""
        self._on_reset.append(callback)

    def on_episode(
        self, callback: Callable[..., Any], keep: Callable[[str], bool] | None = None
    ) -> None:
        """Call `callback(episode, worker=i)` after every finished episode; `keep` is
        asked at each reset which keys it is to have, by default all."""
        self._on_episode.append(callback)
        self._keep.append(keep or (lambda key: True))

    def reset(self) -> None:
        """Forget observations, unfinished episodes and the policy's state."""
        self._obs: list[dict[str, Any] | None] = [None] * len(self._envs)
        # Per environment and key, the values so far; is_first always, for its length.
        self._episodes: list[dict[str, list[np.ndarray]]] = [{} for _ in self._envs]
        self._state: Any = None

    def __call__(
        self,
        policy: Policy,
        steps: int = 0,
        episodes: int = 0,
        episodes_per_env: int | Sequence[int] = 0,
    ) -> None:
        """Run until at least `steps` steps and `episodes` episodes are done in all.

        Environments stop in mid-episode, and go on there with the next call. The first
        `episodes` episodes of several are the shortest ones: to evaluate, call
        `reset()` and ask for `episodes_per_env`, one number or one for each; then each
        plays that many and stands still until the others have, too."""
        if not self._envs:
            raise ValueError("This Driver has no environments to step.")
        if episodes_per_env and (steps or episodes):
            raise ValueError("Give episodes_per_env alone, without steps or episodes.")
        step, finished = 0, [0] * len(self._envs)
        active, shares = list(range(len(self._envs))), episodes_per_env
        shares = [shares] * len(active) if isinstance(shares, int) else shares
        while step < steps or sum(finished) < episodes or episodes_per_env:
            if episodes_per_env:
                active = [i for i in active if finished[i] < shares[i]]
                if not active:
                    break
            self._reset_ended(active)
            for i in self._advance(active, self._act(policy)):
                step += 1
                finished[i] += int(bool(self._obs[i]["is_last"]))

    def state_dict(self) -> dict[str, Any]:
        """Return all but the environments' own states, between two calls."""
        obs, episodes = (
            [ob and dict(ob) for ob in self._obs],
            map(_stack, self._episodes),
        )
        return {"obs": obs, "episodes": list(episodes), "policy": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned, of as many environments."""
        if len(state["obs"]) != len(self._envs):
            raise ValueError(f"The state is of {len(state['obs'])} environments.")
        self._obs, self._state = list(state["obs"]), state["policy"]
        self._episodes = [
            {k: [np.array(x) for x in v] for k, v in episode.items()}
            for episode in state["episodes"]
        ]

    def _reset_ended(self, active: list[int]) -> None:
        """Reset the environments that have no observation or whose episode ended."""
        obs = self._obs
        while ended := [i for i in active if not obs[i] or obs[i]["is_last"]]:
            with self._timer("env"):
                observed = self._gather({i: (self._envs[i].reset, ()) for i in ended})
            for i, ob in observed.items():
                obs[i] = ob
                tran = _copy({**ob, **self._no_actions[i]})
                self._episodes[i] = {
                    key: [value]
                    for key, value in tran.items()
                    if key == "is_first" or any(keep(key) for keep in self._keep)
                }
                for callback in self._on_reset:
                    callback(tran, worker=i)

    def _act(self, policy: Policy) -> list[dict[str, np.ndarray]]:
        """Call the policy once for all, and split its actions."""
        obs = {k: np.stack([ob[k] for ob in self._obs]) for k in self._obs[0]}
        outputs, self._state = policy(obs, self._state)
        extra = {k: [v] * len(self._envs) for k, v in self._extra.items()}
        outputs = {**extra, **outputs}
        return [
            {k: np.asarray(outputs[k][i]) for k in keys}
            for i, keys in enumerate(self._no_actions)
        ]

    def _advance(
        self, active: list[int], actions: list[dict[str, np.ndarray]]
    ) -> list[int]:
        """Step each active environment; return the indices of those that made it."""
        told = [{k: x[k] for k in x.keys() - self._extra.keys()} for x in actions]
        calls = {i: (self._envs[i].step, (told[i],)) for i in active}
        with self._timer("env"):
            observed = self._gather(calls)
        for i, ob in observed.items():
            self._obs[i] = ob
            tran = _copy({**ob, **actions[i]})
            for key, values in self._episodes[i].items():
                values.append(tran.get(key))  # The replay says if one is missing.
            for callback in self._on_step:
                callback(tran, worker=i)
            if ob["is_last"]:
                episode, self._episodes[i] = self._episodes[i], {}
                for callback in self._on_episode:
                    callback(_stack(episode), worker=i)
        return list(observed)

    def _gather(self, calls: dict[int, tuple[Callable, tuple]]) -> dict[int, Any]:
        """Start all calls and wait; environments that fail are replaced."""
        results, errors = {}, {}

        def attempt(i: int, function: Callable[..., Any], *args: Any) -> None:
            try:
                results[i] = function(*args)
                if not callable(results[i]):
                    step = len(self._episodes[i].get("is_first", ()))
                    _check_finite(results[i], step)
            except UsageError:
                raise
            except Exception as error:  # Environments may raise anything.
                results.pop(i, None)
                errors[i] = error

        for i, (function, args) in calls.items():
            attempt(i, function, *args)
        for i, result in list(results.items()):
            if callable(result):
                attempt(i, result)
        for i, error in errors.items():
            if self._replace is None:
                what = f"Environment {i} failed with {type(error).__name__}: {error}"
                raise RuntimeError(what) from error
            self._envs[i] = self._replace(i, error)
            self._obs[i], self._episodes[i] = None, {}
        return results


def _copy(transition: dict[str, Any]) -> dict[str, np.ndarray]:
    """Copy, since an environment or a policy may use its arrays again."""
    return {k: np.array(v) for k, v in transition.items()}


def _stack(episode: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.stack(values) for key, values in episode.items()}  # (T+1, ...)


def _check_finite(obs: dict[str, Any], step: int) -> None:
    """Raise ValueError for a number that is not finite, by its key and step."""
    for key, value in obs.items():
        value = np.asarray(value)
        is_checked = value.dtype.kind == "f" and not key.startswith("log_")
        if is_checked and (bad := value[~np.isfinite(value)]).size:
            raise ValueError(f"its {key!r} is {bad[0]} in step {step} of the episode")
