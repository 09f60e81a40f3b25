"""What an environment of somebody else promises, checked before anything learns."""

import contextlib
import warnings
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import Action, Env, Obs, state_of
from dreamerv2.common.suites.observations import wrong

# Of an environment that cannot work, however often it is tried.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError)
_FAULTS += (NotImplementedError, TypeError)
_UNSCALED = 16  # An image without bounds should stay within this.


def check_env(env: Env) -> None:
    """Try a reset and a few steps, and check them against the spaces: UsageError for
    what is not as they say, and for a fault in the code; a warning for numbers beyond
    the bounds of a vector. What may pass, as a lost connection, is left to the run."""
    before, space = state_of(env), env.act_space["action"]
    obs: Obs = {"is_last": True}
    try:
        for step in range(4):
            obs = env.reset() if obs["is_last"] else env.step(_action(space, step))
            for key, value in obs.items():
                if key in env.obs_space and not key.startswith("log_"):
                    _check_range(key, np.asarray(value), env.obs_space[key])
    except (UsageError, *_FAULTS):
        raise
    except Exception:
        return
    if before is not None:
        env.load_state_dict(before)


def refuse_many(env: Any) -> None:
    """Refuse what is no environment, or more than one."""
    name = type(env).__name__
    if hasattr(env, "num_envs") and any(
        hasattr(env, x) for x in ("single_observation_space", "step_async", "env_fns")
    ):
        raise UsageError(
            f"{name} is a vector environment, which steps {env.num_envs} at once: give "
            "a function that makes a single one, and their number as config.envs."
        )
    if hasattr(env, "possible_agents"):
        raise UsageError(
            f"{name} is an environment of several agents, and one is trained here: "
            "wrap it so that it has one observation, one action and one reward."
        )
    own = hasattr(env, "obs_space") and hasattr(env, "act_space")
    gym = hasattr(env, "observation_space") and hasattr(env, "action_space")
    if not (own or gym) or not (hasattr(env, "reset") and hasattr(env, "step")):
        raise UsageError(
            f"Expected an environment, or a function that makes one, but got a {name}: "
            "it needs reset, step and the spaces of Gymnasium, or obs_space, act_space."
        )


def _number(value: Any) -> float | None:
    """Return what may be any kind of number, or None for none and for several."""
    with contextlib.suppress(Exception):  # Of a tensor elsewhere.
        array = np.asarray(value)
        if array.dtype.kind in "biuf" and array.size == 1:
            return float(array.reshape(()))
    return None


def read_reward(value: Any) -> float:
    """Return a reward as a number; UsageError for none and for several."""
    if (number := _number(value)) is not None:
        return number
    raise UsageError(
        f"The environment gave the reward {value!r}, but expected is one number: have "
        "its step() give a float."
    )


def read_flag(name: str, value: Any) -> bool:
    """Return True or False; UsageError for what is neither."""
    if (number := _number(value)) in (0, 1):
        return bool(number)
    raise UsageError(
        f"The environment gave {value!r} for {name!r}, but expected is True or False: "
        "have its step() give a bool."
    )


def _action(space: Any, step: int) -> Action:
    """Return the least action, the greatest, or one in the middle."""
    count = space.shape[0]
    if getattr(space, "discrete", False):
        return {"action": np.eye(count, dtype=np.float32)[(step - 1) % count]}
    return {"action": np.full(count, (-1.0, 1.0, 0.3)[(step - 1) % 3], np.float32)}


def _check_range(key: str, value: np.ndarray, space: Box) -> None:
    finite = np.isfinite(value)
    if not finite.all():
        raise UsageError(
            f"The environment gave {value[~finite].flat[0]} in {key!r}, but numbers "
            "are expected: have it give finite ones."
        )
    if not value.size:
        return
    low, high, image = value.min(), value.max(), value.ndim == 3
    bounded = np.isfinite(space.low).all() and np.isfinite(space.high).all()
    if image and not bounded and max(-low, high) > _UNSCALED:
        raise UsageError(
            f"The image {key!r} holds numbers from {low:g} to {high:g}, and its space "
            "has no bounds by which to scale them: give it those of its values."
        )
    slack = 1e-4 * np.maximum(1, np.abs(value))
    if (value < space.low - slack).any() or (value > space.high + slack).any():
        error = wrong(key, f"holds numbers from {low:g} to {high:g}", space)
        if image or value.dtype.kind != "f":
            raise error
        warnings.warn(str(error), stacklevel=2)
