"""Shows that the agent learns: small tasks, small networks, several seeds.

    python benchmarks/learns.py                      # both tasks, three seeds each
    python benchmarks/learns.py --tasks toy_reach --seeds 1 --json FILE

Each run is an ordinary run of train.py in a process of its own. It ends when the mean
return of an evaluation has gone 90% of the way from that of random actions to the
best possible one, or when its time is up. Random and best are measured here, too, by
playing the task with random actions and with its oracle.

The exit code is 1 if a run did not get there.
"""

import argparse
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.benchmark import circumstances
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.driver import Driver
from dreamerv2.common.envs import make_env
from dreamerv2.common.other import RandomAgent

SHARED = """
--precision 32 --jit False --envs 4 --eval_eps 32
--rssm.hidden 128 --rssm.deter 128
--(reward_head|discount_head|actor|critic).layers 2
--(reward_head|discount_head|actor|critic).units 128
--prefill 1000 --pretrain 100 --eval_every 1000 --log_every 2000 --steps 100000
--clip_rewards identity --discount 0.95 --slow_target_update 50
--model_opt.lr 1e-3 --actor_opt.lr 3e-4 --critic_opt.lr 1e-3
"""

# Pixels, discrete actions, gradients by reinforce. Images of 32x32 take a quarter of
# the time of 64x64.
CATCH = """
--task toy_catch --render_size 32 32
--encoder.cnn_kernels 4 4 --decoder.cnn_kernels 14 6
--(encoder|rssm).norm layer --model_opt.clip 1 --model_opt.eps 1e-7
--(encoder|decoder).mlp_keys $^ --(encoder|decoder).cnn_keys image
--(encoder|decoder).cnn_depth 8 --rssm.stoch 8 --rssm.discrete 8
--dataset.batch 48 --dataset.length 16 --replay.minlen 10 --replay.maxlen 16
--imag_horizon 8 --train_every 4 --loss_scales.kl 0.1
--actor_ent linear(5e-2,3e-3,8000) --actor_opt.lr 5e-4
"""

# Vectors, continuous actions, gradients through the dynamics. Episodes end by the
# clock alone.
REACH = """
--task toy_reach
--(encoder|decoder).cnn_keys $^ --(encoder|decoder).mlp_layers 128 128
--rssm.stoch 16 --rssm.discrete 16
--dataset.batch 16 --dataset.length 16 --replay.minlen 16 --replay.maxlen 16
--pred_discount False --grad_heads decoder reward --replay.prioritize_ends False
--imag_horizon 10 --train_every 2 --actor_ent 1e-4
--loss_scales.kl 0.003 --loss_scales.reward 10
"""

TASKS = {"toy_catch": CATCH.split(), "toy_reach": REACH.split()}


@dataclasses.dataclass
class Scale:
    """What returns mean in a task."""

    random: float
    best: float

    def share(self, value: float) -> float:
        """How far from random (0) to best (1)."""
        return (value - self.random) / (self.best - self.random)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=0.9, help="of the way to best")
    parser.add_argument("--minutes", type=float, default=10, help="for each run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--logdir", type=Path, help="keep the runs here")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args(argv)
    scales = {task: measure_scale(task) for task in args.tasks}
    for task, scale in scales.items():
        print(f"{task}: random {scale.random:.2f}, best {scale.best:.2f}", flush=True)
    logdir = args.logdir or Path(tempfile.mkdtemp(prefix="learns-"))
    pairs = [(task, seed) for task in args.tasks for seed in args.seeds]
    with ThreadPoolExecutor(args.jobs) as pool:
        results = list(
            pool.map(
                lambda pair: run(*pair, scales[pair[0]], args, logdir),
                pairs,
            )
        )
    if not args.logdir:
        shutil.rmtree(logdir)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        report = {**circumstances(), "runs": results}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(result["passed"] for result in results) else 1


def measure_scale(task: str, episodes: int = 2000) -> Scale:
    """Mean returns of random actions and of the task's oracle."""
    config = Config(load_presets()["defaults"]).update({"task": task})
    config = config.update({"encoder.cnn_keys": "$^"})
    env = make_env(config, seed=1000)
    agent = RandomAgent(env.act_space, seed=0)
    return Scale(
        mean_return(env, agent, episodes), mean_return(env, oracle(env), episodes)
    )


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
    task: str, seed: int, scale: Scale, args: argparse.Namespace, logdir: Path
) -> dict[str, Any]:
    """Trains until an evaluation is good enough, or the time is up."""
    folder = logdir / task / str(seed)
    flags = [*SHARED.split(), *TASKS[task], "--seed", str(seed)]
    command = [sys.executable, "-m", "dreamerv2.train", "--logdir", str(folder), *flags]
    folder.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ)
    if args.jobs > 1:  # Threads that wait for each other's core are slower than one.
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // args.jobs))
    start = time.time()
    with (folder / "output.txt").open("a") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=env)
        try:
            step, value = wait(process, folder, scale, args, start)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    minutes = (time.time() - start) / 60
    share = scale.share(value)
    passed = share >= args.share
    print(
        f"{task} seed {seed}: return {value:.2f} after {step} steps and "
        f"{minutes:.1f} minutes, {share:.0%} of the way from random "
        f"({scale.random:.2f}) to best ({scale.best:.2f}): "
        f"{'passed' if passed else 'FAILED'}",
        flush=True,
    )
    if process.returncode not in (0, 128 + signal.SIGTERM):
        print((folder / "output.txt").read_text()[-2000:], file=sys.stderr)
    return {
        "task": task,
        "seed": seed,
        "environment_steps": step,
        "minutes": round(minutes, 2),
        "eval_return": value,
        "random_return": scale.random,
        "best_return": scale.best,
        "share_of_the_way": share,
        "passed": passed,
    }


def wait(
    process: subprocess.Popen,
    folder: Path,
    scale: Scale,
    args: argparse.Namespace,
    start: float,
) -> tuple[int, float]:
    """Step and return of the first evaluation that is good enough, or of the last."""
    last = (0, float("nan"))
    while True:
        ended = process.poll() is not None
        for step, value in evaluations(folder):
            last = (step, value)
            if scale.share(value) >= args.share:
                return last
        if ended or time.time() - start > 60 * args.minutes:
            return last
        time.sleep(1)


def evaluations(folder: Path) -> list[tuple[int, float]]:
    """Steps and mean returns of the evaluations so far."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [(x["step"], x["eval_return"]) for x in lines if "eval_return" in x]


if __name__ == "__main__":
    sys.exit(main())
