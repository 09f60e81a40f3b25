"""Everything that needs a GPU to be tried, by one command, in under ten minutes.

    make gpu                                    # or python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --stand-in

In this order: the tests that need a GPU; parity with the reference in float32, bfloat16
and float16; that no update waits for the GPU; updates that are captured as CUDA graphs
beside plain ones; the nodes of a graph; the time of an update at Atari's setting,
eager, compiled and captured, at 16x50 and 16x64, with the peak of memory; frames per
second of the whole loop on Pong, at 1 to 16 environments.

Each step has a process and a time limit of its own, so that one that crashes or hangs
leaves the others, and the JSON file is written after each. At the end, and by
--table FILE, there is a table in Markdown. Power is what nvidia-smi says, if it does.

--stand-in does the same in a shortened form and with tiny networks: its figures mean
nothing, but every step is run. Exit code 0 if all steps came to their end, 1 if one did
not, 2 if there is no GPU.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circumstances import circumstances, gpu_name, make_parser

from dreamerv2.common.files import write_atomically

HERE = Path(__file__).parent
DTYPES = ("float32", "bfloat16", "float16")
WAYS = ("eager", "compiled", "captured")
LEAST = 5.0  # Seconds that a step must have left of all, to be begun.


@dataclass(frozen=True)
class Step:
    """A command that writes its results to the file whose name is put for JSON."""

    name: str
    limit: float  # Seconds.
    command: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; return the exit code."""
    args = parse(argv)
    if args.table:
        print(table(json.loads(args.table.read_text())))
        return 0
    if args.work:
        work(args)
        return 0
    if gpu_name() is None and not args.stand_in:
        print(
            "gpu.py: PyTorch sees no CUDA GPU: run it where there is one, or try its "
            "steps here by --device cpu --stand-in.",
            file=sys.stderr,
        )
        return 2
    names = args.only or [step.name for step in make_steps(args)]
    steps = [step for step in make_steps(args) if step.name in names]
    report = run_all(steps, args)
    print(f"\n{table(report)}")
    return 0 if all(step["ok"] for step in report["steps"].values()) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--device", help="cuda, the default, cuda:N, or cpu")
    parser.add_argument("--stand-in", action="store_true", help="tiny, for any device")
    parser.add_argument("--minutes", type=float, default=10, help="for all steps")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="print it as a table"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)  # A step, in its process.
    args = parser.parse_args(argv)
    args.device = args.device or ("cpu" if args.stand_in else "cuda")
    return args


def work(args: argparse.Namespace) -> None:
    """Do a step of gpu_steps.py, in this process."""
    import gpu_steps  # It takes torch, which starting the steps does without.

    place = gpu_steps.Place(args.device, args.stand_in)
    gpu_steps.WORK[args.work](place, lambda found: write_json(args.json, found))


def make_steps(args: argparse.Namespace) -> list[Step]:
    """Return all steps, in their order."""
    tiny = args.stand_in

    def own(name: str, limit: float) -> Step:
        flags = ["--device", args.device, *(["--stand-in"] if tiny else [])]
        script = str(HERE / "gpu.py")
        return Step(name, limit, [script, "--work", name, "--json", "JSON", *flags])

    def parity(dtype: str) -> Step:
        flags = ["--device", args.device, "--dtype", dtype, "--json", "JSON"]
        flags += ["--dir", "FEW"] if tiny else []
        return Step(f"parity_{dtype}", 60, [str(HERE / "parity.py"), *flags])

    return [
        own("tests", 120),
        *map(parity, DTYPES),
        own("waiting", 60),
        own("captured", 60),
        own("nodes", 120),
        *(own(f"update_{how}", 120) for how in WAYS),
        Step("loop", 300, [str(HERE / "loop.py"), *loop_flags(args)]),
    ]


def loop_flags(args: argparse.Namespace) -> list[str]:
    """Return the flags of loop.py."""
    from gpu_steps import Place

    flags = ["--json", "JSON", *Place(args.device, args.stand_in).flags]
    if args.stand_in:
        flags += "--envs 2 --envs_parallel none --seconds 0.1 --window 12".split()
        return [*flags, "--skip", "1"]
    return [*flags, *"--envs 16 4 1 8 --seconds 8 --window 500 --skip 1".split()]


@dataclass
class Report:
    """What was found so far."""

    path: Path | None
    found: dict[str, Any] = field(default_factory=dict)

    def write(self) -> None:
        if self.path:
            write_json(self.path, self.found)


def run_all(steps: Sequence[Step], args: argparse.Namespace) -> dict[str, Any]:
    """Run one step after another, as long as there is time; write after each."""
    where = {"device": args.device, "stand_in": args.stand_in}
    path = args.json or default_path(args)
    report = Report(path, {**circumstances(), **where, "steps": {}})
    end = time.monotonic() + 60 * args.minutes
    for step in steps:
        report.found["load_average"] = os.getloadavg()
        left = end - time.monotonic()
        print(f"{step.name} ...", end=" ", flush=True)
        if left < LEAST:
            result: dict[str, Any] = {"ok": False, "error": "there was no time left"}
        else:
            result = run_step(step, min(step.limit, left))
        report.found["steps"][step.name] = result
        report.write()
        print(f"{result.get('seconds', 0):.0f} s", result.get("error", ""), flush=True)
    if path:
        print(f"Wrote {path}.")
    return report.found


