"""Rows: environments that raise, hang, give NaN, or lose their process."""

import os
import re
import signal
from pathlib import Path

from fault_trials import judge
from fault_trials.folders import Snapshot, last_frame, list_episodes
from fault_trials.runs import REPEAT, Child, Result
from fault_trials.traps import break_atari
from fault_trials.trials import Skip, Trial

ERRORS = "env_errors.log"
TIMEOUT = "5"  # Seconds that an environment may take to answer, rather than minutes.


def raises_once(trial: Trial) -> None:
    """An environment that raises at a random step or reset: it is rebuilt."""
    kind = trial.rng.choice(("raises", "raises", "raises in reset"))
    _once(trial, kind, trial.rng.choice(("none", "thread")))


def raises_always(trial: Trial) -> None:
    """An environment that raises from a random step on: the run stops by saving."""
    step = _begin(trial)
    at = trial.rng.randint(1, 60)
    trial.note += f"raises at every step from {at} on"
    with trial.child(prepare=lambda: break_atari("raises", at, True)) as run:
        run.wait_until(trial.watch)
        result = run.result()
    _judge_end(trial, result)
    trial.aftermath(step)


def hangs(trial: Trial) -> None:
    """An environment that gives no answer: it is rebuilt when its time is up."""
    _once(trial, "hangs", "thread")


def gives_nan(trial: Trial) -> None:
    """A reward or an image of NaN: named, and kept out of the replay."""
    kind = ("NaN reward", "NaN image")[trial.number % 2]
    _once(trial, kind, trial.rng.choice(("none", "thread")))


def loses_process(trial: Trial) -> None:
    """SIGKILL for one of the processes of parallel environments."""
    if not Path("/proc/self/stat").exists():
        raise Skip("there is no /proc to find the processes of environments")
    trial.flags = ["--envs", "2", "--envs_parallel", "process"]
    step = _begin(trial)
    seconds = trial.rng.uniform(0.0, 1.0)
    with trial.child() as run:
        if not trial.start(run):
            return
        trial.live(run, seconds)
        workers = _children(run.pid)
        if not workers:
            trial.fail("runs", "no process of an environment was found")
            return
        which = trial.rng.randrange(len(workers))
        trial.note += f"SIGKILL for process {which} of {len(workers)}"
        os.kill(workers[which], signal.SIGKILL)
        _goes_on(trial, run)
    trial.aftermath(step)


def _begin(trial: Trial) -> int | None:
    before = trial.copy_base()
    trial.seen |= before.episodes.keys()
    return before.step


def _once(trial: Trial, kind: str, parallel: str) -> None:
    step = _begin(trial)
    trial.flags = ["--envs_parallel", parallel, "--env_timeout", TIMEOUT]
    at = trial.rng.randint(1, 4 if kind.endswith("reset") else 100)
    trial.note += f"{kind} at the {at}. time, envs_parallel {parallel}"

    with trial.child(prepare=lambda: break_atari(kind, at, always=False)) as run:
        _goes_on(trial, run)
    trial.aftermath(step)


def _goes_on(trial: Trial, run: Child) -> None:
    """After the fault the run finishes more episodes and names what went wrong.

    Or it ends by itself, having saved and said why.
    """
    path = trial.logdir / ERRORS
    ended = not run.wait_until(lambda: trial.watch() or path.exists())
    count = len(list_episodes(trial.logdir))
    if ended or not run.wait_until(
        lambda: trial.watch() or len(list_episodes(trial.logdir)) > count + 4
    ):
        _judge_end(trial, run.result())
        return
    run.send(signal.SIGTERM)
    result = run.result()
    trial.losses += judge.judge_quiet(result, [143])
    named = [x for x in result.out.splitlines() if re.search("environment", x, re.I)]
    if not named:
        trial.fail("silent", "the failure is not named")
    for line in named[:1]:
        trial.losses += judge.judge_sentence(line)


def _judge_end(trial: Trial, result: Result) -> None:
    """A run that gives up has saved its last step, and says why in one sentence."""
    trial.note += ", gave up"
    trial.losses += judge.judge_message(result.err)
    if result.code in (0, 143) or result.code < 0:
        trial.fail("runs", f"exit code {result.code} after a failure")
    now = Snapshot.of(trial.logdir)
    if now.step is None or now.step * REPEAT < last_frame(now.metrics):
        trial.fail(
            "steps", f"saved step {now.step} of {last_frame(now.metrics)} frames"
        )


def _children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # Between the name, in parentheses, and the parent is one letter.
            parent = path.read_text().rpartition(")")[2].split()[1]
        except (OSError, IndexError):
            continue
        if int(parent) == pid:
            found.append(int(path.parent.name))
    return sorted(found)
