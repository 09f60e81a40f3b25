"""Published figures to compare with, from the files in `scores/`."""

import contextlib
import csv
import importlib.metadata
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError

DISTRIBUTION = "dreamerv2-torch"

# What 1 is on the scale of each aggregate; 0 is a random player.
SCALES = {
    "gamer_median": "human_gamer",
    "gamer_mean": "human_gamer",
    "record_mean": "human_record",
    "clip_record_mean": "human_record",
}


def scores_file(name: str) -> Path:
    """Find a file of `scores/` in the clone or the installed package."""
    found = [Path(__file__).resolve().parents[3] / "scores" / name]
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        files = importlib.metadata.files(DISTRIBUTION) or []
        found += [x.locate() for x in files if x.parts[-2:] == ("scores", name)]
    for path in map(Path, found):
        if path.is_file():
            return path
    raise UsageError(
        f"The file scores/{name} is missing: install {DISTRIBUTION} again, or draw "
        "nothing from it with --baselines none."
    )


def load_baselines() -> dict[str, dict[str, float]]:
    """Return task -> name (random, human_gamer, dqn_sticky_2e8, ...) -> known score."""
    return {
        row.pop("task"): {name: float(x) for name, x in row.items() if x}
        for row in _read("baselines.csv")
    }


def load_published() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return task -> `dreamerv2` -> curve, for evaluation returns: arrays (N,) of `x`,
    in frames, `mean`, `std` (n-1), `min`, `max`, `seeds`."""
    curves = _columns("dreamerv2.csv", "step")
    return {task: {"dreamerv2": curve} for task, curve in curves.items()}


def load_reference_episodes() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return task -> `reference` -> `x` and `mean` over ten episodes of the TF2 one."""
    curves = {}
    for task, rows in _columns("reference_small_tasks.csv", "step").items():
        size = min(10, len(rows["x"]))
        mean = np.convolve(rows["train_return"], np.ones(size) / size, "valid")
        curves[task] = {"reference": {"x": rows["x"][size - 1 :], "mean": mean}}
    return curves


def normalize(score: Any, baselines: dict[str, float], unit: str) -> Any | None:
    """Put scores on a scale of 0 for a random player and 1 for `unit`: human_gamer or
    human_record. None where a figure is missing, or below random play."""
    zero, one = baselines.get("random", math.nan), baselines.get(unit, math.nan)
    return (score - zero) / (one - zero) if one > zero else None


def reduce_tasks(scores: np.ndarray, stat: str) -> np.ndarray:
    """Take the median or mean over tasks of scores (tasks, ...); clip_ cuts at 1."""
    if stat.startswith("clip"):
        scores = np.minimum(scores, 1)
    return np.median(scores, 0) if stat.endswith("median") else np.mean(scores, 0)


def _columns(name: str, x: str) -> dict[str, dict[str, np.ndarray]]:
    """Return a file's numbers by task and column, sorted by the column x."""
    rows = defaultdict(list)
    for row in _read(name):
        rows[row.pop("task")].append({k: float(v) for k, v in row.items()})
    curves = {}
    for task, of_task in rows.items():
        of_task.sort(key=lambda row: row[x])
        curve = {key: np.array([row[key] for row in of_task]) for key in of_task[0]}
        curves[task] = {"x": curve.pop(x), **curve}
    return curves


def _read(name: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file, without the lines about it that begin with #."""
    lines = scores_file(name).read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))
