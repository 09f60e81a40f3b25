"""Environments, and `make_env`, which builds the one that a task's name asks for."""

import re
from typing import Any

import gymnasium

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.atari import Atari
from dreamerv2.common.suites.checks import check_env
from dreamerv2.common.suites.crafter import Crafter
from dreamerv2.common.suites.dmc import DMC
from dreamerv2.common.suites.gym import GymWrapper
from dreamerv2.common.suites.interface import Env
from dreamerv2.common.suites.minigrid import MiniGrid
from dreamerv2.common.suites.parallel import Async as Async
from dreamerv2.common.suites.retro import Retro
from dreamerv2.common.suites.spelling import check_task, nearest
from dreamerv2.common.suites.toys import ToyCatch, ToyReach
from dreamerv2.common.suites.wrappers import (
    ActionRepeat,
    NormalizeAction,
    OneHotAction,
    RenderImage,
    ResizeImage,
    TimeLimit,
)
from dreamerv2.common.suites.wrappers import OneHotSpace as OneHotSpace
from dreamerv2.common.suites.wrappers import Wrapper as Wrapper

OWN = "own"  # The suite of environments that come from Python.
SUITES = ("atari", "dmc", "toy", "gym", "crafter", "minigrid", "retro")


def make_env(config: Any, seed: int, train: bool = True) -> Env:
    """Make the environment of `config.task`, "suite_name": with one-hot actions or
    those in [-1, 1], and `config.time_limit`. Equal seeds, in [0, 2**32), give equal
    episodes. UsageError for an unknown name and a missing optional package."""
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
    env = _made(suite, name, config, seed)
    if suite == "gym":
        check_env(limited(env, config, seed))
        env.seed(seed)  # The check has used it.
    return limited(env, config, seed)


def limited(env: Env, config: Any, seed: int) -> Env:
    """Normalize an environment's actions, limit its time, seed its action space."""
    space = env.act_space["action"]
    if not getattr(space, "discrete", False):  # One-hot vectors already.
        env = OneHotAction(env) if hasattr(space, "n") else NormalizeAction(env)
    env = TimeLimit(env, config.time_limit)
    env.act_space["action"].seed(seed)
    return env


def _made(suite: str, name: str, config: Any, seed: int) -> Env:
    """Make an environment, before its actions are normalized."""
    # Rendering is slow, so only if the encoder uses an image.
    image = bool(re.match(config.encoder.cnn_keys, "image"))
    repeat, size, gray = (
        config.action_repeat,
        config.render_size,
        config.atari_grayscale,
    )
    match suite:
        case "atari":
            every = config.atari_all_actions
            return Atari(name, repeat, size, gray, all_actions=every, seed=seed)
        case "dmc":
            return DMC(name, repeat, size, config.dmc_camera, image, seed)
        case "toy":
            check_task(suite, name, ("catch", "reach"))
            catch = name == "catch"
            env = ToyCatch(seed, 3, size) if catch else ToyReach(seed, image, size)
            return ActionRepeat(env, repeat)
        case "gym":
            return _make_gym(name, config, seed, image)
        case "crafter":
            check_task(suite, name, ("reward", "noreward"))
            if repeat != 1:
                raise UsageError("Crafter holds no action: use --action_repeat 1.")
            return Crafter(name == "reward", size, seed)
        case "minigrid":
            return ActionRepeat(MiniGrid(name, image, size, seed), repeat)
        case "retro":
            if config.envs_parallel != "process":
                raise UsageError(
                    "A process can hold one environment of the suite retro, and "
                    "training and evaluation need one each: use --envs_parallel "
                    "process."
                )
            return Retro(name, repeat, size, gray, seed)


def _make_gym(name: str, config: Any, seed: int, image: bool) -> Env:
    env = GymWrapper(_gym_made(name), seed)
    # Where the encoder's pattern names the image, rather than anything.
    named = image and not re.match(config.encoder.cnn_keys, "~")
    if render := named and "image" not in env.obs_space:
        env.close()
        env = GymWrapper(_gym_made(name, render_mode="rgb_array"), seed=seed)
    env = ActionRepeat(env, config.action_repeat)
    try:
        env = RenderImage(env, config.render_size) if render else env
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{name} needs a package that is missing: {error}") from error
    except (ValueError, NotImplementedError) as error:
        env.close()
        raise UsageError(
            f"The environment {name} has no image and cannot be rendered to one "
            f"({error}): choose its vectors by --encoder.cnn_keys '$^'."
        ) from error
    return ResizeImage(env, config.render_size)


def _gym_made(name: str, **options: Any) -> gymnasium.Env:
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"{name} needs a package that is missing: {error}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        near = nearest(name, gymnasium.registry, 3)
        raise UsageError(
            f"Gymnasium has no environment {name!r}: the nearest are {near}."
        ) from error
