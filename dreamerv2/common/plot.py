r"""Learning curves of many runs, with baselines and published curves behind them.

    python dreamerv2/common/plot.py --indir ~/logdir --outdir ~/plots \
        --xaxis step --yaxis eval_return --bins 1e6

Runs lie as TASK/METHOD/SEED/metrics.jsonl below --indir. Writes curves.png and
curves.pdf, a panel per task and per aggregate over tasks, and curves.json with every
number in them."""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import run_command
from dreamerv2.common.plots import curves, figure, scores
from dreamerv2.common.plots.curves import LoggedRun
from dreamerv2.common.plots.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code, 2 for what the user can mend."""
    return run_command("plot", lambda: plot(parse(argv, __doc__)))


def plot(args: argparse.Namespace) -> list[Path]:
    """Load, aggregate, draw and write; return the files written."""
    runs = curves.load_runs(args, _warn)
    data = summarize(rename(runs, args.labels, args.xmult), args)
    subdir = (args.indir[0].resolve().name or "root") if args.subdir else ""
    methods = {run.method for run in runs}
    print(f"Runs: {len(runs)}, methods: {len(methods)}, tasks: {len(data['tasks'])}.")
    return save(data, args, args.outdir / subdir)


def save(data: Mapping[str, Any], args: argparse.Namespace, outdir: Path) -> list[Path]:
    """Draw what `summarize` returns, and write picture and numbers to a folder."""
    drawn = figure.draw(data, args)
    paths = png, pdf, numbers = [outdir / f"curves.{x}" for x in ("png", "pdf", "json")]
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        for path in (png, pdf):
            drawn.savefig(path, dpi=args.dpi)
        numbers.write_text(json.dumps(plain(data), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {outdir} ({error.strerror}): choose another --outdir."
        ) from error
    print("\n".join(f"Wrote {path}." for path in paths))
    return paths


def rename(
    runs: Sequence[LoggedRun], labels: Mapping[str, str], xmult: float
) -> list[LoggedRun]:
    """Return runs with other names for methods, and x times a factor."""
    methods = list(dict.fromkeys(run.method for run in runs))
    for name in labels.keys() - methods:
        known = ", ".join(methods)
        raise UsageError(
            f"--labels renames {name!r}, which is none of the methods {known}."
        )
    return [
        replace(run, method=labels.get(run.method, run.method), x=run.x * xmult)
        for run in runs
    ]


def summarize(runs: Sequence[LoggedRun], args: argparse.Namespace) -> dict[str, Any]:
    """Return every number that is drawn, as in curves.json.

    `tasks`: per task, `methods` as by `describe`, `published` curves, and `baselines`.
    `stats`: per aggregate, the same with x, y and the tasks in it."""
    width = curves.nice_width(runs) if args.bins < 0 else args.bins
    baselines = scores.load_baselines() if args.baselines else {}
    drawn = choose_baselines(args.baselines, baselines)
    published = load_published(args, drawn)
    # Scores are returns; other metrics are not to be compared with them.
    units = scores.load_baselines() if args.yaxis.endswith("return") else {}
    groups: dict[str, dict[str, list[LoggedRun]]] = {}
    for run in runs:
        groups.setdefault(run.task, {}).setdefault(run.method, []).append(run)
    tasks = {}
    for task, methods in groups.items():
        known = units.get(task, {})
        tasks[task] = {
            "methods": {k: describe(x, width, args.agg) for k, x in methods.items()},
            "published": published.get(task, {}),
            "baselines": {name: known[name] for name in drawn if name in known},
        }
    stats = [x for x in args.stats or default_stats(list(tasks), units) if x != "none"]
    panels = {stat: over_tasks(tasks, stat, units, drawn) for stat in stats}
    panels = {stat: panel for stat, panel in panels.items() if panel}
    data = {"xaxis": args.xaxis, "yaxis": args.yaxis, "bins": width, "agg": args.agg}
    return {**data, "tasks": tasks, "stats": panels}


def describe(runs: Sequence[LoggedRun], width: float, agg: str) -> dict[str, Any]:
    """Return the numbers of a method on a task, (G,), and in `runs` of each seed."""
    curve = curves.make_curve(runs, width)
    middle, low, high = curve.spread(agg if agg != "none" else "mean")
    mean, _, above = curve.spread("std1")
    least, most = np.nanmin(curve.values, 0), np.nanmax(curve.values, 0)
    return {
        **{"x": curve.x, "middle": middle, "low": low, "high": high},
        **{"mean": mean, "std": above - mean, "min": least, "max": most},
        "seeds": curve.counts,
        "runs": dict(zip(unique(curve.seeds), curve.values, strict=True)),
    }


def over_tasks(
    tasks: Mapping[str, Any],
    stat: str,
    units: Mapping[str, Mapping[str, float]],
    drawn: Sequence[str],
) -> dict[str, Any] | None:
    """Aggregate methods and what is behind them over tasks; None without methods."""

    def means(kind: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        having = {task: x[kind][name] for task, x in tasks.items() if name in x[kind]}
        return {task: (curve["x"], curve["mean"]) for task, curve in having.items()}

    panel: dict[str, Any] = {}
    for kind in ("methods", "published"):
        names = dict.fromkeys(name for task in tasks.values() for name in task[kind])
        panel[kind] = {
            name: dict(zip(("x", "y", "tasks"), found, strict=True))
            for name in names
            if (found := curves.aggregate(means(kind, name), stat, units))
        }
    if not panel["methods"]:
        return None
    covered = {len(x["tasks"]) for x in panel["methods"].values()}
    if len(covered) > 1:
        _warn(f"The methods have different tasks, and each {stat} is over its own.")
    panel["baselines"] = {}
    if stat in scores.SCALES:
        used = dict.fromkeys(t for x in panel["methods"].values() for t in x["tasks"])
        for name in drawn:
            of_task = [units[task] for task in used]
            if all(name in known for known in of_task):
                unit = scores.SCALES[stat]
                values = [scores.normalize(x[name], x, unit) for x in of_task]
                value = scores.reduce_tasks(np.array(values), stat)
                panel["baselines"][name] = float(value)
    return panel


def default_stats(
    tasks: Sequence[str], units: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Choose aggregates for two or more tasks of Atari or of DM Control."""
    atari = [task for task in tasks if "human_record" in units.get(task, {})]
    control = [task for task in tasks if task.startswith("dmc_")]
    if len(atari) > 1:
        return list(scores.SCALES)
    return ["mean", "median"] if 1 < len(control) == len(tasks) and units else ["none"]


