"""Count the states that each way to explore reaches where rewards teach nothing.

    python benchmarks/explore.py                       # all of them, three seeds each
    python benchmarks/explore.py --behaviors Plan2Explore --seeds 1 --json FILE

The task is MiniGrid-MultiRoom-N4-S5, always with one layout: six small rooms behind
five closed doors, and a reward at the far end that random actions do not find. The
agent observes its position, its direction and the cell before it, and turns, goes
forward, opens and closes. A state is position, direction and which doors are open;
there is a finite number of them, and all are found first by search. Each step of
training counts, those of the random prefill, too, which is the same for all behaviors
of one seed.

Each run is dreamerv2.api.train in a process of its own. All have the same settings but
for expl_behavior, and Random learns nothing, which would not change how it acts. The
exit code is 1 unless Plan2Explore, with each seed, reached more states than greedy and
Random with any. Further flags of train.py, at the end, go to every run.

Needs the package minigrid: pip install "dreamerv2-torch[minigrid]".
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import numpy as np
from circumstances import (
    circumstances,
    count_cores,
    make_parser,
    run_process,
)
from gymnasium.spaces import Box, Dict, Discrete

import dreamerv2.api as dv2
from dreamerv2.common.suites.packages import require
from dreamerv2.running.signals import Stopped, StopSignals

TASK = "MiniGrid-MultiRoom-N4-S5-v0"
LAYOUT = 0  # The seed of every episode.
BEHAVIORS = ("Plan2Explore", "greedy", "Random", "ModelLoss")
STEPS = 6000
EVERY = 500  # Steps between two points of a curve.
STRENGTH = 4  # Of the ones in observations, so that they outweigh the KL.
ENVS = 4

SETTINGS = r"""
--precision 32 --jit False --device cpu --logger none
--rssm.hidden 64 --rssm.deter 64 --rssm.stoch 8 --rssm.discrete 8
--(encoder|decoder).cnn_keys $^ --(encoder|decoder).mlp_layers 64
--(reward_head|actor|critic|expl_head).layers 2
--(reward_head|actor|critic|expl_head).units 64
--pred_discount False --grad_heads decoder reward --replay.prioritize_ends False
--prefill 960 --pretrain 300 --train_every 5
--log_every 500 --eval_every 1000000
--dataset.batch 6 --dataset.length 30 --replay.minlen 30 --replay.maxlen 30
--(encoder|rssm).norm layer
--model_opt.lr 6e-3 --loss_scales.kl 0.2 --kl.balance 0.95
--actor_opt.lr 5e-4 --critic_opt.lr 2e-3 --slow_target_update 10
--imag_horizon 8 --discount 0.95 --actor_ent linear(0.5,0.15,3000) --expl_noise 0.1
--expl_opt.lr 1e-3 --expl_reward_norm.momentum 0.95
--disag_models 5 --disag_target stoch --disag_action_next True
"""


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    if args.run:
        behavior, seed = args.run
        train(behavior, int(seed), args)
        return 0
    try:
        dv2.defaults.parse_flags([*SETTINGS.split(), *args.flags])
        states = reachable_states()
    except dv2.UsageError as error:  # A wrong flag, or the package is missing.
        print(f"explore.py: {error}", file=sys.stderr)
        return 2
    total = {
        "distinct_states": len(states),
        "distinct_positions": len({state[0] for state in states}),
    }
    print(f"{TASK}, layout {LAYOUT}: {describe(total)} within an episode's reach.")
    try:
        runs = run_all(args)
    except dv2.RunFailed as error:
        print(f"explore.py: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.code
    print_table(runs, total)
    passed = compare(runs)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        task = {"task": TASK, "layout": LAYOUT, "within_reach": total}
        settings = " ".join([*SETTINGS.split(), *args.flags])
        report = {**circumstances(), **task, "settings": settings, "runs": runs}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if passed else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line; what it does not know are flags of train.py for all runs."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--behaviors", nargs="+", default=BEHAVIORS[:3], choices=BEHAVIORS
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--logdir", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # One, in here.
    args, args.flags = parser.parse_known_args(argv)
    return args


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The results of all runs, each of which prints a line when it ends."""
    pairs = [(behavior, seed) for seed in args.seeds for behavior in args.behaviors]
    with StopSignals() as signals, ExitStack() as stack:
        logdir = args.logdir or Path(stack.enter_context(TemporaryDirectory()))
        pool = stack.enter_context(ThreadPoolExecutor(args.jobs))
        return list(pool.map(lambda pair: run(*pair, logdir, args, signals), pairs))


