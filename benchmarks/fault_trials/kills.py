"""Rows: a run that is killed, at any moment, and one that is asked to stop."""

import signal

from fault_trials import judge
from fault_trials.folders import Snapshot, last_frame
from fault_trials.traps import CHECKPOINTS, EPISODES, MOMENTS, Trap
from fault_trials.trials import Trial


def killed(trial: Trial) -> None:
    """SIGKILL at a random moment of the first seconds, anew or after the base."""
    step = begin(trial)
    fresh = trial.number % 5 == 0
    # A new interpreter has its imports behind it then.
    seconds = trial.rng.uniform(0.0, 4.0) + (2.5 if fresh else 0.0)
    trial.note += f"SIGKILL after {seconds:.2f} s" + (", fresh interpreter" * fresh)
    with trial.child(fresh) as run:
        alive = trial.live(run, seconds)
        run.send(signal.SIGKILL)
        result = run.result()
        trial.note += f", in {stage(result.out)}"
        if not alive or result.code != -signal.SIGKILL:
            trial.losses += judge.judge_quiet(result, [-signal.SIGKILL])
    trial.aftermath(step)


def killed_in_checkpoint(trial: Trial) -> None:
    """SIGKILL in the middle of a checkpoint's write."""
    _killed_in_write(trial, CHECKPOINTS, 300_000)


def killed_in_episode(trial: Trial) -> None:
    """SIGKILL in the middle of an episode's write."""
    _killed_in_write(trial, EPISODES, 4_000)


def _killed_in_write(trial: Trial, pattern: str, size: int) -> None:
    step = begin(trial)
    moment = MOMENTS[trial.number % len(MOMENTS)]
    number, after = trial.rng.randint(1, 4), trial.rng.randrange(size)
    trap = Trap(pattern, moment, number, after)
    what = f"after {after:,} bytes" if moment == "write" else f"at {moment}"
    trial.note += f"SIGKILL {what}, file {number}"
    with trial.child(prepare=trap.set) as run:
        run.wait_until(trial.watch)
        result = run.result()
    if result.code != -signal.SIGKILL:
        trial.fail("runs", f"the moment never came: {result.err[-300:]!r}")
    trial.aftermath(step)


def terminated(trial: Trial) -> None:
    """SIGTERM at a random moment: the run finishes its step and saves."""
    _stopped(trial, signal.SIGTERM)


def interrupted(trial: Trial) -> None:
    """Ctrl-C at a random moment: the run finishes its step and saves."""
    _stopped(trial, signal.SIGINT)


def _stopped(trial: Trial, number: signal.Signals) -> None:
    step = begin(trial)
    fresh = trial.number % 3 == 2
    seconds = trial.rng.uniform(0.0, 3.0)
    trial.note += f"{seconds:.2f} s after its start" + ", fresh interpreter" * fresh
    with trial.child(fresh) as run:
        # Before that, the summary of the agent, a run has nothing to save.
        run.wait_until(lambda: trial.watch() or "\n" in run.out)
        trial.live(run, seconds)
        run.send(number)
        result = run.result()
    trial.note += f", in {stage(result.out)}"
    trial.losses += judge.judge_quiet(result, [128 + number])
    if "Train: " in result.out:
        now = Snapshot.of(trial.logdir)
        last = last_frame(now.metrics)
        if now.step is None or now.frames < last:
            trial.fail("steps", f"saved step {now.step}, but had logged frame {last}")
    trial.aftermath(step)


def interrupted_twice(trial: Trial) -> None:
    """Ctrl-C while a checkpoint is written, on a disk that hangs, and again."""
    step = begin(trial)
    moment = trial.rng.choice(("write", "fsync", "rename"))
    marker = trial.folder / "stalled"
    number, after = trial.rng.randint(1, 4), trial.rng.randrange(300_000)
    trial.note += f"in a checkpoint that hangs at its {moment}, file {number}"
    trap = Trap(CHECKPOINTS, moment, number, after, marker)
    with trial.child(prepare=trap.set) as run:
        if not run.wait_until(lambda: trial.watch() or marker.exists()):
            trial.fail("runs", f"the moment never came: {run.result().err[-300:]!r}")
            return
        run.send(signal.SIGINT)
        run.wait_until(lambda: "SIGINT" in run.out)
        run.send(signal.SIGINT)
        result = run.result()
    trial.losses += judge.judge_quiet(result, [130])
    trial.aftermath(step)


def begin(trial: Trial) -> int | None:
    """Every other trial begins a run, the others go on from the base.

    Returns the step of the checkpoint that there is then.
    """
    if trial.number % 2:
        trial.note += "new run: "
        return None
    trial.note += "resumed run: "
    before = trial.copy_base()
    trial.seen |= before.episodes.keys()
    return before.step


def stage(out: str) -> str:
    """Where in its life a run was, by what it printed."""
    for name in ("Train", "Pretrain", "Prefill"):
        if f"{name}: " in out:
            return name.lower()
    return "start"
