"""Runs on disk, as curves: found, read, put into bins, and aggregated."""

import argparse
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dreamerv2.common.config import Config
from dreamerv2.common.errors import UsageError
from dreamerv2.common.plots.scores import SCALES, normalize, reduce_tasks

Warn = Callable[[str], None]


@dataclass(frozen=True)
class LoggedRun:
    """One run: where it belongs, and its points (N,), sorted by x."""

    task: str
    method: str
    seed: str
    path: Path
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Runs of one task and method on one grid."""

    x: np.ndarray  # (G,) right ends of the bins; without bins, the runs' own points.
    values: np.ndarray  # (R, G) per run; NaN beyond its ends.
    seeds: tuple[str, ...]  # R names.

    @property
    def counts(self) -> np.ndarray:
        """(G,) runs that have a value."""
        return np.isfinite(self.values).sum(0)

    def spread(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return middle, low and high (G,) over the runs that have a value.

        kind: stdK, the mean with K standard deviations (n-1; none of a single run);
        perK, the median with the percentiles K and 100-K; or mean, without a spread."""
        if kind.startswith("per"):
            ends = float(kind[3:]), 100 - float(kind[3:])
            return tuple(np.nanpercentile(self.values, (50, *ends), axis=0))
        mid = np.nanmean(self.values, 0)
        amount = float(kind[3:]) if kind.startswith("std") else 0.0
        squares = np.nansum((self.values - mid) ** 2, 0)
        std = np.sqrt(squares / np.maximum(self.counts - 1, 1))
        return mid, mid - amount * std, mid + amount * std


def load_runs(args: argparse.Namespace, warn: Warn) -> list[LoggedRun]:
    """Return the runs that have both metrics, in the order of the patterns."""
    xaxis, yaxis, below = args.xaxis, args.yaxis, _join(args.indir)
    found = [run for folder in args.indir for run in find_runs(folder, args.prefix)]
    if not found:
        raise UsageError(
            f"Found no metrics.jsonl below {below}: give --indir the folder that holds "
            "TASK/METHOD/SEED/metrics.jsonl."
        )

    def ranks(run: LoggedRun) -> tuple[int | None, int | None]:
        return _rank(args.tasks, run.task), _rank(args.methods, run.method)

    chosen = [run for run in found if None not in ranks(run)]
    if not chosen:
        raise UsageError(
            f"None of the {len(found)} runs below {below} fits --tasks and --methods: "
            f"there are the tasks {_join({run.task for run in found})} and the methods "
            f"{_join({run.method for run in found})}."
        )
    read = [read_run(run, xaxis, yaxis, args.maxval, warn) for run in chosen]
    runs = [run for run, _ in read if len(run.x)]
    if not runs:
        listed = _join(set().union(*(names for _, names in read))) or "nothing yet"
        raise UsageError(
            f"None of the {len(chosen)} runs has {yaxis!r} by {xaxis!r} yet: choose "
            f"--xaxis and --yaxis from what they have, {listed}."
        )
    for run, _ in read:
        if not len(run.x):
            warn(f"Left out {run.path}: it has no {yaxis!r} by {xaxis!r}.")

    def order(run: LoggedRun) -> tuple:
        names = map(natural, (run.task, run.method))
        return *zip(ranks(run), names, strict=True), natural(run.seed)

    return sorted(runs, key=order)


def find_runs(indir: Path, prefix: bool = False) -> Iterator[LoggedRun]:
    """Find runs, TASK/METHOD/SEED or less and then config.yaml; without points yet."""
    if not indir.is_dir():
        raise UsageError(f"There is no folder {indir}: correct --indir.")
    folders = []
    for folder, below, files in os.walk(indir):
        if "metrics.jsonl" in files:
            folders.append(Path(folder))
            below.clear()  # Thousands of episodes, and no more runs.
    for folder in sorted(folders):
        parts = folder.relative_to(indir).parts
        deep = len(parts) >= 3
        task, method, seed = parts[-3:] if deep else _shallow(indir, folder, parts)
        method = f"{indir.name}_{method}" if prefix else method
        none = np.empty(0)
        yield LoggedRun(task, method, seed, folder / "metrics.jsonl", none, none)


