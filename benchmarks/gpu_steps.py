"""The steps of gpu.py that no other script has, each in a process of its own.

A step is given a Place and a function that writes down what was found so far. Without
a GPU it does the same with tiny networks, but for what only a GPU can do.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import train_step

import dreamerv2.agent
from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.device import builder
from dreamerv2.common.device.capture import WARMUP
from dreamerv2.common.flags import parse_config

FLAGS = "--configs defaults atari".split()
TINY = (
    r"--task toy_catch --rssm.hidden 8 --rssm.deter 8 --rssm.stoch 4 --rssm.discrete 4"
    r" --(encoder|decoder).cnn_depth 2 --(encoder|decoder).mlp_layers 8"
    r" --.*\.layers 1 --.*\.units 8 --imag_horizon 3 --dataset.batch 2"
    r" --dataset.length 6 --replay.minlen 5 --replay.maxlen 10 --prefill 20"
    r" --time_limit 20 --train_every 2 --jit False"
).split()
LENGTHS = (50, 64)  # The second is that of most published figures.
UPDATES = 20

Save = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Place:
    """A device, and whether it stands in for a GPU."""

    device: str
    stand_in: bool

    @property
    def flags(self) -> list[str]:
        """Flags of train.py."""
        return [*(TINY if self.stand_in else FLAGS), "--device", self.device]

    def config(self, *flags: str) -> Config:
        return parse_config([*self.flags, *flags], load_presets())


def run_tests(place: Place, save: Save) -> None:
    """Run the tests that need a GPU; in their stead, those of what a GPU is told."""
    import pytest  # The other steps do without.

    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)

    class Count:
        def pytest_runtest_logreport(self, report: Any) -> None:
            if report.when == "call" or not report.passed:
                counts[report.outcome] += 1

    folder = Path(__file__).parents[1] / "tests" / "device"
    chosen = [folder, "-k", "on_a_gpu"]
    if place.stand_in:
        chosen = [folder / "test_cuda_graphs.py"]
    args = ["-q", "-p", "no:cacheprovider", *map(str, chosen)]
    code = pytest.main(args, plugins=[Count()])
    save(counts)
    if code or not counts["passed"]:
        raise SystemExit(f"pytest ended with {code!r}: {counts}")


def check_waiting(place: Place, save: Save) -> None:
    """Make updates, in which an operation that waits for the GPU is an error."""
    config = place.config("--jit", "False")
    agent, batch = make_agent(config)
    agent.train(batch)  # Libraries set themselves up.
    train_step.wait(agent.device)
    with waiting_is_an_error(agent.device):
        for _ in range(3):
            metrics = agent.train(batch)
    save({"updates": 3, "watched": agent.device.type == "cuda", **numbers(metrics)})


@contextlib.contextmanager
def waiting_is_an_error(device: torch.device) -> Iterator[None]:
    """On a CPU, nothing waits."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def compare_captured(place: Place, save: Save) -> None:
    """Compare updates that are captured with those of plain PyTorch, in float32."""
    torch.backends.cudnn.deterministic = True
    flags = "--precision", "32"
    with mock.patch.object(builder, "compile_trouble", lambda device: "Left out"):
        captured, batch = make_agent(place.config(*flags, "--jit", "True"))
    plain, _ = make_agent(place.config(*flags, "--jit", "False"))
    errors: dict[str, list[float]] = {"model_loss": [], "actor_loss": []}
    for _ in range(UPDATES):
        found = numbers(captured.train(batch)), numbers(plain.train(batch))
        for name, values in errors.items():
            new, old = (each[name] for each in found)
            values.append(abs(new - old) / max(abs(old), 1e-8))
        graphs = captured._update._graphs.values()
        save(
            {
                "updates": len(values),
                "captured": bool(graphs) and all(graph.captured for graph in graphs),
                **{f"{name}_error_max": max(x) for name, x in errors.items()},
            }
        )


def count_nodes(place: Place, save: Save) -> None:
    """Count the nodes of an update's graph, as the driver tells them."""
    made = []

    def watched() -> Any:
        graph = make()
        graph.enable_debug_mode()  # Keeps what debug_dump writes.
        made.append(graph)
        return graph

    make = torch.cuda.CUDAGraph
    agent, batch = make_agent(place.config("--jit", str(not place.stand_in)))
    with mock.patch.object(torch.cuda, "CUDAGraph", watched):
        for _ in range(WARMUP + 1):
            agent.train(batch)
    save({"graphs": len(made), "nodes": nodes_of(made[-1]) if made else None})


def nodes_of(graph: Any) -> int:
    """Count the nodes in what debug_dump writes, in the language DOT."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        graph.debug_dump(str(path))
        text = path.read_text()
    return len(set(re.findall(r'"(graph_\d+_node_\d+)"\s*\[', text)))


def time_updates(place: Place, save: Save, how: str) -> None:
    """Time updates of both lengths that are eager, compiled, or captured, too."""
    jit = how != "eager" and not place.stand_in
    graphs = dreamerv2.agent.backend_for if how == "captured" else no_graphs
    found = {}
    with mock.patch.object(dreamerv2.agent, "backend_for", graphs):
        for length in LENGTHS[: 1 if place.stand_in else None]:
            flags = [] if place.stand_in else ["--dataset.length", str(length)]
            config = place.config(*flags, "--jit", str(jit))
            updates, warmup = (2, 1) if place.stand_in else (30, WARMUP + 3)
            shape = f"{config.dataset.batch}x{config.dataset.length}"
            found[shape] = train_step.measure(config, updates, warmup)
            save(found)


def no_graphs(*where: Any) -> None:
    """Stand for backend_for."""


def make_agent(config: Config) -> tuple[Agent, dict[str, torch.Tensor]]:
    """Make an agent, and a batch for it."""
    spaces = train_step.read_spaces(config)
    agent = Agent(config, *spaces, Counter())
    return agent, agent.to_tensors(train_step.random_batch(config, *spaces))


def numbers(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the losses."""
    losses = "model_loss", "actor_loss", "critic_loss"
    return {name: metrics[name].item() for name in losses}


WORK: dict[str, Callable[[Place, Save], None]] = {
    "tests": run_tests,
    "waiting": check_waiting,
    "captured": compare_captured,
    "nodes": count_nodes,
    **{
        f"update_{how}": lambda place, save, how=how: time_updates(place, save, how)
        for how in ("eager", "compiled", "captured")
    },
}
