"""Datasets of Minari, by their ids, as recorded episodes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete, Space

from dreamerv2.common.episodes.npz import Arrays, to_bytes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import first_line, write_atomically
from dreamerv2.common.suites.observations import FlatObservation
from dreamerv2.common.suites.packages import require

_ID = re.compile(r"([\w.-]+/)*[\w.-]+-v\d+")


def is_minari(source: str) -> bool:
    """Tell an id, as in mujoco/hopper/expert-v0, from a folder that is there."""
    return bool(_ID.fullmatch(source)) and not Path(source).expanduser().exists()


def write_minari(name: str, folder: Path) -> list[Path]:
    """Write a dataset's episodes as .npz files (T+1, ...); return their paths. Minari
    takes it from the disk, or downloads it. Observations become images and vectors as
    of an environment, discrete actions one-hot, others scaled to [-1, 1]. UsageError
    for an unknown id, and for spaces that are not taken."""
    minari = require("minari", "minari")
    try:
        dataset = minari.load_dataset(name, download=True)
    except Exception as error:  # Of the network, of files, of its own.
        raise UsageError(
            f"Minari does not give the dataset {name} ({first_line(error)}): give "
            "--offline an id that `minari list remote` shows, or a folder."
        ) from error
    space = dataset.action_space
    bounded = isinstance(space, Box) and space.is_bounded()
    if not isinstance(space, Discrete) and not bounded:
        raise UsageError(
            f"The actions of the dataset {name} are {space}, but discrete ones, or a "
            "box with bounds, are expected: use another one."
        )
    paths = []
    for number, episode in enumerate(dataset.iterate_episodes()):
        path = folder / f"{number:06d}.npz"
        if not path.exists():
            content = to_bytes(_convert(episode, dataset.observation_space, space))
            write_atomically(path, lambda file, content=content: file.write(content))
        paths.append(path)
    return paths


def _convert(episode: Any, obs_space: Space, act_space: Space) -> Arrays:
    """Return arrays (T+1, ...); the action at index t led to the observation there."""
    length = len(episode.rewards)
    flat = FlatObservation(obs_space)
    steps = [flat(_at(episode.observations, t)) for t in range(length + 1)]
    place = np.arange(length + 1)
    terminal = np.append(False, np.asarray(episode.terminations, bool))
    return {
        **{key: np.stack([step[key] for step in steps]) for key in flat.spaces},
        "action": _actions(np.asarray(episode.actions), act_space),
        "reward": np.append(0, episode.rewards).astype(np.float32),
        "is_first": place == 0,
        "is_last": place == length,
        "is_terminal": terminal & (place == length),
    }


def _at(obs: Any, t: int) -> Any:
    if isinstance(obs, Mapping):
        return {key: _at(value, t) for key, value in obs.items()}
    return tuple(_at(x, t) for x in obs) if isinstance(obs, tuple) else obs[t]


def _actions(actions: np.ndarray, space: Space) -> np.ndarray:
    """Return (T+1, A) float32; row 0 is zero."""
    if isinstance(space, Discrete):
        led = np.eye(space.n, dtype=np.float32)[actions.astype(int) - space.start]
    else:
        low, high = (x.astype(np.float64) for x in (space.low, space.high))
        led = ((actions - low) / (high - low) * 2 - 1).clip(-1, 1)
        led = led.reshape(len(led), -1).astype(np.float32)
    return np.concatenate([np.zeros_like(led[:1]), led])
