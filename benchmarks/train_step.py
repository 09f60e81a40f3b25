"""Times an update of the agent, and compares it with the machine's matrix products.

    python benchmarks/train_step.py --configs defaults atari --device cpu --precision 32
    python benchmarks/train_step.py --configs defaults atari --device cuda --compile

Flags that are not below go to the configuration, as in train.py. An update is one call
of Agent.train on a random batch: world model, actor, critic, and their optimizers. Its
FLOPs are counted while it runs eagerly (a multiplication and an addition are two), in
matrix products and convolutions, so they are those that are really computed. The rate
of matrix products is measured in the same run, between the updates, in the precision
that the networks compute in; the best of a few sizes counts.

Another process on the machine makes the figures worthless: the load is written down.
"""

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dreamerv2.agent import Agent
from dreamerv2.common.benchmark import circumstances, make_parser
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.common.heap import keep_freed_memory
from dreamerv2.common.limits import check_limits
from dreamerv2.common.profiling import costs, format_cost

SIZES = {"cpu": (768, 1536, 3072), "cuda": (4096, 8192)}  # Of square matrices.


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="as --jit True does")
    parser.add_argument("--updates", type=int, default=10, help="that are timed")
    parser.add_argument("--warmup", type=int, default=3, help="updates before these")
    parser.add_argument("--table", type=int, default=0, help="so many ops that cost")
    parser.add_argument("--json", type=Path, help="write the results here")
    args, rest = parser.parse_known_args(argv)
    try:
        config = parse_config(rest, load_presets()).update(jit=args.compile)
        check_limits(config)
        result = measure(config, args)
    except UsageError as error:
        print(f"train_step.py: {error}", file=sys.stderr)
        return 2
    show(result)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def measure(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Everything about the updates of an agent with this config."""
    spaces = read_spaces(config)
    agent = Agent(config, *spaces, Counter())
    if agent.device.type == "cpu":
        keep_freed_memory()  # As train.py does.
    batch = agent.to_tensors(random_batch(config, *spaces))
    flops = count_flops(config, spaces, batch)
    state = None
    begin = time.perf_counter()
    for _ in range(args.warmup):
        state, _ = agent.train(batch, state)
    wait(agent.device)
    warmup = time.perf_counter() - begin
    reset_peak(agent.device)
    seconds, rates = [], []
    for _ in range(args.updates):
        rates.append(product_rate(agent.device, agent.precision.compute))
        begin = time.perf_counter()
        state, _ = agent.train(batch, state)
        wait(agent.device)
        seconds.append(time.perf_counter() - begin)
    median, peak = statistics.median(seconds), statistics.median(rates)
    return {
        **circumstances(),
        "load_average": os.getloadavg(),
        "device": device_name(agent.device),
        "threads": torch.get_num_threads(),
        "compute_dtype": str(agent.precision.compute).removeprefix("torch."),
        "compiled": bool(config.jit),
        "batch": config.dataset.batch,
        "length": config.dataset.length,
        "imag_horizon": config.imag_horizon,
        "updates": args.updates,
        "seconds_warmup": warmup,
        "seconds_median": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "flops": flops,
        "gflops_per_second": flops / median / 1e9,
        "peak_gflops_per_second": peak / 1e9,
        "fraction_of_peak": flops / median / peak,
        "peak_memory_bytes": peak_memory(agent.device),
        **trace(agent, batch, state, args.table),
    }


def read_spaces(config: Config) -> tuple[dict, dict]:
    """Observations and actions of the config's task."""
    env = make_env(config, seed=0)
    try:
        return dict(env.obs_space), dict(env.act_space)
    finally:
        getattr(env, "close", lambda: None)()


def random_batch(config: Config, obs_space: dict, act_space: dict) -> dict[str, Any]:
    """Sequences (B, T, ...) that begin an episode each and end none."""
    rng = np.random.default_rng(0)
    shape = config.dataset.batch, config.dataset.length
    batch = {}
    for key, space in obs_space.items():
        if space.dtype == np.uint8:
            value = rng.integers(0, 256, (*shape, *space.shape), np.uint8)
        elif space.dtype == bool:
            value = np.zeros((*shape, *space.shape), bool)
        else:
            value = rng.normal(size=(*shape, *space.shape)).astype(space.dtype)
        if not key.startswith("log_"):
            batch[key] = value
    batch["is_first"][:, 0] = True
    space = act_space["action"]
    size = space.shape[0]
    if getattr(space, "discrete", False):
        batch["action"] = np.eye(size, dtype=np.float32)[rng.integers(0, size, shape)]
    else:
        batch["action"] = rng.uniform(-1, 1, (*shape, size)).astype(np.float32)
    return batch


def count_flops(config: Config, spaces: tuple[dict, dict], batch: Any) -> int:
    """FLOPs of the matrix products and convolutions in an update, run eagerly."""
    agent = Agent(config.update(jit=False), *spaces, Counter())
    with FlopCounterMode(display=False) as counter:
        agent.train(batch, None)
    return counter.get_total_flops()


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of matrix products: the best of a few sizes."""
    best = 0.0
    for size in SIZES[device.type]:
        a = torch.ones(size, size, device=device, dtype=dtype)
        torch.mm(a, a)
        wait(device)
        begin = time.perf_counter()
        count = 0
        while not count or time.perf_counter() - begin < 0.1:
            for _ in range(20 if device.type == "cuda" else 1):
                torch.mm(a, a)
                count += 1
            wait(device)
        best = max(best, 2 * size**3 * count / (time.perf_counter() - begin))
    return best


def trace(agent: Agent, batch: Any, state: Any, rows: int) -> dict[str, Any]:
    """What one more update is made of: kernels on a GPU, and what costs the most."""
    cuda = agent.device.type == "cuda"
    if not (cuda or rows):
        return {}
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if cuda else [kinds.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        agent.train(batch, state)
        wait(agent.device)
    found = {}
    if cuda:  # Not run without a GPU.
        kind = torch.autograd.DeviceType.CUDA
        events = [e for e in profile.events() if e.device_type == kind]
        found["kernels_launched"] = len(events)
    if rows:
        found["costs"] = costs(profile.key_averages(), cuda, rows)
    return found


def wait(device: torch.device) -> None:
    """Until the device has done all it was given."""
    if device.type == "cuda":  # Not run without a GPU.
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":  # Not run without a GPU.
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU, since the warm-up; on a CPU, of the process in all."""
    if device.type == "cuda":  # Not run without a GPU.
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    if device.type == "cuda":  # Not run without a GPU.
        return torch.cuda.get_device_name(device)
    return str(device)


def show(result: dict[str, Any]) -> None:
    """The figures, and the table of costs if there is one."""
    print(
        f"{result['device']}, {result['threads']} threads, {result['compute_dtype']}, "
        f"{'compiled' if result['compiled'] else 'eager'}; load average "
        f"{result['load_average'][0]:.1f}"
    )
    print(
        f"An update of {result['batch']}x{result['length']}, horizon "
        f"{result['imag_horizon']}: median {result['seconds_median']:.4g} s "
        f"({result['seconds_min']:.4g} to {result['seconds_max']:.4g}, of "
        f"{result['updates']})"
    )
    print(
        f"{result['flops'] / 1e9:.1f} GFLOP at {result['gflops_per_second']:.1f} "
        f"GFLOP/s, {result['fraction_of_peak']:.0%} of the "
        f"{result['peak_gflops_per_second']:.1f} GFLOP/s of matrix products"
    )
    print(f"Peak memory {result['peak_memory_bytes'] / 1e9:.2f} GB")
    if "kernels_launched" in result:
        print(f"{result['kernels_launched']} kernels launched")
    for cost in result.get("costs", ()):
        print(format_cost(cost))


if __name__ == "__main__":
    sys.exit(main())
