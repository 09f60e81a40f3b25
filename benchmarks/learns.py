"""Show that the agent learns: small tasks, small networks, several seeds.

    python benchmarks/learns.py                      # both toys, three seeds each
    python benchmarks/learns.py --tasks toy_reach --seeds 1 --json FILE
    python benchmarks/learns.py --suite gym          # environments of Gymnasium
    python benchmarks/learns.py --suite reference    # at the reference's settings

Each run is an ordinary run of train.py in a process of its own. It ends when the mean
return of an evaluation is good enough, or when its time is up. In the suite toy that is
90% of the way from the return of random actions to the best possible one, and both are
measured here, too, by playing the task with random actions and with its oracle. In the
suite gym it is a fixed return, and a table follows at the end.

The suite reference trains at the settings of the TensorFlow reference, for as many
steps. What counts is the mean return of the last ten training episodes, against that of
the reference at the same step (scores/reference_small_tasks.csv: one seed, so chance
plays a large part).

The exit code is 1 if a run did not get there.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from circumstances import circumstances, run_process
from learns_settings import SUITES, Task

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.driver import Driver
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.other import RandomAgent
from dreamerv2.common.plots.scores import load_reference_episodes
from dreamerv2.running.signals import Stopped, StopSignals

MINUTES = {"toy": 10, "gym": 10, "reference": 60}  # For each run.
GOAL_EPISODES = (2000, 100)  # Of which a scale is the mean: of toys, of other tasks.
NOTHING = (0, float("nan"))  # Step and return before there is an evaluation.


@dataclasses.dataclass
class Goal:
    """What returns mean in a task, and the one that is good enough.

    Without `best` there is no scale from random to best.
    """

    random: float
    best: float | None
    value: float

    def share(self, value: float) -> float:
        """How far from random (0) to best (1)."""
        return (value - self.random) / (self.best - self.random)

    def describe(self, value: float) -> str:
        """What a return means."""
        if self.best is None:
            return f"goal {self.value:.4g}, random {self.random:.2f}"
        return (
            f"{self.share(value):.0%} of the way from random "
            f"({self.random:.2f}) to best ({self.best:.2f})"
        )

    def report(self, value: float) -> dict[str, float]:
        """The same, for the JSON file."""
        if self.best is None:
            return {"random_return": self.random, "goal": self.value}
        return {
            "random_return": self.random,
            "best_return": self.best,
            "share_of_the_way": self.share(value),
        }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    tasks = {name: SUITES[args.suite][name] for name in args.tasks}
    try:
        goals = {name: measure_goal(name, tasks[name], args.share) for name in tasks}
    except UsageError as error:  # A package that the suite needs is missing.
        print(f"learns.py: {error}", file=sys.stderr)
        return 2
    for name, goal in goals.items():
        best = (
            f"goal {goal.value:.4g}" if goal.best is None else f"best {goal.best:.2f}"
        )
        print(f"{name}: random {goal.random:.2f}, {best}", flush=True)
    try:
        results = run_all(tasks, goals, args)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    if args.suite != "toy":
        print(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {**circumstances(), "runs": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(result["passed"] for result in results) else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, with the defaults of the suite."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", default="toy", choices=SUITES)
    parser.add_argument("--tasks", nargs="+", help="of the suite; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument(
        "--share", type=float, default=0.9, help="toys: of the way to best"
    )
    parser.add_argument("--minutes", type=float, help="for each run: 10; reference 60")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--logdir", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args(argv)
    known = SUITES[args.suite]
    args.tasks = args.tasks or list(known)
    for name in args.tasks:
        if name not in known:
            parser.error(
                f"The suite {args.suite} has no task '{name}': expected one of "
                f"{', '.join(known)}."
            )
    if args.minutes is None:
        args.minutes = MINUTES[args.suite]
    return args


def run_all(
    tasks: dict[str, Task], goals: dict[str, Goal], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The results of all runs; raises Stopped, with none left running, if told to."""
    pairs = [(name, seed) for name in tasks for seed in args.seeds]
    with StopSignals() as signals, ExitStack() as stack:
        logdir = args.logdir or Path(stack.enter_context(TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(args.jobs))

        def one(pair: tuple[str, int]) -> dict[str, Any]:
            signals.check()
            name, seed = pair
            return run(name, seed, tasks[name], goals[name], args, logdir, signals)

        return list(pool.map(one, pairs))


def measure_goal(name: str, task: Task, share: float) -> Goal:
    """Play with random actions, and with the task's oracle if that is the scale."""
    config = Config(load_presets()["defaults"]).update({"task": name})
    config = config.update({"encoder.cnn_keys": "$^"})
    env = make_env(config, seed=1000)
    agent = RandomAgent(env.act_space, seed=0)
    toy, other = GOAL_EPISODES
    if task.steps:
        return Goal(mean_return(env, agent, other), None, reference_return(name, task))
    if task.goal is not None:
        return Goal(mean_return(env, agent, other), None, task.goal)
    random = mean_return(env, agent, toy)
    best = mean_return(env, oracle(env), toy)
    return Goal(random, best, random + share * (best - random))


def reference_return(name: str, task: Task) -> float:
    """Mean return of the reference's last ten training episodes by task.steps."""
    curve = load_reference_episodes()[name]["reference"]
    return float(curve["mean"][curve["x"] <= task.steps][-1])


def oracle(env: Any) -> Any:
    """A policy that asks the task for the best action."""
    size = env.act_space["action"].shape[0]

    def policy(obs: dict, state: Any) -> tuple[dict, Any]:
        action = env.oracle()
        if np.ndim(action) == 0:
            action = np.eye(size, dtype=np.float32)[action]
        return {"action": np.asarray(action, np.float32)[None]}, state

    return policy


def mean_return(env: Any, policy: Any, episodes: int) -> float:
    returns = []
    driver = Driver([env])
    driver.on_episode(lambda ep, worker: returns.append(ep["reward"].sum()))
    driver(policy, episodes=episodes)
    return float(np.mean(returns))


def run(
    name: str,
    seed: int,
    task: Task,
    goal: Goal,
    args: argparse.Namespace,
    logdir: Path,
    signals: StopSignals,
) -> dict[str, Any]:
    """Train until an evaluation is good enough, or steps or time are up."""
    folder = logdir / name / str(seed)
    command = [sys.executable, "-m", "dreamerv2.train", "--logdir", str(folder)]
    command += ["--task", name, *task.flags, "--seed", str(seed)]
    command += ["--steps", str(task.steps)] if task.steps else []
    folder.mkdir(parents=True, exist_ok=True)
    here = str(Path(__file__).resolve().parent)  # Of divided_rewards.py.
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    if args.jobs > 1:  # Threads that wait for each other's core are slower than one.
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    start = time.time()

    def over() -> bool:
        signals.check()
        late = time.time() > start + 60 * args.minutes
        return late or (not task.steps and reached(folder, task, goal)[1] >= goal.value)

    code = run_process(command, folder / "output.txt", env, over)
    step, value = reached(folder, task, goal)
    minutes = (time.time() - start) / 60
    passed = (code == 0 or not task.steps) and value >= goal.value
    print(
        f"{name} seed {seed}: return {value:.2f} after {step} steps and "
        f"{minutes:.1f} minutes, {goal.describe(value)}: "
        f"{'passed' if passed else 'FAILED'}",
        flush=True,
    )
    # Of its own accord, or by our signal, of which it may not have known yet.
    if code not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
        print((folder / "output.txt").read_text()[-2000:], file=sys.stderr)
    return {
        "task": name,
        "seed": seed,
        "environment_steps": step,
        "minutes": round(minutes, 2),
        "train_return" if task.steps else "eval_return": value,
        **goal.report(value),
        "passed": passed,
    }


def reached(folder: Path, task: Task, goal: Goal) -> tuple[int, float]:
    """Step and return of the first evaluation that is good enough, or of the last.

    With task.steps: of the last ten training episodes.
    """
    if task.steps:
        found = curve(folder, "train_return")
        value = np.mean([value for _, value in found[-10:] or [NOTHING]])
        value *= task.divisor
        return (found or [NOTHING])[-1][0], float(value)
    found = curve(folder, "eval_return")
    good = [point for point in found if point[1] >= goal.value]
    return (good[:1] or found[-1:] or [NOTHING])[0]


def curve(folder: Path, key: str) -> list[tuple[int, float]]:
    """Return steps and values of a metric so far."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [(x["step"], x[key]) for x in lines if key in x]


def table(results: list[dict[str, Any]]) -> str:
    """All runs, for people."""
    rows = [["task", "seed", "random", "goal", "return", "steps", "minutes", ""]]
    for result in results:
        value = result.get("train_return", result.get("eval_return"))
        numbers = [result["random_return"], result["goal"], value]
        row = [result["task"], result["seed"], *(f"{x:.4g}" for x in numbers)]
        row += [result["environment_steps"], f"{result['minutes']:.1f}"]
        rows.append([*row, "passed" if result["passed"] else "FAILED"])
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            f"{x:>{w}}" if i else f"{x:{w}}"
            for i, (x, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(["", *(line.rstrip() for line in lines)])


if __name__ == "__main__":
    sys.exit(main())
