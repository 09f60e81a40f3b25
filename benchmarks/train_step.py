"""Time an update of the agent, and compare it with the machine's matrix products.

    python benchmarks/train_step.py --configs defaults atari --device cpu --precision 32
    python benchmarks/train_step.py --configs defaults atari --device cuda --compile

Flags that are not below go to the configuration, as in train.py. An update is one call
of Agent.train on a random batch: world model, actor, critic, and their optimizers. Its
FLOPs are counted while it runs eagerly (a multiplication and an addition are two), in
matrix products and convolutions, so they are those that are really computed. The rate
of matrix products is measured in the same run, between the updates, in the precision
that the networks compute in; the best of a few sizes counts. The peak of memory is that
of an update: what torch has of the GPU, or what the whole process has on a CPU.

Another process on the machine makes the figures worthless: the load is written down.
"""

import argparse
import contextlib
import gc
import json
import math
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
from circumstances import circumstances, make_parser
from costs import costs, format_cost
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.capture import WARMUP
from dreamerv2.common.device.malloc import keep_freed_memory
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.common.settings.rules import checked

SIZES = {"cpu": (768, 1536, 3072), "cuda": (4096, 8192)}  # Of square matrices.


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; return the exit code."""
    parser = make_parser(__doc__)
    add_flags(parser)
    parser.add_argument("--table", type=int, default=0, help="so many ops that cost")
    args, rest = parser.parse_known_args(argv)
    try:
        config = make_config(rest, args)
        result = {
            **circumstances(),
            **measure(config, args.updates, args.warmup, args.table),
        }
    except UsageError as error:
        print(f"train_step.py: {error}", file=sys.stderr)
        return 2
    show(result)
    write_json(args.json, result)
    return 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """What is measured and where it goes."""
    parser.add_argument("--compile", action="store_true", help="as --jit True does")
    parser.add_argument("--updates", type=int, default=10, help="that are timed")
    warmup = WARMUP + 2  # The update after WARMUP is captured, the one after replayed.
    parser.add_argument("--warmup", type=int, default=warmup, help="before these")
    parser.add_argument("--json", type=Path, help="write the results here")


def make_config(flags: Sequence[str], args: argparse.Namespace) -> Config:
    """The config of these flags of train.py. UsageError if nothing can be measured."""
    if args.updates < 1:
        raise UsageError(f"--updates is {args.updates}; it must be 1 or more.")
    config = parse_config(flags, load_presets()).update(jit=args.compile)
    checked(config)
    return config


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write the results, if there is a path for them."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def measure(config: Config, updates: int, warmup: int, rows: int = 0) -> dict[str, Any]:
    """Everything about the updates of an agent with this config.

    Args:
      updates: how many are timed.
      warmup: how many come before these.
      rows: of the table of what costs the most.
    """
    spaces = read_spaces(config)
    agent = Agent(config, *spaces, Counter())
    if agent.device.type == "cpu":
        keep_freed_memory()  # As train.py does.
    batch = agent.to_tensors(random_batch(config, *spaces))
    begin = time.perf_counter()
    for _ in range(warmup):
        agent.train(batch)
    wait(agent.device)
    warmup = time.perf_counter() - begin
    matrices = make_products(agent.device, agent.precision.compute)
    seconds, rates, peaks = [], [], []
    for _ in range(updates):
        rates.append(product_rate(matrices))
        reset_peak(agent.device)
        begin = time.perf_counter()
        agent.train(batch)
        wait(agent.device)
        seconds.append(time.perf_counter() - begin)
        peaks.append(peak_memory(agent.device))
    median, rate = statistics.median(seconds), statistics.median(rates)
    found = {
        "load_average": os.getloadavg(),
        "device": device_name(agent.device),
        "threads": torch.get_num_threads(),
        "compute_dtype": str(agent.precision.compute).removeprefix("torch."),
        "compiled": bool(config.jit),
        "peak_memory_bytes": max(peaks),
        **trace(agent, batch, rows),
    }
    del agent  # Counting takes an agent of its own, and memory for it.
    flops = count_flops(config, spaces, batch)
    return {
        **found,
        "batch": config.dataset.batch,
        "length": config.dataset.length,
        "deter": config.rssm.deter,
        "imag_horizon": config.imag_horizon,
        "updates": updates,
        "seconds_warmup": warmup,
        "seconds_median": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "flops": flops,
        "gflops_per_second": flops / median / 1e9,
        "peak_gflops_per_second": rate / 1e9,
        "fraction_of_peak": flops / median / rate,
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


def _linear_flops(x: tuple, weight: tuple, *rest: Any, **more: Any) -> int:
    """Return the operations of oneDNN's linear map, by the shapes of its arguments."""
    return 2 * math.prod(x) * weight[0]


def count_flops(config: Config, spaces: tuple[dict, dict], batch: Any) -> int:
    """FLOPs of the matrix products and convolutions in an update, run eagerly."""
    agent = Agent(config.update(jit=False), *spaces, Counter())
    by_onednn = {getattr(torch.ops.mkldnn, "_linear_pointwise", None): _linear_flops}
    with FlopCounterMode(display=False, custom_mapping=by_onednn) as counter:
        agent.train(batch)
    return counter.get_total_flops()


def make_products(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Square matrices, pairs of factor and product, for product_rate. They are made
    once, so that measuring leaves the memory of updates as it is."""
    return [
        torch.ones(2, size, size, device=device, dtype=dtype)
        for size in SIZES[device.type]
    ]


def product_rate(matrices: Sequence[Tensor]) -> float:
    """FLOPs per second of matrix products: the best of a few sizes."""
    best = 0.0
    for a, out in matrices:
        torch.mm(a, a, out=out)
        wait(a.device)
        begin = time.perf_counter()
        count = 0
        while not count or time.perf_counter() - begin < 0.1:
            for _ in range(20 if a.device.type == "cuda" else 1):
                torch.mm(a, a, out=out)
                count += 1
            wait(a.device)
        seconds = time.perf_counter() - begin
        best = max(best, 2 * len(a) ** 3 * count / seconds)
    return best


def trace(agent: Agent, batch: Any, rows: int) -> dict[str, Any]:
    """What one more update is made of: kernels on a GPU, and what costs the most."""
    cuda = agent.device.type == "cuda"
    if not (cuda or rows):
        return {}
    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if cuda else [kinds.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        agent.train(batch)
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
    """What peak_memory tells is what is taken from here on, if the system can."""
    if device.type == "cuda":  # Not run without a GPU.
        torch.cuda.reset_peak_memory_stats(device)
        return
    gc.collect()
    with contextlib.suppress(OSError):  # It needs Linux, and may be forbidden.
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes since reset_peak: that torch had of the GPU; on a CPU, that the
    process had in all. Where there is no reset, since the process began."""
    if device.type == "cuda":  # Not run without a GPU.
        # Reserved, since a replayed CUDA graph allocates nothing: it has its own pool.
        return torch.cuda.max_memory_reserved(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
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