def default_path(args: argparse.Namespace) -> Path | None:
    """Return the file for this GPU's results; None without a GPU."""
    if args.stand_in:
        return None
    name = re.sub(r"\W+", "_", gpu_name() or "none").strip("_").lower()
    return HERE / "results" / f"gpu_{name}.json"


def run_step(step: Step, limit: float) -> dict[str, Any]:
    """Run a step in a process of its own; return how it went and what it found.

    What it wrote counts, too, if it does not come to its end.
    """
    with TemporaryDirectory() as folder, Power() as power:
        path = Path(folder, "found.json")
        few = Path(folder, "few")  # Recordings that take little time.
        few.mkdir()
        recording = HERE.parent / "tests" / "parity" / "gaussian_vectors.npz"
        shutil.copy(recording, few)
        places = {"JSON": str(path), "FEW": str(few)}
        command = [sys.executable, *(places.get(x, x) for x in step.command)]
        begin = time.monotonic()
        error = run_limited(command, limit, Path(folder, "output.txt"))
        seconds = time.monotonic() - begin
        result = {"ok": error is None, "seconds": seconds, "limit": limit}
        if error:
            result["error"] = error
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            result["found"] = json.loads(path.read_text())
    if power.watts:
        result["watts_median"] = statistics.median(power.watts)
        result["watts_max"] = max(power.watts)
    return result


def run_limited(command: Sequence[str], limit: float, output: Path) -> str | None:
    """Run a command; end it, and all that it started, after so many seconds.

    Returns None if all went well, else what did not.
    """
    with output.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True
        )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"it took more than {limit:.0f} s"
    finally:
        # Also after Ctrl-C, and what it may have left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == 0:
        return None
    last = (output.read_text().strip().splitlines() or ["no output"])[-1]
    return f"exit code {code}: {last[:300]}"


class Power:
    """The power that the GPU takes meanwhile, each second, by nvidia-smi."""

    QUERY = "nvidia-smi --query-gpu=power.draw --format=csv,noheader,nounits".split()

    def __init__(self) -> None:
        self.watts: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Power":
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1):
            try:
                done = subprocess.run(
                    self.QUERY, capture_output=True, text=True, check=True, timeout=10
                )
                self.watts.append(float(done.stdout.split()[0]))
            except (OSError, subprocess.SubprocessError, ValueError, IndexError):
                return  # It does not say.


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write a file that is whole at any time."""
    text = json.dumps(found, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def table(report: dict[str, Any]) -> str:
    """Return a report as a table in Markdown."""
    versions = report["versions"]
    lines = [f"On {report['hardware']}, PyTorch {versions['torch']}, {report['date']}:"]
    if report["stand_in"]:
        lines = ["Of a stand-in for a GPU: these figures mean nothing."]
    lines += ["", "| step | found |", "|---|---|"]
    for name, step in report["steps"].items():
        rows = tell(name, step["found"]) if step.get("found") else []
        if not step["ok"]:
            rows.append((name, f"**failed**: {step['error']}"))
        if rows and "watts_median" in step:
            watts = f"{step['watts_median']:.0f} W, at most {step['watts_max']:.0f} W"
            rows.append((f"{name}: power", watts))
        lines += [f"| {what} | {figure} |" for what, figure in rows]
    return "\n".join(lines)


def tell(name: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table for a step's results."""
    if name == "tests":
        counts = ", ".join(f"{count} {what}" for what, count in found.items())
        return [("tests that need a GPU", counts)]
    if name.startswith("parity"):
        errors = [row["error"] for row in found["rows"] if row["error"] is not None]
        failed = sum(not row.get("passed", True) for row in found["rows"])
        judged = any("passed" in row for row in found["rows"])
        said = f"{failed} of {len(found['rows'])} quantities failed; " if judged else ""
        figure = f"{said}largest error {max(errors):.1e}" if errors else "none"
        return [(f"parity, {found['dtype']}", figure)]
    if name == "waiting":
        what = "none waited" if found["watched"] else "nothing watches on a CPU"
        return [(f"{found['updates']} updates, synchronisation an error", what)]
    if name == "captured":
        errors = [v for k, v in found.items() if k.endswith("error_max")]
        graph = "captured" if found["captured"] else "not captured"
        what = f"{graph} and plain, {found['updates']} updates"
        return [(what, f"losses differ by {max(errors):.1e} at most")]
    if name == "nodes":
        return [("nodes in an update's graph", str(found["nodes"]))]
    if name.startswith("update"):
        how = name.removeprefix("update_")
        return [(f"update, {how}, {shape}", tell_time(x)) for shape, x in found.items()]
    return [
        (
            f"loop, {run['envs']} environments, {run['mode']}",
            f"{run['frames_per_second_median']:.0f} frames/s",
        )
        for run in sorted(found["runs"], key=lambda run: (run["mode"], run["envs"]))
    ]


def tell_time(found: dict[str, Any]) -> str:
    """Return what train_step.py found, in a line."""
    low, high = 1e3 * found["seconds_min"], 1e3 * found["seconds_max"]
    return (
        f"{1e3 * found['seconds_median']:.1f} ms ({low:.1f} to {high:.1f}) in "
        f"{found['compute_dtype']}, {found['fraction_of_peak']:.0%} of products, "
        f"{found['peak_memory_bytes'] / 1e9:.2f} GB"
    )


if __name__ == "__main__":
    sys.exit(main())
