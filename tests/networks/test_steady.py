"""A long run stays as it begins: it compiles nothing more, and takes no more memory."""

import gc
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from run_tools import CATCH, metrics, ok, series, train_here

from dreamerv2 import train as script
from dreamerv2.common.config import load_presets
from dreamerv2.common.flags import parse_config
from dreamerv2.common.torchutils import can_compile
from dreamerv2.running.logdir import Logdir
from dreamerv2.running.signals import StopSignals

STATM = Path("/proc/self/statm")
SHORT = (  # Updates that take a hundredth of a second.
    "--dataset.length 2 --imag_horizon 2 --render_size 32 32"
    " --encoder.cnn_kernels 4 5 --decoder.cnn_kernels 14 6"
)
LEAK = 4096  # Bytes per update that would be noticed.
GIVEN_UP = 8  # torch compiles a function for so many kinds of inputs, then no more.


@pytest.fixture
def compiled(monkeypatch):
    """Names of the functions that are compiled, as often as they are.

    What compiles is as real as it gets, but the result runs by PyTorch's own kernels,
    since making C++ of all takes a minute. A function that cannot be compiled again
    raises an error, rather than running as it is.
    """
    names = []
    compile = torch.compile

    def counting(fn, **settings):
        def backend(graph, inputs):
            names.append(f"{fn.__module__}.{fn.__qualname__}")
            return graph.forward

        return compile(fn, **settings, backend=backend, fullgraph=True)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", counting)
    yield names
    torch._dynamo.reset()


@pytest.fixture
def progress(monkeypatch, compiled):
    """[(step, functions compiled so far), ...] at the steps of a run."""
    seen = []

    class Watched(script.Trainer):
        def __init__(self, *args, **more):
            super().__init__(*args, **more)
            self.train.driver.on_step(self.note)

        def note(self, tran, worker):
            seen.append((int(self.step), len(compiled)))

    monkeypatch.setattr(script, "Trainer", Watched)
    return seen


# Rows of a batch, sequences of a report, environments of training and of evaluation:
# eight, six, three and two, so that each kind of call has a shape of its own.
KINDS = "--jit True --dataset.batch 8 --envs 3 --eval_eps 2 --prefill 60 --pretrain 2"
EXPLORING = "--expl_behavior Plan2Explore --expl_until 75"
DYNAMICS = "--task toy_reach --actor_grad both --rssm.ensemble 2"


@pytest.mark.skipif(not can_compile(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(
    "flags", [EXPLORING, DYNAMICS], ids=["exploring", "through-dynamics"]
)
def test_a_run_compiles_nothing_after_the_first_step_of_its_policy(
    flags, tmp_path, compiled, progress
):
    flags = [*CATCH, *KINDS.split(), *flags.split(), "--logdir", tmp_path]
    ok(train_here(*flags, "--steps", 105))
    steps, counts = zip(*progress, strict=True)
    assert steps == tuple(range(1, 106))
    # Prefill ends at step 60. Then come updates, an evaluation, the policy's step.
    assert counts[59] == 0 < counts[60]
    assert counts[60:] == (counts[60],) * 45 and len(compiled) == counts[60]
    assert max(Counter(compiled).values()) < GIVEN_UP
    # All kinds of calls came again later.
    assert len(series(tmp_path, "eval_return")) >= 5
    assert len([line for line in metrics(tmp_path) if "model_kl" in line]) >= 8


def update(run, times):
    """So many updates, of which the metrics are written now and then."""
    for number in range(times):
        run.step.increment()
        run.update()
        if number % 50 == 49:
            run.log_metrics()


def held():
    """Bytes of memory that this process has, and the tensors among its objects."""
    gc.collect()
    pages = int(STATM.read_text().split()[1])
    tensors = sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())
    return pages * os.sysconf("SC_PAGE_SIZE"), tensors


def train_long(folder):
    """What a run holds after 500 updates, and after 2,000; in a process of its own."""
    torch.set_num_threads(1)
    flags = [*CATCH, *SHORT.split(), "--logger", "none", "--logdir", str(folder)]
    config = parse_config(flags, load_presets())
    with ExitStack() as stack:
        logdir = stack.enter_context(closing(Logdir(config)))
        stop = stack.enter_context(StopSignals())
        run = script.Trainer(config, logdir, stop, stack)
        run.prefill()
        update(run, 500)
        before = held()
        update(run, 1500)
        return before, held()


@pytest.mark.skipif(not STATM.exists(), reason="Linux tells a process its memory")
def test_two_thousand_updates_take_no_more_memory_than_five_hundred(tmp_path):
    # Elsewhere than here, where memory that other tests left could be taken again.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        before, after = pool.submit(train_long, tmp_path).result()
    assert after[1] == before[1] > 50
    assert after[0] - before[0] < 1500 * LEAK
