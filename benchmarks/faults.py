"""Inject faults into training runs, and show what was lost: nothing must be.

    python benchmarks/faults.py                  # all rows: some ten minutes
    python benchmarks/faults.py --quick          # a sample of each row
    python benchmarks/faults.py --rows kill disk-full
    python benchmarks/faults.py --rows kill:7    # one trial again

Each trial is a run of train.py on Atari Pong with small networks, that is harmed once
and then started again with the same command. Its folder is compared with what was
there before: no finished episode may be gone, the step count may neither go back
behind the checkpoint nor jump, metrics.jsonl may miss or repeat nothing, a damaged
file must be named and kept, and every message must be one sentence.

Moments and damage are drawn from --seed and printed, so that a trial can be repeated,
as closely as the clock allows. Where a fault needs a moment that chance would hardly
hit (the middle of a write), the run is a fork of this process in which the functions
of Python that write, flush and rename files are replaced by some that kill or stall.
For a full disk and a read-only one a small file system is mounted, which needs root on
Linux; without, there are a limit on the size of files and missing rights.

The exit code is 1 if anything was lost.
"""

import argparse
import functools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# Before torch and numpy: a run uses one thread, and a fork must find no others.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from circumstances import make_parser
from fault_trials import LOGDIR, ROWS, Outcome, make_base, run_trial
from fault_trials.report import as_json, print_table, print_trial

Job = tuple[str, int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials and print the table; return the exit code."""
    args = parse_args(argv)
    if not hasattr(os, "fork"):
        print("Error: this needs a system that can fork.", file=sys.stderr)
        return 2
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    outcomes = []
    try:
        base = folder / "base" / LOGDIR
        base.parent.mkdir()
        make_base(base)
        for outcome in run_trials(args.trials, args, folder):
            outcomes.append(outcome)
            print_trial(outcome)
    finally:
        if not any(outcome.losses for outcome in outcomes):
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - begin
    lost = print_table(outcomes)
    kept = f"; what is left of these runs is in {folder}" if lost else ""
    print(f"{lost} losses in {seconds / 60:.1f} minutes{kept}.")
    if args.json:
        report = as_json(outcomes, args.seed, seconds)
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if lost else 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a sample of each row")
    parser.add_argument(
        "--rows",
        nargs="+",
        default=list(ROWS),
        metavar="ROW[:NUMBER]",
        help=f"which ones, or single trials: {', '.join(ROWS)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there, too")
    args = parser.parse_args(argv)
    args.trials = []
    for item in args.rows:
        row, _, number = item.partition(":")
        if row not in ROWS or not (number.isdigit() or item == row):
            parser.error(f"unknown row {item!r}: expected one of {', '.join(ROWS)}")
        count = ROWS[row].quick if args.quick else ROWS[row].full
        numbers = [int(number)] if number else range(count)
        args.trials += [(row, n) for n in numbers]
    return args


def run_trials(
    jobs: list[Job], args: argparse.Namespace, folder: Path
) -> Iterator[Outcome]:
    """The outcomes, in the order of the jobs."""
    run = functools.partial(_run, seed=args.seed, folder=folder)
    if args.jobs <= 1:
        yield from map(run, jobs)
        return
    with multiprocessing.get_context("fork").Pool(args.jobs) as pool:
        yield from pool.imap(run, jobs)


def _run(job: Job, seed: int, folder: Path) -> Outcome:
    return run_trial(*job, seed, folder / "base" / LOGDIR, folder)


if __name__ == "__main__":
    sys.exit(main())
