"""Frames per second of the whole training loop, and where its time goes.

    python benchmarks/loop.py --configs defaults atari                 # on a GPU
    python benchmarks/loop.py --configs defaults small --window 200    # on a few cores

For each number of environments there is a run of train.py with updates that the
environments wait for (sync) and one with --async_training True (async). Flags that are
not below go to train.py; the task is Pong unless they name another. With several
environments, each lives in a process of its own, unless --envs_parallel says otherwise.

A run writes its metrics every --window policy steps. The windows after the first
--skip are measured, until they are --seconds long together: so prefill, pretraining
and compilation do not count, and there are no evaluations. Frames are the game's, of
which a policy step has action_repeat. The shares are of the main loop's time: env,
policy and data are what it waited for these, update the time that updates took (in
async, that it waited for them), and other the rest, such as writing the metrics.

Another process on the machine makes the figures worthless: the load is written down.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circumstances import circumstances, make_parser, run_process

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.common.settings.rules import checked
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.running.signals import Stopped, StopSignals

MODES = {"sync": "False", "async": "True"}  # What --async_training is there.
PARTS = ("env", "policy", "data", "update")
LEAST = 3  # Windows that are measured, however long they are.
STOPPED = 143  # The exit code of a run after a SIGTERM.

# Flags may change these.
USUAL = "--task atari_pong --prefill 1000 --pretrain 1 --logger none".split()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    args = parse(argv)
    try:
        with StopSignals() as signals, ExitStack() as stack:
            folder = args.logdir or Path(stack.enter_context(TemporaryDirectory()))
            measure_all(args, folder, signals)
    except (UsageError, RunFailed) as error:
        print(f"loop.py: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what it does not know are flags of train.py for all runs."""
    parser = make_parser(__doc__)
    parser.allow_abbrev = False
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seconds", type=float, default=60, help="that are measured")
    parser.add_argument("--window", type=int, default=1000, help="policy steps in it")
    parser.add_argument("--skip", type=int, default=2, help="windows before, at least")
    parser.add_argument("--logdir", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="write the results here")
    args, args.flags = parser.parse_known_args(argv)
    return args


def measure_all(args: argparse.Namespace, folder: Path, signals: StopSignals) -> None:
    """One run after another, each with a row of the table and in the JSON file."""
    runs = []
    plans = [(envs, mode) for envs in args.envs for mode in args.modes]
    for envs, mode in plans:  # What train.py would refuse is told before the first.
        checked(parse_config(flags_of(envs, mode, folder, args), load_presets()))
    print(title())
    for envs, mode in plans:
        runs.append(measure(envs, mode, folder / f"{mode}_{envs}", args, signals))
        print(row(runs[-1]), flush=True)
        if args.json:
            threads = os.environ.get("OMP_NUM_THREADS", "all cores")
            report = {**circumstances(), "threads": threads, "flags": args.flags}
            report["runs"] = runs
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(report, indent=1) + "\n")


def flags_of(envs: int, mode: str, logdir: Path, args: argparse.Namespace) -> list[str]:
    """The flags of train.py for a run."""
    place = ["--envs_parallel", "process" if envs > 1 else "none"]
    own = ["--envs", str(envs), "--async_training", MODES[mode], "--eval_every", "0"]
    own += ["--log_every", str(args.window), "--steps", "1e12", "--logdir", str(logdir)]
    return [*USUAL, *place, *args.flags, *own]


def measure(
    envs: int, mode: str, logdir: Path, args: argparse.Namespace, signals: StopSignals
) -> dict[str, Any]:
    """The figures of one run, which is ended when it has shown enough.

    Raise RunFailed if it ends by itself, and Stopped if the script is told to stop.
    """
    if logdir.exists():
        raise UsageError(f"There is a run in {logdir} already: name another --logdir.")
    flags = flags_of(envs, mode, logdir, args)
    config = parse_config(flags, load_presets())

    def over() -> bool:
        signals.check()
        seconds = [window["seconds"] for window in windows(logdir, config, args.skip)]
        return len(seconds) >= LEAST and sum(seconds) >= args.seconds

    command = [sys.executable, "-m", "dreamerv2.train", *flags]
    logdir.parent.mkdir(parents=True, exist_ok=True)
    output = logdir.with_suffix(".txt")
    code = run_process(command, output, os.environ, over)
    if code != STOPPED:
        lines = output.read_text().splitlines() or [f"exit code {code}"]
        raise RunFailed(f"{mode} with {envs} environments failed: {lines[-1]}")
    found = windows(logdir, config, args.skip)
    return {"envs": envs, "mode": mode, **figures(found, config)}


def windows(logdir: Path, config: Config, skip: int) -> list[dict[str, float]]:
    """Seconds, frames per second and shares of the windows after the first ones."""
    path = logdir / "metrics.jsonl"
    if not path.exists():
        return []
    # The last line may be unfinished.
    lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
    written = [found for line in lines if "fps" in (found := json.loads(line))]
    windows = []
    for line in written[1 + skip :]:  # The very first comes with the first update.
        shares = {part: line.get(f"time_{part}", 0.0) for part in PARTS}
        windows.append(
            {
                "seconds": config.log_every * config.action_repeat / line["fps"],
                "frames_per_second": line["fps"],
                **{f"share_{part}": share for part, share in shares.items()},
                "share_other": 1 - sum(shares.values()),
            }
        )
    return windows


def figures(windows: list[dict[str, float]], config: Config) -> dict[str, Any]:
    """Medians over the windows, and what follows from them."""
    rates = [window["frames_per_second"] for window in windows]
    median = statistics.median(rates)
    # So many are due, in both modes, however long they take.
    updates = config.train_steps / config.train_every if config.train_every else 0.0
    shares = [f"share_{part}" for part in (*PARTS, "other")]
    return {
        "envs_parallel": config.envs_parallel,
        "device": str(resolve_device(config.device)),
        "action_repeat": config.action_repeat,
        "updates_per_policy_step": updates,
        "windows": len(windows),
        "policy_steps_per_window": config.log_every,
        "seconds_measured": sum(window["seconds"] for window in windows),
        "frames_per_second_median": median,
        "frames_per_second_min": min(rates),
        "frames_per_second_max": max(rates),
        "updates_per_second": median / config.action_repeat * updates,
        **{name: statistics.median(x[name] for x in windows) for name in shares},
        "load_average_after": os.getloadavg(),
    }


def title() -> str:
    """The head of the table."""
    names = "".join(f"{part:>8}" for part in (*PARTS, "other"))
    return (
        f"{'envs':>4} {'mode':6}{'frames/s':>9} {'(windows)':18}{'updates/s':>9}{names}"
    )


def row(found: dict[str, Any]) -> str:
    """A run's line of the table."""
    shares = "".join(f"{found[f'share_{x}']:8.1%}" for x in (*PARTS, "other"))
    low, high = found["frames_per_second_min"], found["frames_per_second_max"]
    return (
        f"{found['envs']:4} {found['mode']:6}{found['frames_per_second_median']:9.1f} "
        f"{f'({low:.1f} to {high:.1f})':18}{found['updates_per_second']:9.2f}{shares}"
    )


if __name__ == "__main__":
    sys.exit(main())
