"""One fault injected into one run, and what every such trial has in common."""

import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dreamerv2.running.logdir import CHECKPOINT
from fault_trials import judge
from fault_trials.folders import (
    METRICS,
    Snapshot,
    digest,
    list_episodes,
    parse_line,
)
from fault_trials.judge import Loss
from fault_trials.runs import REPEAT, Child, resumed_at

LOGDIR = "run"


class Skip(Exception):
    """This machine cannot inject the fault; the message is the reason."""


@dataclass
class Trial:
    """A fault, to be injected once.

    Args:
      folder: of its own, and empty; everything of the trial is below it.
      base: logdir of a run that was stopped after a few seconds, to copy.
      rng: all that is random about the fault.
      number: of the trial in its row.

    What a row's function does with it: `note` says what was injected, `losses` is
    what was lost.
    """

    folder: Path
    base: Path
    rng: random.Random
    number: int
    note: str = ""
    losses: list[Loss] = field(default_factory=list)
    flags: Sequence[str] = ()
    seen: set[str] = field(default_factory=set)  # Episodes, while the run lived.
    logdir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.logdir = self.folder / LOGDIR

    def copy_base(self) -> Snapshot:
        """Make the trial's run one that goes on from the base."""
        shutil.copytree(self.base, self.logdir, dirs_exist_ok=True)
        return Snapshot.of(self.logdir)

    def child(
        self, fresh: bool = False, prepare: Callable[[], None] | None = None
    ) -> Child:
        """The trial's run: always the same command."""
        return Child(self.logdir, self.flags, fresh, prepare)

    def watch(self) -> bool:
        """Remember the episodes that are there now. False, to be used as a wait."""
        self.seen |= list_episodes(self.logdir)
        return False

    def live(self, run: Child, seconds: float) -> bool:
        """Watch the run for so many seconds from now; False if it ended before.

        Seconds of computing: on a busy machine a run is as far then as on any other.
        """
        end = run.age + seconds
        return run.wait_until(lambda: self.watch() or run.age > end)

    def fail(self, kind: str, text: str) -> None:
        self.losses.append(Loss(kind, text))

    def start(self, run: Child) -> bool:
        """Wait until the run is in its loop; False, and a loss, if it ended."""
        if run.wait_until(lambda: self.watch() or "Train: " in run.out):
            return True
        self.fail("runs", f"did not start: {run.result().err[-300:]!r}")
        return False

    def aftermath(self, step: int | None) -> None:
        """Start the same command again, let it earn something, and judge.

        step: of a checkpoint that there was for certain before the fault.
        """
        before = Snapshot.of(self.logdir)
        self.losses += judge.judge_seen(self.seen, before, step)
        run = self.go_on(before)
        if run is None:
            return
        after = Snapshot.of(self.logdir)
        self.losses += judge.judge_episodes(before, after, self.logdir)
        self.losses += judge.judge_steps(before, after, run, before.step)
        frames = before.frames
        self.losses += judge.judge_metrics(before.metrics, after, frames)
        self.losses += judge.judge_counted(after)
        self.losses += judge.judge_returns(after, run)

    def go_on(self, before: Snapshot) -> str | None:
        """The same command, until it has saved and finished an episode, then SIGTERM.

        Returns what it printed; None, and a loss, if it did not go on.
        """
        with self.child() as run:
            going = run.wait_until(lambda: earned(run, before))
            run.send(signal.SIGTERM)
            result = run.result()
        self.losses += judge.judge_quiet(result, [143])
        return result.out if going else None


def make_base(logdir: Path) -> None:
    """A run that was stopped by SIGTERM after about 300 steps.

    logdir: to be made; its parent is there, and it is named LOGDIR as in a trial.
    """
    with Child(logdir) as run:
        if not run.wait_until(lambda: len(list_episodes(logdir)) > 15):
            raise RuntimeError(f"The first run ended:\n{run.result().err}")
        run.send(signal.SIGTERM)
        result = run.result()
    if result.code != 143 or resumed_at(result.out) is not None:
        raise RuntimeError(f"The first run did not stop by saving:\n{result.err}")


def earned(run: Child, before: Snapshot) -> bool:
    """Return whether a checkpoint, a training episode and its line are new.

    Before that, a run may play episodes again that were finished after the checkpoint.
    """
    path = run.logdir / CHECKPOINT
    try:
        saved = digest(path) != before.files.get(CHECKPOINT)
    except FileNotFoundError:  # Just being replaced, or not there yet.
        return False
    new = list_episodes(run.logdir) - before.episodes.keys()
    finished = any(name.startswith("train") for name in new)
    if not (saved and finished and f"Train: {resumed_at(run.out) or ''}" in run.out):
        return False
    path = run.logdir / METRICS
    lines = map(parse_line, path.read_bytes().splitlines())
    late = [x for x in lines if x and x["step"] > REPEAT * (resumed_at(run.out) or 0)]
    return any("train_total_episodes" in line for line in late)