def run(
    behavior: str,
    seed: int,
    logdir: Path,
    args: argparse.Namespace,
    signals: StopSignals,
) -> dict[str, Any]:
    """One run in a process of its own.

    Raise RunFailed with the end of what it printed if it did not end well, and Stopped
    if the script was told to stop.
    """
    signals.check()
    folder = logdir / behavior / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--run", behavior, str(seed)]
    command += ["--steps", str(args.steps), "--logdir", str(folder), *args.flags]
    threads = max(1, count_cores() // args.jobs)
    env = {"OMP_NUM_THREADS": str(threads), **os.environ}
    start = time.time()
    output = folder / "output.txt"
    if run_process(command, output, env, signals.check):
        text = output.read_text()
        raise dv2.RunFailed(f"{behavior} with seed {seed} failed:\n{text[-2000:]}")
    result = json.loads((folder / "visits.json").read_text())
    minutes = round((time.time() - start) / 60, 2)
    found = {"behavior": behavior, "seed": seed, "minutes": minutes, **result}
    print(f"{behavior} seed {seed}: {describe(found)}, {minutes} minutes", flush=True)
    return found


def train(behavior: str, seed: int, args: argparse.Namespace) -> None:
    """Train in this process, and write the counts into its logdir."""
    visits = Visits(args.steps)
    changes = {"logdir": str(args.logdir), "steps": args.steps, "seed": seed}
    config = dv2.defaults.update({**changes, "expl_behavior": behavior})
    config = config.parse_flags([*SETTINGS.split(), *args.flags])
    if behavior == "Random":
        config = config.update({"pretrain": 0, "train_every": 0})
    # Environments rather than a function that makes them: there is no evaluation.
    dv2.train([Counted(visits) for _ in range(ENVS)], config)
    (args.logdir / "visits.json").write_text(json.dumps(visits.report()))


def describe(found: dict[str, Any]) -> str:
    return (
        f"{found['distinct_states']} states in {found['distinct_positions']} positions"
    )


def print_table(runs: list[dict[str, Any]], total: dict[str, int]) -> None:
    """Behaviors and seeds, states, and the share of those that there are."""
    whole, places = total["distinct_states"], total["distinct_positions"]
    print(f"\n{'behavior':14}{'seed':>5}{'states':>9}{'share':>8}{'positions':>12}")
    for found in sorted(runs, key=lambda x: BEHAVIORS.index(x["behavior"])):
        count, positions = found["distinct_states"], found["distinct_positions"]
        print(
            f"{found['behavior']:14}{found['seed']:5}{count:9}{count / whole:8.1%}"
            f"{positions:6} of {places}"
        )


def compare(runs: list[dict[str, Any]]) -> bool:
    """Return whether Plan2Explore, with each seed, beat greedy and Random with any."""
    counts = {name: [] for name in BEHAVIORS}
    for found in runs:
        counts[found["behavior"]].append(found["distinct_states"])
    others = counts["greedy"] + counts["Random"]
    best, worst = max(others, default=0), min(counts["Plan2Explore"], default=0)
    return worst > best or not (others and worst)


class Visits:
    """Which states were reached, and how many there were after how many steps.

    Args:
      limit: Steps after which nothing counts any more.
    """

    def __init__(self, limit: int = 0):
        self._limit = limit
        self.steps = 0
        self.goals = 0  # Times that the reward was found.
        self.curve: list[tuple[int, int]] = []  # (steps, distinct states)
        self._states: set[Any] = set()

    def add(self, state: Any, steps: int = 1) -> None:
        """A state that was reached by a step, or by a reset if `steps` is 0."""
        if self.steps + steps > self._limit:
            return
        self._states.add(state)
        self.steps += steps
        if steps and self.steps % EVERY == 0:
            self.curve.append((self.steps, len(self._states)))

    def report(self) -> dict[str, Any]:
        """Counts, for the JSON file."""
        return {
            "environment_steps": self.steps,
            "distinct_states": len(self._states),
            "distinct_positions": len({state[0] for state in self._states}),
            "goals": self.goals,
            "curve": self.curve,
        }


class Counted(gymnasium.Wrapper):
    """MiniGrid in one layout, with every state counted.

    The agent observes where it is, where it looks, and the cell before it, all one-hot,
    and may turn left or right, go forward, and open or shut a door. MiniGrid's other
    actions do nothing in this task.
    """

    def __init__(self, visits: Visits):
        require("minigrid", "minigrid")
        super().__init__(gymnasium.make(TASK, disable_env_checker=True))
        self._visits = visits
        self._resets = 0
        constants = require("minigrid.core.constants", "minigrid")
        kinds = constants.OBJECT_TO_IDX, constants.COLOR_TO_IDX, constants.STATE_TO_IDX
        actions = self.unwrapped.actions
        self._actions = [actions.left, actions.right, actions.forward, actions.toggle]
        self.action_space = Discrete(len(self._actions))
        place = self.unwrapped.width, self.unwrapped.height
        self._counts = {"place": place, "direction": (4,), "ahead": [*map(len, kinds)]}
        sizes = {key: sum(counts) for key, counts in self._counts.items()}
        spaces = {key: Box(0, STRENGTH, (size,)) for key, size in sizes.items()}
        self.observation_space = Dict(spaces)

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The same layout again, whatever the seed."""
        _, info = self.env.reset(seed=LAYOUT)
        self._resets += 1
        self._count(steps=0)
        return self._observe(), info

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict]:
        _, reward, *ends, info = self.env.step(self._actions[action])
        self._count(steps=1, goal=reward > 0)
        return self._observe(), reward, *ends, info

    def _count(self, steps: int, goal: bool = False) -> None:
        if self._resets > 1:  # The first is of the check before the run.
            self._visits.add(state_of(self.unwrapped), steps)
            self._visits.goals += goal

    def _observe(self) -> dict[str, np.ndarray]:
        grid = self.unwrapped
        cell = grid.grid.get(*grid.front_pos)
        codes = {
            "place": grid.agent_pos,
            "direction": [grid.agent_dir],
            "ahead": cell.encode() if cell else (1, 0, 0),
        }
        return {key: _one_hots(codes[key], n) for key, n in self._counts.items()}


def _one_hots(codes: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """One-hot vectors of these many classes, one behind the other."""
    pairs = zip(codes, counts, strict=True)
    rows = [np.eye(n, dtype=np.float32)[int(i)] for i, n in pairs]
    return STRENGTH * np.concatenate(rows)


def state_of(grid: Any) -> tuple:
    """All that a MiniGrid's future depends on but the time that is left: position,
    direction, what is carried, and the cells that are neither empty nor wall."""
    cells = enumerate(grid.grid.grid)
    return (
        tuple(map(int, grid.agent_pos)),
        int(grid.agent_dir),
        grid.carrying and grid.carrying.encode(),
        tuple((i, *c.encode()) for i, c in cells if c and c.type != "wall"),
    )


def put_into(grid: Any, state: tuple) -> None:
    """Put a MiniGrid of the same walls into a state."""
    decode = require("minigrid.core.world_object", "minigrid").WorldObj.decode
    grid.agent_pos, grid.agent_dir, carried, things = state
    grid.carrying = carried and decode(*carried)
    cells = grid.grid.grid
    cells[:] = [c if c and c.type == "wall" else None for c in cells]
    for place, *code in things:
        cells[place] = decode(*code)
    grid.step_count = 0


def reachable_states() -> set[tuple]:
    """All states that some actions lead to within one episode, by search."""
    grid = Counted(Visits()).unwrapped
    grid.reset(seed=LAYOUT)
    limit, actions = grid.max_steps, range(grid.action_space.n)
    grid.gen_obs = dict  # Slow, and not needed here.
    found = {state_of(grid)}
    frontier = list(found)
    for _ in range(limit):
        last, frontier = frontier, []
        for state in last:
            for action in actions:
                put_into(grid, state)
                terminal = grid.step(action)[2]
                reached = state_of(grid)
                if reached not in found:
                    found.add(reached)
                    frontier += [] if terminal else [reached]
    return found


if __name__ == "__main__":
    sys.exit(main())
