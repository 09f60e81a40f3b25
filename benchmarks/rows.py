"""Compare the ways in which rows go on, dataset.rows, with runs of the reference.

    python benchmarks/rows.py DIR --task CartPole-v1 --csv FILE --outdir PLOTS

DIR holds runs of the task as ROWS/SEED, each of train.py with the flags of the suite
reference of learns.py, --dataset.rows ROWS and --seed SEED. Prints mean returns of the
last ten training episodes and Welch's test of each way against the reference's runs;
writes all returns to FILE, and the project's plot to PLOTS.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from divided_rewards import DIVISORS

from dreamerv2.common import plot
from dreamerv2.common.plots.scores import scores_file

# The steps of the table, by task, and the file with the reference's returns.
TASKS = {
    "CartPole-v1": ((4000, 8000, 12000, 16000, 20000), "reference_cartpole_runs.csv"),
    "Pendulum-v1": ((4000, 8000, 12000, 16000), "reference_small_tasks.csv"),
}
BEST = 499.9  # A return of CartPole that shows that it can.
SLACK = 500  # The last episode ends up to its length before the run.

Runs = dict[str, dict[str, list[tuple[int, float]]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--outdir", type=Path, required=True)
    args = parser.parse_args()
    steps, reference_file = TASKS[args.task]
    ours = read_runs(args.runs, dict(DIVISORS.values())[args.task])
    rows = [
        (args.task, way, seed, step, round(value, 3))
        for way, seeds in ours.items()
        for seed, curve in seeds.items()
        for step, value in curve
    ]
    with args.csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("task", "rows", "seed", "step", "train_return"))
        writer.writerows(rows)
    runs = {**ours, "reference": read_reference(reference_file, args.task)}
    report(runs, steps)
    draw(runs, args.task, args.outdir)


def read_runs(folder: Path, divisor: float) -> Runs:
    """The training returns of all runs, in the task's own units."""
    found: Runs = defaultdict(dict)
    for path in sorted(folder.glob("*/*/metrics.jsonl")):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        points = [x for x in lines if "train_return" in x]
        curve = [(x["step"], divisor * x["train_return"]) for x in points]
        found[path.parts[-3]][path.parts[-2]] = curve
    return dict(found)


def read_reference(file: str, task: str) -> dict[str, list[tuple[int, float]]]:
    """The runs of the TensorFlow reference, some of which ended early."""
    found = defaultdict(list)
    with scores_file(file).open() as lines:
        for row in csv.DictReader(line for line in lines if line[0] != "#"):
            if row["task"].endswith(task):
                point = (int(row["step"]), float(row["train_return"]))
                found[row.get("run", "a")].append(point)
    return dict(found)


def mean_at(curve: list[tuple[int, float]], step: int) -> float | None:
    """The mean of the last ten episodes by then; None if the run is not that long."""
    if curve[-1][0] < step - SLACK:
        return None
    return float(np.mean([value for at, value in curve if at <= step][-10:]))


def report(runs: Runs, steps: Sequence[int]) -> None:
    """Print the table and the tests."""
    for way, seeds in runs.items():
        for seed, curve in seeds.items():
            values = [mean_at(curve, step) for step in steps]
            shown = ["-" if x is None else f"{x:.0f}" for x in values]
            first = next((f"{at:,}" for at, x in curve if x > BEST), "-")
            print(f"| {way}, {seed} | {' | '.join(shown)} | {first} |")
    for step in steps[1:]:
        at = {
            way: [x for c in seeds.values() if (x := mean_at(c, step)) is not None]
            for way, seeds in runs.items()
        }
        for way in runs:
            one, other = at[way], at["reference"]
            if way != "reference" and min(len(one), len(other)) > 1:
                t, freedom = welch(one, other)
                print(
                    f"{way} at {step:,}: mean {np.mean(one):.0f} of {len(one)}, the "
                    f"reference's {np.mean(other):.0f} of {len(other)}; Welch's t "
                    f"{t:.2f} with {freedom:.1f} degrees of freedom, "
                    f"p = {p_value(t, freedom):.2f}"
                )


def welch(one: list[float], other: list[float]) -> tuple[float, float]:
    """Welch's t and its degrees of freedom."""
    parts = [np.var(x, ddof=1) / len(x) for x in (one, other)]
    t = (np.mean(one) - np.mean(other)) / np.sqrt(sum(parts))
    squares = parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(other) - 1)
    return float(t), float(sum(parts) ** 2 / squares)


def p_value(t: float, freedom: float, draws: int = 2_000_000) -> float:
    """The chance of a t that far from 0, both ways, by drawing."""
    found = np.random.default_rng(0).standard_t(freedom, draws)
    return float(np.mean(np.abs(found) >= abs(t)))


def draw(runs: Runs, task: str, outdir: Path) -> None:
    """The project's plot, of means of ten episodes."""
    with TemporaryDirectory() as folder:
        for way, seeds in runs.items():
            for seed, curve in seeds.items():
                logdir = Path(folder) / task / way / seed
                logdir.mkdir(parents=True)
                means = [(at, mean_at(curve, at)) for at, _ in curve]
                lines = [{"step": at, "train_return": mean} for at, mean in means]
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (logdir / "metrics.jsonl").write_text(text)
        flags = ["--xaxis", "step", "--yaxis", "train_return", "--bins", "1000"]
        flags += ["--baselines", "none", "--stats", "none", "--subdir", "False"]
        plot.main(["--indir", folder, "--outdir", str(outdir), *flags])


if __name__ == "__main__":
    sys.exit(main())
