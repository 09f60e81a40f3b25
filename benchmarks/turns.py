"""Frames per second of the whole loop in two checkouts, window by window in turns.

    python benchmarks/turns.py ../before . --pairs 5 --json FILE
    python benchmarks/turns.py ../before . --configs defaults small --envs 4

Each checkout runs its train.py with its own .venv, on Pong, with the flags that are
not below. While one trains for --window policy steps the other stands still, so that
what else the machine does meets both. The first --skip pairs, with prefill and warm-up,
do not count. CPU seconds are those of all threads of a run; where other processes
compete for the cores, they say more than the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from circumstances import circumstances, make_parser

REPEAT = 4  # Frames of a policy step.
FLAGS = (
    "--task atari_pong --prefill 1000 --pretrain 1 --eval_every 0 --steps 1e12"
    " --logger turns_output:Turn"
).split()


class Run:
    """A run of train.py in a checkout, that stands still between its turns."""

    def __init__(self, checkout: Path, flags: Sequence[str], logdir: str):
        told, tell = os.pipe()
        turn, give = os.pipe()
        here = str(Path(__file__).parent.resolve())
        env = {**os.environ, "TURNS": f"{tell},{turn}", "PYTHONPATH": here}
        python = checkout.resolve() / ".venv" / "bin" / "python"
        self._output = Path(logdir, "output.txt")
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [python, "dreamerv2/train.py", *flags, "--logdir", f"{logdir}/run"],
                cwd=checkout,
                env=env,
                pass_fds=(tell, turn),
                stdout=output,
                stderr=output,
            )
        os.close(tell)
        os.close(turn)
        self._told, self._give = os.fdopen(told), give

    def wait(self) -> dict[str, float]:
        """Return what the window took, once it is over."""
        line = self._told.readline()
        if not line:
            said = self._output.read_text().strip().splitlines()
            raise SystemExit(f"turns.py: A run ended: {(said or ['no output'])[-1]}")
        return json.loads(line)

    def go_on(self) -> dict[str, float]:
        """Let it train for a window."""
        os.write(self._give, b"x")
        return self.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("before", type=Path, help="a checkout with a .venv")
    parser.add_argument("after", type=Path, help="another")
    parser.add_argument("--pairs", type=int, default=5, help="of windows that count")
    parser.add_argument("--skip", type=int, default=1, help="pairs before these")
    parser.add_argument("--window", type=int, default=200, help="policy steps in it")
    parser.add_argument("--json", type=Path, help="write the results here")
    args, flags = parser.parse_known_args(argv)
    report = measure(args, flags)
    print(tell(report))
    return 0


def measure(args: argparse.Namespace, more: Sequence[str]) -> dict[str, Any]:
    """Run both, and return what was found; written after each pair, too."""
    configs = [] if "--configs" in more else ["--configs", "defaults", "small"]
    flags = [*configs, *FLAGS, "--log_every", str(args.window), *more]
    threads = os.environ.get("OMP_NUM_THREADS", "all cores")
    report = {**circumstances(), "flags": flags, "threads": threads, "load": []}
    checkouts = {"before": args.before, "after": args.after}
    found: dict[str, list] = {name: [] for name in checkouts}
    with ExitStack() as stack:
        runs = {}
        for name, checkout in checkouts.items():
            report[f"{name}_commit"] = commit_of(checkout)
            logdir = stack.enter_context(TemporaryDirectory())
            runs[name] = Run(checkout, flags, logdir)
            stack.callback(runs[name].close)
            runs[name].wait()
        for pair in range(args.skip + args.pairs):
            report["load"].append(round(os.getloadavg()[0], 1))
            for name, run in runs.items():
                window = run.go_on()
                if pair >= args.skip:
                    found[name].append(window)
            if found["after"]:
                report.update(figures(found, args.window))
                if args.json:
                    args.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


def commit_of(checkout: Path) -> str:
    command = ["git", "-C", checkout, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def figures(found: dict[str, list], window: int) -> dict[str, Any]:
    """Return all windows, medians, and the medians of the pairs' ratios."""
    result: dict[str, Any] = {"window": window, "windows": found}
    for kind, name in (("cpu_seconds", "cpu_second"), ("seconds", "second")):
        rates = {
            which: [window * REPEAT / each[kind] for each in windows]
            for which, windows in found.items()
        }
        for which, values in rates.items():
            result[f"{which}_frames_per_{name}"] = statistics.median(values)
        pairs = zip(rates["before"], rates["after"], strict=True)
        ratios = [after / before for before, after in pairs]
        result[f"ratio_per_{name}"] = statistics.median(ratios)
        result[f"ratios_per_{name}"] = ratios
    return result


def tell(report: dict[str, Any]) -> str:
    """Return the figures, a line for each clock."""
    lines = []
    for name in ("cpu_second", "second"):
        before, after = (
            report[f"{which}_frames_per_{name}"] for which in ("before", "after")
        )
        lines.append(
            f"Frames per {name.replace('_', ' ')}: {before:.1f} before, {after:.1f} "
            f"after; {report[f'ratio_per_{name}']:.2f} times (median of pairs)."
        )
    return "\n".join([*lines, f"Load average {report['load']}."])


if __name__ == "__main__":
    sys.exit(main())
