"""Train Atari games and compare the returns with the published ones.

    python benchmarks/replicate.py --games boxing freeway pong space_invaders \
        --frames 2e6 --seeds 1 2 3 --out DIR
    python benchmarks/replicate.py --out DIR --list
    python benchmarks/replicate.py --games boxing --frames 2e6 --out DIR \
        --configs atari --configs atari train_every=4
    python benchmarks/replicate.py --games pong --frames 4000 --out DIR \
        --configs small -- --prefill 200
    python benchmarks/replicate.py --games boxing pong --seeds 1 2 3 --out DIR \
        --launcher slurm --jobs 4 --partition gpu --time 1440 --slurm account=NAME

Each run is an ordinary run of train.py in DIR/atari_GAME/METHOD/SEED. The same
command again goes on where it was stopped; Ctrl-C stops it after each run has saved.
A --configs is a set of presets, and of KEY=VALUE for single settings; several sets are
compared side by side. Flags behind -- go to train.py, for all runs.

Runs are evaluated by an episode each 100,000 frames (--eval_every behind the -- is
another choice), and a figure is the mean of those in a million frames, as the published
ones are. DIR gets table.md, replication.json, and curves.png (.pdf, .json): our curves
over the published mean and its lowest and highest seed. While runs go on, --list says
how far they are, and --plot_only writes these of what there is.

The exit code is 1 if a run failed, and 2 if what was asked for cannot be done.
"""

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import circumstances
from replication import jobs, plan, results, slurm
from replication.plan import Job
from replication.state import JobState, read_state

from dreamerv2.common.errors import UsageError
from dreamerv2.running.signals import Stopped, StopSignals

