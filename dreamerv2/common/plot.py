r"""Learning curves of many runs, with baselines and published curves behind them.

    python dreamerv2/common/plot.py --indir ~/logdir --outdir ~/plots \
        --xaxis step --yaxis eval_return --bins 1e6

Runs lie as TASK/METHOD/SEED/metrics.jsonl below --indir. Writes curves.png and
curves.pdf, a panel per task and per aggregate over tasks, and curves.json with every
number in them.
"""

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
from dreamerv2.common.plots import figure, scores
from dreamerv2.common.plots.curves import (
    LoggedRun,
    aggregate,
    load_runs,
    make_curve,
    nice_width,
)
from dreamerv2.common.plots.options import parse


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code, 2 for what the user can mend."""
    return run_command("plot", lambda: plot(parse(argv, __doc__)))


def plot(args: argparse.Namespace) -> list[Path]:
    """Load, aggregate, draw and write; return the files written."""
    axes, patterns = (args.xaxis, args.yaxis), (args.tasks, args.methods)
    runs = load_runs(args.indir, *axes, *patterns, args.prefix, args.maxval, _warn)
    data = summarize(rename(runs, args.labels, args.xmult), args)
    subdir = (args.indir[0].resolve().name or "root") if args.subdir else ""
    methods = {run.method for run in runs}
    print(f"Runs: {len(runs)}, methods: {len(methods)}, tasks: {len(data['tasks'])}.")
    return save(data, args, args.outdir / subdir)


def save(data: Mapping[str, Any], args: argparse.Namespace, outdir: Path) -> list[Path]:
    """Draw what `summarize` returns, and write picture and numbers to a folder."""
    drawn = figure.draw(data, args)
    try:
        outdir.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "pdf"):
            drawn.savefig(outdir / f"curves.{kind}", dpi=args.dpi)
        text = json.dumps(plain(data), indent=1, allow_nan=False)
        (outdir / "curves.json").write_text(text + "\n")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {outdir} ({error.strerror}): choose another --outdir."
        ) from error
    paths = [outdir / f"curves.{kind}" for kind in ("png", "pdf", "json")]
    print("\n".join(f"Wrote {path}." for path in paths))
    return paths


def rename(
    runs: Sequence[LoggedRun], labels: Mapping[str, str], xmult: float
) -> list[LoggedRun]:
    """Return runs with other names for methods, and x times a factor."""
    known = dict.fromkeys(run.method for run in runs)
    for name in labels:
        if name not in known:
            known = ", ".join(known)
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
    `stats`: per aggregate, the same with x, y and the tasks in it.
    """
    width = nice_width(runs) if args.bins < 0 else args.bins
    baselines = scores.load_baselines() if args.baselines else {}
    drawn = choose_baselines(args.baselines, baselines)
    published = load_published(args.xaxis, args.yaxis, args.xmult, drawn)
    # Scores are returns; other metrics are not to be compared with them.
    has_scores = args.yaxis.endswith("return")
    units = scores.load_baselines() if has_scores else {}
    tasks: dict[str, dict[str, Any]] = {}
    for task in dict.fromkeys(run.task for run in runs):
        known = units.get(task, {})
        tasks[task] = {
            "methods": {},
            "published": published.get(task, {}),
            "baselines": {name: known[name] for name in drawn if name in known},
        }
        for method in dict.fromkeys(run.method for run in runs):
            some = [run for run in runs if (run.task, run.method) == (task, method)]
            if some:
                tasks[task]["methods"][method] = describe(some, width, args.agg)
    stats = args.stats or default_stats(list(tasks), units)
    panels = {
        stat: panel
        for stat in stats
        if stat != "none" and (panel := over_tasks(tasks, stat, units, drawn))
    }
    data = {"xaxis": args.xaxis, "yaxis": args.yaxis, "bins": width, "agg": args.agg}
    return {**data, "tasks": tasks, "stats": panels}


def describe(runs: Sequence[LoggedRun], width: float, agg: str) -> dict[str, Any]:
    """Return the numbers of one method on one task: arrays (G,), of which `seeds` is
    how many have a value, and each seed's values in `runs`."""
    curve = make_curve(runs, width)
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
    """Aggregate methods, published curves and baselines, each over the tasks that it
    has; None if no method has any."""

    def curves(kind: str, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        having = {task: x[kind][name] for task, x in tasks.items() if name in x[kind]}
        return {task: (curve["x"], curve["mean"]) for task, curve in having.items()}

    panel: dict[str, Any] = {}
    for kind in ("methods", "published"):
        names = dict.fromkeys(name for task in tasks.values() for name in task[kind])
        panel[kind] = {
            name: dict(zip(("x", "y", "tasks"), found, strict=True))
            for name in names
            if (found := aggregate(curves(kind, name), stat, units))
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
            values = [
                scores.normalize(units[task][name], units[task], scores.SCALES[stat])
                for task in used
                if name in units[task]
            ]
            if len(values) == len(used):
                value = scores.reduce_tasks(np.array(values), stat)
                panel["baselines"][name] = float(value)
    return panel


def default_stats(
    tasks: Sequence[str], units: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Choose human-normalised aggregates for two or more Atari tasks, plain ones for
    two or more of DM Control, whose returns are all on one scale."""
    atari = [task for task in tasks if "human_record" in units.get(task, {})]
    control = [task for task in tasks if task.startswith("dmc_")]
    if len(atari) > 1:
        return list(scores.SCALES)
    return ["mean", "median"] if 1 < len(control) == len(tasks) and units else ["none"]


def choose_baselines(
    patterns: Sequence[str], baselines: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return the names that have one of the patterns in them, in their order."""
    known = dict.fromkeys(["dreamerv2", "reference"])
    known.update(dict.fromkeys(name for task in baselines.values() for name in task))
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [name for name in known if re.search(pattern, name)]
        if not found:
            listed = f"{', '.join(known)}, or none"
            raise UsageError(f"There is no baseline {pattern!r}: choose from {listed}.")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def load_published(
    xaxis: str, yaxis: str, xmult: float, names: Sequence[str]
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Return task -> name -> curve, of those that are of these axes."""
    if xaxis != "step" or yaxis not in ("eval_return", "train_return"):
        return {}
    is_eval = yaxis == "eval_return"
    load = scores.load_published if is_eval else scores.load_reference_episodes
    if ("dreamerv2" if is_eval else "reference") not in names:
        return {}
    return {
        task: {k: {**curve, "x": curve["x"] * xmult} for k, curve in curves.items()}
        for task, curves in load().items()
    }


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