def choose_baselines(
    patterns: Sequence[str], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return the names that have one of the patterns in them, in their order."""
    scored = [name for task in baselines.values() for name in task]
    known = list(dict.fromkeys(["dreamerv2", "reference", *scored]))
    chosen: list[str] = []
    for pattern in patterns:
        found = [name for name in known if re.search(pattern, name)]
        if not found:
            listed = f"{', '.join(known)}, or none"
            raise UsageError(f"There is no baseline {pattern!r}: choose from {listed}.")
        chosen += found
    return list(dict.fromkeys(chosen))


def load_published(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return task -> name -> curve, of those that are of these axes."""
    found = {}
    if (args.xaxis, args.yaxis) == ("step", "eval_return") and "dreamerv2" in names:
        found = scores.load_published()
    elif (args.xaxis, args.yaxis) == ("step", "train_return") and "reference" in names:
        found = scores.load_reference_episodes()
    for curve in (curve for task in found.values() for curve in task.values()):
        curve["x"] = curve["x"] * args.xmult
    return found


def unique(names: Sequence[str]) -> list[str]:
    """Return names with a number behind those that are there already."""
    result: list[str] = []
    for name in names:
        others = [f"{name} ({i})" for i in range(2, len(names) + 1)]
        result.append(next(x for x in [name, *others] if x not in result))
    return result


def plain(value: Any) -> Any:
    """Turn arrays to lists and NaN to None, for JSON."""
    if isinstance(value, Mapping):
        return {key: plain(x) for key, x in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(x) for x in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def _warn(sentence: str) -> None:
    print(sentence, file=sys.stderr)


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    sys.exit(main())