# Operations of one update with the preset atari, in units of 1e9, and about how many of
# them a CPU core does in a second.
UPDATE_GFLOP, CORE_GFLOPS = 780, 50


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    failed: list[Job] = []
    try:
        args = parse(argv)
        asked = make_jobs(args)
        if not (args.list or args.plot_only):
            with StopSignals() as stop:
                failed = train(asked, args, argv, stop)
        runs = read(plan.merge(asked, plan.find_jobs(args.out)), args)
        if args.list or (args.launcher == "slurm" and not args.plot_only):
            print(results.run_table(runs))
            print(count(runs))
        else:
            write(runs, args.out)
    except UsageError as error:
        print(f"replicate: {error}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"{stopped} The same command goes on from the last checkpoints.")
        return stopped.code
    except KeyboardInterrupt:
        return 130
    return 1 if failed else 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options.")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; `passed` is what is behind the --."""
    parser = _Parser(
        prog="replicate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--games", nargs="+", default=[], metavar="GAME", help="as in space_invaders")
    add("--frames", type=_positive, default=2e6, help="of each run (2e6)")
    add("--seeds", nargs="+", type=_seed, default=[1], metavar="SEED", help="(1)")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of everything")
    add(
        "--configs",
        nargs="+",
        action="append",
        metavar="PRESET",
        help="a set of settings, presets and KEY=VALUE; once for each set (atari)",
    )
    add(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names of the sets (dreamerv2, and what a set has beyond atari)",
    )
    add(
        "--jobs",
        type=_count,
        help="runs at the same time (on a GPU up to 4, with two CPU cores for each; on "
        "a CPU one for two cores; with Slurm as many as it lets)",
    )
    add("--list", action="store_true", help="say what is done and what is left")
    add(
        "--plot_only",
        action="store_true",
        help="table and curves of the runs in DIR, whatever is left",
    )
    add(
        "--launcher",
        choices=("local", "slurm"),
        default="local",
        help="train on this machine, or in the jobs of a Slurm cluster (local)",
    )
    add = parser.add_argument_group("with --launcher slurm, for each run").add_argument
    add("--partition", help="(the cluster's own)")
    add("--time", type=_count, default=1440, metavar="MINUTES", help="limit (1440)")
    add(
        "--warn",
        type=_count,
        default=120,
        metavar="SECONDS",
        help="time to save before the limit (120)",
    )
    add("--gpus", type=int, choices=(0, 1), default=1, help="(1)")
    add("--cpus", type=_count, default=4, help="CPU cores (4)")
    add("--memory", type=_count, default=24, metavar="GB", help="(24)")
    add(
        "--slurm",
        nargs="+",
        type=_option,
        default=[],
        metavar="KEY=VALUE",
        help="more of sbatch's options, as in account=NAME qos=NAME",
    )
    end = argv.index("--") if "--" in argv else len(argv)
    args = parser.parse_args(list(argv[:end]))
    args.passed = list(argv[end + 1 :])
    args.out = args.out.expanduser()
    if not (args.games or args.list or args.plot_only):
        raise UsageError("--games is missing: name some, as in --games boxing pong.")
    return args


def make_jobs(args: argparse.Namespace) -> list[Job]:
    """The runs that are asked for."""
    methods = plan.make_methods(args.configs or [["atari"]], args.methods)
    return plan.make_jobs(
        args.out, args.games, methods, args.seeds, args.frames, args.passed
    )


def train(
    asked: Sequence[Job],
    args: argparse.Namespace,
    argv: Sequence[str],
    stop: StopSignals,
) -> list[Job]:
    """Train what is left. Return the runs that failed."""
    plan.refuse_other_settings(asked)
    left = [job for job in asked if not read_state(job.folder).has(job.frames)]
    print(f"Runs: {len(asked)}, of which {len(asked) - len(left)} done.", flush=True)
    if not left:
        return []
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"Cannot write to {args.out} ({error.strerror}): choose another --out."
        ) from error
    command = " ".join(["python benchmarks/replicate.py", *argv])
    if args.launcher == "slurm":
        queue(left, args, command)
        return []
    cores, cuda = circumstances.count_cores(), bool(circumstances.gpu_name())
    cuda = cuda and left[0].config.device != "cpu"
    at_once = args.jobs or jobs.runs_at_once(cuda, cores, len(left))
    how = "as --jobs says" if args.jobs else "unless --jobs says otherwise"
    where = "on the GPU" if cuda else f"on {cores} CPU cores"
    print(f"{at_once} at the same time {where}, {how}.", flush=True)
    warn(left, cuda, cores / at_once)
    facts = {
        "command": command,
        "at_once": at_once,
        "hardware": circumstances.hardware(),
        "versions": circumstances.versions(),
    }
    threads = max(1, cores // at_once)
    runs = [jobs.Run(job, facts, threads) for job in left]
    say = functools.partial(print, flush=True)
    return jobs.train(runs, at_once, stop, say)


def queue(left: Sequence[Job], args: argparse.Namespace, command: str) -> None:
    """Hand those runs to Slurm that it does not have already."""
    has = slurm.queue(args.out)
    left = [job for job in left if job.name not in has]
    print(f"Slurm has {len(has)} of these already.")
    if not left:
        return
    warn(left, bool(args.gpus), args.cpus)
    facts = {"command": command, "at_once": 1}
    options = {
        "timeout_min": args.time,
        "slurm_partition": args.partition,
        "slurm_signal_delay_s": args.warn,
        "slurm_array_parallelism": args.jobs or len(left),
        "gpus_per_node": args.gpus or None,
        "cpus_per_task": args.cpus,
        "mem_gb": args.memory,
        "slurm_additional_parameters": {"requeue": True, **dict(args.slurm)},
    }
    options = {key: value for key, value in options.items() if value is not None}
    runs = [jobs.Run(job, facts, args.cpus) for job in left]
    number = slurm.submit(runs, args.out, options)
    print(
        f"Queued {len(left)} as job {number}. scancel {number} stops them after each "
        "has saved."
    )


def warn(left: Sequence[Job], cuda: bool, cores: float) -> None:
    """Print what makes runs less than they are meant to be."""
    for job in left:
        for sentence in warnings(job, cuda, cores):
            print(f"{job.name}: {sentence}", file=sys.stderr)


def warnings(job: Job, cuda: bool, cores: float) -> list[str]:
    """What makes a run less than it is meant to be."""
    config, found = job.config, []
    random = config.prefill * config.action_repeat
    if random >= job.frames:
        found.append(
            f"its {job.frames:,} frames end within the {random:,} of random play that "
            "come before the first update; -- --prefill STEPS changes those."
        )
    elif not cuda and config.rssm.deter >= 600 and config.encoder.cnn_depth >= 48:
        updates = (job.frames - random) / job.frames_per_update
        hours = updates * UPDATE_GFLOP / CORE_GFLOPS / max(1, cores) / 3600
        found.append(
            f"there is no GPU, and on this CPU it will take about {hours:,.0f} hours; "
            "--configs small is made for CPUs."
        )
    return found


def read(wanted: Sequence[Job], args: argparse.Namespace) -> list[tuple[Job, JobState]]:
    """Return runs with their states. Raises UsageError if there are none."""
    if not wanted:
        raise UsageError(
            f"There are no runs in {args.out}: give --games, or another --out."
        )
    has = slurm.queue(args.out)
    return [
        (job, replace(read_state(job.folder), queue=has.get(job.name, "")))
        for job in wanted
    ]


def count(runs: Sequence[tuple[Job, JobState]]) -> str:
    """One sentence on how many are done, and so on."""
    words = [state.word(job.frames) for job, state in runs]
    kinds = ("done", "running", "queued", "stopped", "failed", "not started")
    return ", ".join(f"{words.count(kind)} {kind}" for kind in kinds) + "."


def write(runs: Sequence[tuple[Job, JobState]], out: Path) -> None:
    """Table, JSON and picture, and says where they are."""
    from replication.picture import draw  # Takes seconds.

    rows = results.compare(runs)
    text = results.report(runs, rows)
    print(f"\n{text}")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "table.md").write_text(text)
        content = json.dumps(results.as_json(runs, rows), indent=1, allow_nan=False)
        (out / "replication.json").write_text(content + "\n")
    except OSError as error:
        raise UsageError(
            f"Cannot write to {out} ({error.strerror}): choose another --out."
        ) from error
    paths = [out / "table.md", out / "replication.json", *draw(runs, out)]
    print(f"Wrote {', '.join(map(str, paths))}.")


def _positive(text: str) -> float:
    value = _float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected more than 0, not {text!r}")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seed(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, not {text!r}")
    return int(text)


def _option(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, not {text!r}")
    return key, value


def _count(text: str) -> Any:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
