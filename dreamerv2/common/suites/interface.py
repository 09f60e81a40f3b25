"""The one interface of all environments, and the signals that they all give."""

from typing import Any, Protocol

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box

Spaces = dict[str, Space]
Obs = dict[str, Any]
Action = dict[str, Any]

FLAGS = ("is_first", "is_last", "is_terminal")


class Env(Protocol):
    """An environment: any object with these two spaces and two methods.

    Besides its own keys every observation holds those of `signal_spaces`. There may be,
    too: `render()` gives a picture (H, W, 3) uint8; `close()` frees what is held;
    `state_dict()` gives plain types, bytes and arrays, or None, and after
    `load_state_dict(state)` it goes on as it did then, random numbers included;
    `oracle()` gives the best action; `action_names` say what discrete ones mean."""

    obs_space: Spaces
    act_space: Spaces

    def reset(self) -> Obs:
        """Begin an episode."""

    def step(self, action: Action) -> Obs:
        """Take the action of the key `action`."""


def signal_spaces() -> dict[str, Box]:
    """Return the spaces of what every observation holds besides its own keys.

    reward: the sum since the last observation, 0 at a reset.
    is_first: this is the observation of a reset.
    is_last: the episode ends here, for whatever reason.
    is_terminal: the value after this is zero; a time limit sets is_last alone."""
    flags = {name: Box(0, 1, (), bool) for name in FLAGS}
    return {"reward": Box(-np.inf, np.inf, (), np.float32), **flags}


def with_signals(
    obs: Obs,
    reward: float = 0.0,
    is_first: bool = False,
    is_last: bool = False,
    is_terminal: bool = False,
) -> Obs:
    """Return a new dict of `obs` and the signals, in the types of `signal_spaces`."""
    flags = zip(FLAGS, map(bool, (is_first, is_last, is_terminal)), strict=True)
    return {**obs, "reward": np.float32(reward), **dict(flags)}


def state_of(env: Env) -> dict[str, Any] | None:
    """Return the state of an environment, or None for one that cannot be saved."""
    return env.state_dict() if hasattr(env, "state_dict") else None


def close(env: Env) -> None:
    """Close an environment that has anything to close."""
    getattr(env, "close", lambda: None)()
