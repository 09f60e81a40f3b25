"""The table's rows: which faults there are, and how often each is injected."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_trials import damage, disks, environments, kills
from fault_trials.judge import KINDS, Loss
from fault_trials.runs import Hangs
from fault_trials.trials import Skip, Trial


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault. `full` and `quick` say how often it is injected."""

    title: str
    inject: Callable[[Trial], None]
    full: int
    quick: int


ROWS = {
    "kill": FaultKind("SIGKILL at any moment", kills.killed, 25, 5),
    "kill-checkpoint": FaultKind(
        "SIGKILL in a checkpoint's write", kills.killed_in_checkpoint, 8, 4
    ),
    "kill-episode": FaultKind(
        "SIGKILL in an episode's write", kills.killed_in_episode, 8, 4
    ),
    "sigterm": FaultKind("SIGTERM", kills.terminated, 10, 3),
    "ctrl-c": FaultKind("Ctrl-C", kills.interrupted, 10, 3),
    "ctrl-c-twice": FaultKind("Ctrl-C twice", kills.interrupted_twice, 5, 2),
    "disk-full": FaultKind("disk full", disks.full_disk, 12, 3),
    "read-only": FaultKind("read-only logdir", disks.read_only, 6, 2),
    "checkpoint": FaultKind("damaged checkpoint", damage.damaged_checkpoint, 40, 4),
    "episode": FaultKind("damaged episode", damage.damaged_episode, 40, 4),
    "index": FaultKind("damaged index", damage.damaged_index, 40, 4),
    "config": FaultKind("damaged config.yaml", damage.damaged_config, 40, 4),
    "metrics": FaultKind("damaged metrics.jsonl", damage.damaged_metrics, 40, 4),
    "env-raises": FaultKind("environment raises once", environments.raises_once, 6, 2),
    "env-broken": FaultKind(
        "environment raises always", environments.raises_always, 3, 1
    ),
    "env-hangs": FaultKind("environment hangs", environments.hangs, 3, 1),
    "env-nan": FaultKind("environment gives NaN", environments.gives_nan, 4, 2),
    "env-killed": FaultKind(
        "environment's process killed", environments.loses_process, 5, 1
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What one trial came to. `skipped` is the reason why there was none."""

    row: str
    number: int
    note: str
    losses: list[Loss]
    seconds: float
    skipped: str = ""


def run_trial(row: str, number: int, seed: int, base: Path, folder: Path) -> Outcome:
    """Inject one fault. The same arguments inject the same, up to the clock.

    Args:
      row: a key of ROWS.
      number: of the trial, from 0.
      seed: of the whole table.
      base: logdir of a run to copy, from make_base.
      folder: where to make a folder for the trial; it is left there if there is a
        loss.
    """
    begin = time.monotonic()
    own = Path(tempfile.mkdtemp(prefix=f"{row}-{number}-", dir=folder))
    trial = Trial(own, base, random.Random(f"{seed}/{row}/{number}"), number)
    skipped = ""
    try:
        ROWS[row].inject(trial)
    except Skip as reason:
        skipped = str(reason)
    except Hangs:
        trial.fail("runs", "hangs")
    except Exception as error:  # A row that cannot judge must not count as passed.
        trial.fail("runs", f"{type(error).__name__} while judging: {error}")
    if not trial.losses:
        shutil.rmtree(own, ignore_errors=True)
    seconds = time.monotonic() - begin
    return Outcome(row, number, trial.note, trial.losses, seconds, skipped)


def count_losses(outcomes: list[Outcome]) -> dict[str, int]:
    """Per kind, how much was lost."""
    losses = [loss for outcome in outcomes for loss in outcome.losses]
    return {kind: sum(x.count for x in losses if x.kind == kind) for kind in KINDS}
