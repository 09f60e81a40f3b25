"""Train on a task of every suite for a moment, and show that all of it works.

    python benchmarks/suites.py                     # all rows: a few minutes
    python benchmarks/suites.py --rows crafter retro
    python benchmarks/suites.py --logdir ~/suites   # keep the runs

Each row is a run of train.py of its own, with small networks and two environments in
processes. The table tells what is observed and done, the steps per second from one
write of the metrics to the next (updates and, at times, an evaluation included),
whether every number in metrics.jsonl is finite, the losses of model and actor among
them, and whether TensorBoard has a video of the policy.

The exit code is 1 if a run failed, a number was not finite or a video was missing, and,
with --strict, if a package is not installed.
"""

import argparse
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from circumstances import circumstances, make_parser
from gymnasium.spaces import Box
from tensorboard.backend.event_processing import event_accumulator

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import signal_spaces

SMALL = {
    "envs": 2,
    "envs_parallel": "process",
    "precision": "32",
    "jit": False,
    "time_limit": 50,
    "prefill": 100,
    "pretrain": 5,
    "train_every": 8,
    "log_every": 50,
    "eval_every": 500,
    "eval_eps": 1,
    "dataset": {"batch": 4, "length": 12},
    "replay": {"minlen": 5, "maxlen": 12},
    "rssm": {"hidden": 64, "deter": 64, "stoch": 8, "discrete": 8},
    "(encoder|decoder).cnn_depth": 8,
    "(encoder|decoder).mlp_layers": [64, 64],
    "(reward_head|discount_head|actor|critic).layers": 2,
    "(reward_head|discount_head|actor|critic).units": 64,
    "imag_horizon": 8,
}
RAM = {"(encoder|decoder).mlp_keys": "ram", "(encoder|decoder).cnn_keys": "$^"}
PIXELS = {"(encoder|decoder).mlp_keys": "$^", "(encoder|decoder).cnn_keys": "image"}

# Per row: preset, task, and what differs from both and from SMALL.
ROWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "atari": ("atari", "atari_pong", {}),
    "atari-ram": ("atari", "atari_pong", RAM),
    "dmc-proprio": ("dmc_proprio", "dmc_cartpole_balance", {}),
    "dmc-vision": ("dmc_vision", "dmc_cartpole_balance", {}),
    "crafter": ("crafter", "crafter_reward", {}),
    "minigrid": ("minigrid", "minigrid_Empty-5x5", {}),
    "cartpole": ("gym", "gym_CartPole-v1", {}),
    "cartpole-pixels": ("gym", "gym_CartPole-v1", PIXELS),
    "pendulum": ("gym", "gym_Pendulum-v1", {}),
    "retro": ("retro", "retro_Airstriker-Genesis", {}),
}


@dataclasses.dataclass
class SuiteRow:
    """What a run showed. `missing` is the command that installs its package."""

    name: str
    task: str
    observations: str = ""
    actions: str = ""
    steps: int = 0
    seconds: float = 0.0
    steps_per_second: float = 0.0
    finite: bool = False
    video: str = ""  # yes, MISSING, or no image.
    error: str = ""
    missing: str = ""

    @property
    def good(self) -> bool:
        """Return whether all of it worked."""
        return self.finite and self.video != "MISSING" and not self.error


def main(argv: Sequence[str] | None = None) -> int:
    """Train and print the table; return the exit code."""
    args = parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="suites-") as scratch:
        folder = args.logdir or Path(scratch)
        rows = []
        for name in args.rows:
            rows.append(run(name, folder / name, args.steps, args.seed))
            print(as_line(rows[-1]), flush=True)
            if args.json:
                write(args.json, rows)
    print(f"\n{as_table(rows)}")
    failed = any(not row.good and not row.missing for row in rows)
    return int(failed or (args.strict and any(row.missing for row in rows)))