def _shallow(indir: Path, folder: Path, parts: tuple[str, ...]) -> tuple[str, str, str]:
    """Return task, method and seed of a run less than three folders down."""
    absolute = ("", "", *folder.resolve().parts)[-3:]
    try:
        config = Config.read(folder / "config.yaml")
        task, seed = str(config["task"]), str(config["seed"])
    except (UsageError, KeyError):
        return absolute
    method, *rest = parts or (indir.resolve().name,)
    return task, method, rest[0] if rest else seed


def read_run(
    run: LoggedRun, xaxis: str, yaxis: str, maxval: float = 0.0, warn: Warn = print
) -> tuple[LoggedRun, set[str]]:
    """Read a run's points, without null and NaN; return them and all metrics' names."""
    points, names, broken, content = [], set(), 0, b""
    try:
        content = run.path.read_bytes()
    except OSError as error:
        warn(f"Left out {run.path}: {error.strerror}.")
    for line in filter(None, map(bytes.strip, content.split(b"\n"))):
        try:
            metrics = json.loads(line)
            names.update(metrics)
            points.append((metrics.get(xaxis), metrics.get(yaxis)))
        except (ValueError, AttributeError, TypeError):
            broken += 1
    if broken:
        lines = "a line that is" if broken == 1 else f"{broken} lines that are"
        warn(f"Left out {lines} no JSON, in {run.path}.")
    points = [point for point in points if all(map(_is_number, point))]
    x, y = np.array(points, float).reshape(-1, 2).T
    kept = np.abs(y) <= maxval if maxval else np.ones(len(y), bool)
    order = np.argsort(x[kept], kind="stable")
    return replace(run, x=x[kept][order], y=y[kept][order]), names


def nice_width(runs: Sequence[LoggedRun]) -> float:
    """Return 1, 2 or 5 times a power of ten: at most 30 bins for the longest run."""
    bins = 30
    longest = max((np.ptp([*run.x, 0.0]) for run in runs), default=0.0)
    if not longest:
        return 0.0
    power = 10.0 ** math.floor(math.log10(longest / bins))
    return next(k * power for k in (1, 2, 5, 10) if k * power * bins >= longest)


def bin_points(
    x: np.ndarray, y: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the right ends of the bins ((k-1) width, k width] and their means."""
    index = np.ceil(np.round(x / width, 9)) if width else x
    if width:
        index = np.where((x >= 0) & (index < 1), 1, index)
    ends, place = np.unique(index, return_inverse=True)
    means = np.bincount(place, weights=y) / np.bincount(place)
    return ends * (width or 1), means


def make_curve(runs: Sequence[LoggedRun], width: float) -> Curve:
    """Put runs of a task and method on one grid; none goes on beyond its ends."""
    binned = [bin_points(run.x, run.y, width) for run in runs]
    grid = np.unique(np.concatenate([x for x, _ in binned]))
    values = np.stack([np.interp(grid, *xy, np.nan, np.nan) for xy in binned])
    covered = np.isfinite(values).any(0)  # Between runs that do not overlap.
    return Curve(grid[covered], values[:, covered], tuple(run.seed for run in runs))


def aggregate(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    stat: str,
    baselines: Mapping[str, Mapping[str, float]],
) -> tuple[np.ndarray, np.ndarray, list[str]] | None:
    """Return x and a curve over tasks (G,), where all have a value, and the tasks; or
    None. `curves` are task -> x and the mean over seeds (G,): means are normalised, not
    runs. `stat` is one of SCALES, which leave out tasks without human scores; mean or
    median, of plain returns; or tasks, how many have a value by then."""
    scaled = {}
    for task, (x, y) in curves.items():
        unit = SCALES.get(stat)
        y = normalize(y, dict(baselines.get(task, {})), unit) if unit else y
        if y is not None and len(x):
            scaled[task] = x, y
    if not scaled:
        return None
    grid = np.unique(np.concatenate([x for x, _ in scaled.values()]))
    if stat == "tasks":
        return grid, sum((grid <= x[-1]) * 1.0 for x, _ in scaled.values()), [*scaled]
    start = max(x[0] for x, _ in scaled.values())
    end = min(x[-1] for x, _ in scaled.values())
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, x, y) for x, y in scaled.values()])
    return grid, reduce_tasks(values, stat), list(scaled)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a key to sort names by, in which 10 comes after 9."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts if p]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _rank(patterns: Sequence[str], name: str) -> int | None:
    fitting = (i for i, pattern in enumerate(patterns) if re.search(pattern, name))
    return next(fitting, None)


def _join(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
