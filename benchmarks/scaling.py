"""Time an update of the agent against its sizes, each varied alone.

    python benchmarks/scaling.py --device cpu --precision 32
    python benchmarks/scaling.py --vary batch --values 16 32 --compile --json FILE

The sizes are those of a batch (sequences and their length), of the deterministic
latents and of the horizon of dreams. All else is as in the configuration: Atari's,
unless --configs names another; flags that are not below go to it, as in train.py.

What is measured at a point is what train_step.py measures, so its figures mean the
same. Each point has a process of its own: the peak of a process's memory is then the
point's. Points for which the memory is too small are skipped with a word. The last
columns are ratios to the first point that was measured: where the seconds grow less
than the FLOPs, larger sizes use the hardware better.

Another process on the machine makes the figures worthless: the load is written down.
"""

import contextlib
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch
from circumstances import circumstances, make_parser
from train_step import add_flags, make_config, measure, write_json

from dreamerv2.common.config import Config
from dreamerv2.common.episodes.memory import available_memory
from dreamerv2.common.errors import UsageError
from dreamerv2.common.settings.rules import checked
from dreamerv2.common.torchutils import resolve_device

AXES = {  # Key of the config, and the values that it takes.
    "batch": ("dataset.batch", (4, 8, 16, 32, 64, 128)),
    "length": ("dataset.length", (16, 32, 50, 64, 128)),
    "deter": ("rssm.deter", (200, 400, 600, 1024, 2048, 4096)),
    "horizon": ("imag_horizon", (5, 10, 15, 20, 30)),
}
HEADER = (
    "    value  seconds (min to max)          GFLOP  GFLOP/s  of peak       GB"
    "   value x  seconds x  FLOPs x"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--vary", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument(
        "--values", nargs="+", type=int, help="that the one size takes that varies"
    )
    add_flags(parser)
    args, rest = parser.parse_known_args(argv)
    result = {**circumstances(), "rows": [], "skipped": []}
    try:
        points = plan(args, rest)
        for axis, configs in points.items():
            show_axis(axis, next(iter(configs.values())))
            for row in measured(axis, configs, args):
                result["skipped" if "reason" in row else "rows"].append(row)
                show_row(row)
                write_json(args.json, result)
    except UsageError as error:
        print(f"scaling.py: {error}", file=sys.stderr)
        return 2
    return 0


def plan(args: Namespace, flags: Sequence[str]) -> dict[str, dict[int, Config]]:
    """axis -> value -> config. UsageError if one of them cannot work."""
    if args.values and len(args.vary) > 1:
        raise UsageError("--values are those of one size: name it by --vary.")
    if not any(flag.partition("=")[0] == "--configs" for flag in flags):
        flags = ["--configs", "atari", *flags]
    config = make_config(flags, args)
    points = {}
    for axis in args.vary:
        key, values = AXES[axis]
        values = args.values or values
        points[axis] = {value: config.update({key: value}) for value in values}
        for point in points[axis].values():
            checked(point)
    return points


def measured(
    axis: str, configs: dict[int, Config], args: Namespace
) -> Iterator[dict[str, Any]]:
    """A row for each value: what was measured, or why it was skipped."""
    first = None
    for value, config in configs.items():
        found = in_own_process(config, args.updates, args.warmup)
        row = {"axis": axis, "value": value, **found}
        if "reason" not in row:
            first = first or row
            for name in ("value", "seconds_median", "flops"):
                row[f"{name}_ratio"] = row[name] / first[name]
        yield row


def in_own_process(config: Config, updates: int, warmup: int) -> dict[str, Any]:
    """What measure_point returns. A new process takes nothing over from this one."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(measure_point, config, updates, warmup).result()
        except BrokenProcessPool:
            return {"reason": "its process was killed"}


def measure_point(config: Config, updates: int, warmup: int) -> dict[str, Any]:
    """The figures of an update; or the reason if there is too little memory."""
    if resolve_device(config.device).type == "cpu":
        limit_memory()
    try:
        return measure(config, updates, warmup)
    except (MemoryError, RuntimeError) as error:
        if not is_want_of_memory(error):
            raise
        asked = re.search(r"allocate ([\d.]+ \w+)", str(error))
        return {"reason": f"it could not get {asked[1] if asked else 'what it asked'}"}


def limit_memory() -> None:
    """Errors, rather than processes that the system kills, if memory runs out."""
    available = available_memory()
    if available is None:
        return
    import resource  # Which Windows lacks, but it tells no available memory either.

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with contextlib.suppress(OSError, ValueError):  # There is a lower limit already.
        resource.setrlimit(resource.RLIMIT_DATA, (available, hard))


def is_want_of_memory(error: Exception) -> bool:
    """Return whether an error is for lack of memory, on the host or a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = ("can't allocate memory", "out of memory", "bad_alloc", "bad allocation")
    return any(words in str(error) for words in said)


def show_axis(axis: str, config: Config) -> None:
    """What varies and what does not."""
    others = [
        f"{name} {config.flat[key]}" for name, (key, _) in AXES.items() if name != axis
    ]
    print(f"\n{axis} ({', '.join(others)})\n{HEADER}", flush=True)


def show_row(row: dict[str, Any]) -> None:
    """A line of the table, or a sentence for a point that was skipped."""
    if "reason" in row:
        reason = f"skipped for want of memory: {row['reason']}."
        print(f"{row['value']:9,}  {reason}", flush=True)
        return
    seconds = (
        f"{row['seconds_median']:.4g} ({row['seconds_min']:.4g} to "
        f"{row['seconds_max']:.4g})"
    )
    print(
        f"{row['value']:9,}  {seconds:<26} {row['flops'] / 1e9:8.4g}"
        f" {row['gflops_per_second']:8.4g} {row['fraction_of_peak']:8.1%}"
        f" {row['peak_memory_bytes'] / 1e9:8.2f}  {row['value_ratio']:8.2f}"
        f"   {row['seconds_median_ratio']:8.2f} {row['flops_ratio']:8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