def write(path: Path, rows: list[SuiteRow]) -> None:
    """The rows so far, and where they were measured."""
    report = {**circumstances(), "rows": [dataclasses.asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=1000, help="policy steps of a run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strict", action="store_true", help="no package may miss")
    parser.add_argument("--logdir", type=Path, help="folder in which the runs stay")
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser.parse_args(argv)


def run(name: str, logdir: Path, steps: int, seed: int) -> SuiteRow:
    """Train the row's task in a process of its own."""
    preset, task, changes = ROWS[name]
    settings = {**SMALL, **changes, "task": task, "steps": steps, "seed": seed}
    row = SuiteRow(name, task, steps=steps)
    presets = load_presets()
    config = Config(presets["defaults"]).update(presets[preset]).update(settings)
    try:
        image = describe(row, config)
    except UsageError as error:
        _, found, command = str(error).partition("install it with ")
        row.missing, row.error = (
            (command.rstrip("."), "") if found else ("", str(error))
        )
        return row
    command = [sys.executable, "-m", "dreamerv2.train", "--configs", preset]
    command += [*as_flags(settings), "--logdir", str(logdir)]
    begin = time.monotonic()
    logdir.parent.mkdir(parents=True, exist_ok=True)
    output = logdir.parent / f"{name}.txt"
    with output.open("w") as file:
        # Two processes act beside it, and each would take all cores.
        env = {"OMP_NUM_THREADS": "1", **os.environ}
        code = subprocess.run(command, env=env, stdout=file, stderr=file).returncode
    row.seconds = round(time.monotonic() - begin, 1)
    if code:
        row.error = (output.read_text().splitlines() or [f"exit code {code}"])[-1]
        return row
    measure(row, logdir, config.action_repeat)
    row.video = "no image"
    if image:
        row.video = "yes" if has_video(logdir) else "MISSING"
    return row


def describe(row: SuiteRow, config: Config) -> bool:
    """Fill in the spaces; return whether an image is observed."""
    env = make_env(config, seed=0)
    try:
        spaces = {k: v for k, v in env.obs_space.items() if k not in signal_spaces()}
        seen = {k: v for k, v in spaces.items() if not k.startswith("log_")}
        row.observations = ", ".join(f"{k} {as_text(v)}" for k, v in seen.items())
        row.actions = as_text(env.act_space["action"])
        return "image" in spaces
    finally:
        getattr(env, "close", lambda: None)()


def as_text(space: Box) -> str:
    """`3 one-hot`, `(6,) in [-1, 1]`, or `(64, 64, 3) uint8`."""
    if getattr(space, "discrete", False):
        return f"{space.shape[0]} one-hot"
    if space.dtype.kind == "f" and (space.low == -1).all() and (space.high == 1).all():
        return f"{space.shape} in [-1, 1]"
    return f"{space.shape} {space.dtype}"


def as_flags(settings: dict[str, Any], prefix: str = "") -> list[str]:
    """The settings as flags of train.py."""
    flags = []
    for key, value in settings.items():
        if isinstance(value, dict):
            flags += as_flags(value, f"{prefix}{key}.")
        else:
            values = value if isinstance(value, list) else [value]
            flags += [f"--{prefix}{key}", *map(str, values)]
    return flags


def measure(row: SuiteRow, logdir: Path, repeat: int) -> None:
    """Fill in the speed, and whether all numbers are finite."""
    lines = [json.loads(x) for x in (logdir / "metrics.jsonl").read_text().splitlines()]
    numbers = [value for line in lines for value in line.values()]
    there = {key for line in lines for key in line}
    row.finite = {"model_loss", "actor_loss"} <= there and all(
        isinstance(x, int | float) and math.isfinite(x) for x in numbers
    )
    # The first is of no steps, as it comes with the first update.
    rates = [line["fps"] / repeat for line in lines if "fps" in line][1:]
    row.steps_per_second = round(statistics.mean(rates), 1) if rates else 0.0


def has_video(logdir: Path) -> bool:
    """Return whether TensorBoard's files have a video of a training episode."""
    events = event_accumulator.EventAccumulator(str(logdir)).Reload()
    return "train_policy_image" in events.Tags()["images"]


def as_cells(row: SuiteRow) -> list[str]:
    if row.missing:
        return [row.name, row.task, f"not installed: {row.missing}", "", "", "", ""]
    if row.error:
        return [row.name, row.task, f"FAILED: {row.error}", "", "", "", ""]
    finite = "yes" if row.finite else "NO"
    speed = f"{row.steps_per_second:.1f}" if row.steps_per_second else "-"
    seen = row.observations
    return [row.name, row.task, seen, row.actions, speed, finite, row.video]


def as_line(row: SuiteRow) -> str:
    return "  ".join(filter(None, as_cells(row)))


def as_table(rows: list[SuiteRow]) -> str:
    """Markdown."""
    title = "row|task|observations|actions|steps/s|finite|policy video".split("|")
    lines = [title, ["---"] * len(title), *map(as_cells, rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
