"""Environments, and `make_env`, which builds the one that a task's name asks for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import gymnasium

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.atari import Atari
from dreamerv2.common.suites.crafter import Crafter
from dreamerv2.common.suites.dmc import DMC
from dreamerv2.common.suites.gym import GymWrapper
from dreamerv2.common.suites.minigrid import MiniGrid
from dreamerv2.common.suites.parallel import Async
from dreamerv2.common.suites.retro import Retro
from dreamerv2.common.suites.spelling import nearest
from dreamerv2.common.suites.toys import ToyCatch, ToyReach
from dreamerv2.common.suites.wrappers import (
    ActionRepeat,
    NormalizeAction,
    OneHotAction,
    OneHotSpace,
    RenderImage,
    ResizeImage,
    TimeLimit,
    Wrapper,
)

__all__ = [
    "DMC",
    "ActionRepeat",
    "Async",
    "Atari",
    "Crafter",
    "GymWrapper",
    "MiniGrid",
    "NormalizeAction",
    "OneHotAction",
    "OneHotSpace",
    "RenderImage",
    "ResizeImage",
    "Retro",
    "TimeLimit",
    "ToyCatch",
    "ToyReach",
    "Wrapper",
    "make_env",
]


OWN = "own"  # What tasks are called whose environments come from Python.


def make_env(config: Any, seed: int, train: bool = True) -> Any:
    """The environment of `config.task`, "suite_name", wrapped and ready for a Driver.

    Actions are one-hot vectors or lie in [-1, 1]; `config.time_limit` is applied.
    Equal seeds, in [0, 2**32), give equal episodes and actions of the action space.

    Raises UsageError for an unknown suite or name, naming the nearest, and for a
    missing optional package, with the command that installs it.
    """
    suite, _, name = config.task.partition("_")
    if suite == OWN:
        raise UsageError(
            f"The environment {config.task!r} is made in Python, not by its name: give "
            "it, or a function that makes it, to dreamerv2.api."
        )
    if suite not in SUITES or not name:
        raise UsageError(
            f"Unknown task {config.task!r}: expected SUITE_NAME with a suite of "
            f"{', '.join(SUITES)}; the nearest is {nearest(suite, SUITES, 1)}."
        )
    return finish(SUITES[suite](name, config, seed, train), config, seed)


def finish(env: Any, config: Any, seed: int) -> Any:
    """What all environments get: actions of one kind, a time limit, seeded actions."""
    kind = OneHotAction if hasattr(env.act_space["action"], "n") else NormalizeAction
    env = TimeLimit(kind(env), config.time_limit)
    env.act_space["action"].seed(seed)
    return env


def _make_atari(name: str, config: Any, seed: int, train: bool) -> Any:
    return Atari(
        name,
        config.action_repeat,
        config.render_size,
        config.atari_grayscale,
        all_actions=config.atari_all_actions,
        seed=seed,
    )


def _make_toy(name: str, config: Any, seed: int, train: bool) -> Any:
    if name == "catch":
        env = ToyCatch(seed, size=config.render_size)
    elif name == "reach":
        env = ToyReach(seed, _sees_image(config), config.render_size)
    else:
        near = nearest(name, ["catch", "reach"], 1)
        raise UsageError(f"Unknown toy {name!r}: did you mean toy_{near}?")
    return ActionRepeat(env, config.action_repeat)


def _make_dmc(name: str, config: Any, seed: int, train: bool) -> Any:
    return DMC(
        name,
        config.action_repeat,
        config.render_size,
        config.dmc_camera,
        _sees_image(config),
        seed,
    )


def _make_crafter(name: str, config: Any, seed: int, train: bool) -> Any:
    if name not in ("reward", "noreward"):
        near = nearest(name, ["reward", "noreward"], 1)
        raise UsageError(f"Unknown task crafter_{name}: did you mean crafter_{near}?")
    if config.action_repeat != 1:
        raise UsageError("Crafter holds no action: use --action_repeat 1.")
    return Crafter(name == "reward", config.render_size, seed)


def _make_minigrid(name: str, config: Any, seed: int, train: bool) -> Any:
    env = MiniGrid(name, _sees_image(config), config.render_size, seed)
    return ActionRepeat(env, config.action_repeat)


def _make_retro(name: str, config: Any, seed: int, train: bool) -> Any:
    if config.envs_parallel != "process":
        raise UsageError(
            "A process can hold one environment of the suite retro, and training and "
            "evaluation need one each: use --envs_parallel process."
        )
    return Retro(
        name,
        config.action_repeat,
        config.render_size,
        config.atari_grayscale,
        seed=seed,
    )


def _make_gym(name: str, config: Any, seed: int, train: bool) -> Any:
    env = GymWrapper(_gym_made(name), seed=seed)
    if "image" in env.obs_space or not _asks_for_image(config):
        env = ActionRepeat(env, config.action_repeat)
        return ResizeImage(env, config.render_size)
    env.close()
    env = GymWrapper(_gym_made(name, render_mode="rgb_array"), seed=seed)
    env = ActionRepeat(env, config.action_repeat)
    try:
        env = RenderImage(env, size=config.render_size)
    except gymnasium.error.DependencyNotInstalled as error:
        raise _lacks_package(name, error) from error
    except (ValueError, NotImplementedError) as error:
        env.close()
        raise UsageError(
            f"The environment {name} has no image and cannot be rendered to one "
            f"({error}): choose its vectors by --encoder.cnn_keys '$^'."
        ) from error
    return ResizeImage(env, config.render_size)


def _lacks_package(name: str, error: Exception) -> UsageError:
    return UsageError(f"{name} needs a package that is missing: {error}")


def _gym_made(name: str, **options: Any) -> gymnasium.Env:
    """The environment of that id; raises UsageError where there is none."""
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise _lacks_package(name, error) from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = nearest(name, gymnasium.registry, 3)
        raise UsageError(
            f"Gymnasium has no environment {name!r}: the nearest are {near}."
        ) from error


# One entry per suite: (name, config, seed, train) -> environment, before its actions
# are normalized and its time is limited.
SUITES: dict[str, Callable[[str, Any, int, bool], Any]] = {
    "atari": _make_atari,
    "dmc": _make_dmc,
    "toy": _make_toy,
    "gym": _make_gym,
    "crafter": _make_crafter,
    "minigrid": _make_minigrid,
    "retro": _make_retro,
}


def _sees_image(config: Any) -> bool:
    """Whether the encoder uses an image: rendering it is slow, so only then."""
    return bool(re.match(config.encoder.cnn_keys, "image"))


def _asks_for_image(config: Any) -> bool:
    """Whether the encoder's pattern names the image, rather than taking anything."""
    return _sees_image(config) and not re.match(config.encoder.cnn_keys, "~")
