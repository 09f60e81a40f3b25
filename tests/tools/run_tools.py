"""Runs of dreamerv2/train.py with tiny networks, each a few seconds long, for tests."""

import contextlib
import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tensorboard.backend.event_processing import event_accumulator

from dreamerv2 import train as script
from dreamerv2.running.statefile import load_checkpoint

SCRIPT = (sys.executable, Path(script.__file__).as_posix())
COMMAND = (Path(sysconfig.get_path("scripts"), "dreamerv2-train").as_posix(),)


def ranks_of(script, count=2):
    """The command that shares a script among processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return (*launcher, "--nproc-per-node", str(count), script)


RANKS = ranks_of(SCRIPT[1])

# The one place that says how small the networks are. Presets keep all else.
NETWORKS = (
    r"--rssm.hidden 8 --rssm.deter 8 --rssm.stoch 4 --rssm.discrete 4"
    r" --(encoder|decoder).cnn_depth 2 --(encoder|decoder).mlp_layers 8 8"
    r" --.*\.layers 1 --.*\.units 8 --disag_models 2 --imag_horizon 3"
    r" --dataset.batch 2 --jit False --device cpu"
).split()
# Prefill takes one episode; an update every other step, metrics every fifth one.
LOOP = (
    "--dataset.length 6 --replay.minlen 5 --replay.maxlen 10 --prefill 20 --pretrain 1"
    " --time_limit 20 --train_every 2 --log_every 5 --eval_every 10"
).split()
TINY = [*NETWORKS, *LOOP]
CATCH = [*TINY, "--task", "toy_catch"]

PATIENCE = 300.0  # Seconds, for a machine that does much else.


class Result(NamedTuple):
    """How a run ended: its exit code, and what it printed to out and err."""

    code: int
    out: str
    err: str


def environment():
    """For a subprocess: one thread each, and output that comes when it is printed."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def train(*flags, command=SCRIPT, cwd=None):
    """A run in a process of its own."""
    return _subprocess([*command, *flags], cwd)


def run_script(path, *flags, cwd=None):
    """Another script, in a process of its own."""
    return _subprocess([sys.executable, path, *flags], cwd)


def _subprocess(command, cwd):
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@functools.cache
def load_script(path):
    """A script as a module."""
    name = f"script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script_here(path, *flags):
    """Another script in this process."""
    return main_here(load_script(path).main, *flags)


def train_here(*flags):
    """A run in this process, which saves the seconds that importing torch takes."""
    return main_here(script.main, *flags)


def main_here(main, *flags):
    """The main function of a command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(flag) for flag in flags])
    except SystemExit as exit:
        code = exit.code or 0
    finally:
        torch.set_num_threads(threads)
    return Result(code, out.getvalue(), err.getvalue())


class Running:
    """A run in the background, to be sent signals, that ends with its context."""

    def __init__(self, folder, *flags, command=SCRIPT):
        self._out, self._err = folder / "out.txt", folder / "err.txt"
        self._shared = command == RANKS
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                [*command, *map(str, flags)],
                env=environment(),
                stdout=out,
                stderr=err,
            )

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self._shared:  # Its launcher ends the others, unless it is killed.
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(60)
        self._process.kill()
        self._process.wait()

    @property
    def pid(self):
        return self._process.pid

    @property
    def out(self):
        return self._out.read_text()

    def wait_until(self, condition):
        """Wait until condition() is true, while the process runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, f"{self.out}\n{self._err.read_text()}"
            assert time.monotonic() < end, self.out
            time.sleep(0.02)

    def send(self, signal):
        self._process.send_signal(signal)

    def result(self):
        """Wait for the end."""
        code = self._process.wait(PATIENCE)
        return Result(code, self.out, self._err.read_text())


def ok(result):
    """The result of a run that must have ended well."""
    assert result.code == 0, f"{result.out}\n{result.err}"
    assert "Traceback" not in result.err
    return result


def one_sentence(result):
    """What a run that refused its input said, which must be one line and no trace."""
    assert result.code == 2, f"{result.code}\n{result.out}\n{result.err}"
    line, end, rest = result.err.partition("\n")
    assert (end, rest) == ("\n", ""), result.err
    name, _, sentence = line.partition(": ")
    assert name == "dreamerv2-train"
    assert sentence.endswith((".", "?")), sentence
    return sentence


def failed(result):
    """What a run said that ended with exit code 1, which must be one sentence."""
    assert result.code == 1, f"{result.code}\n{result.out}\n{result.err}"
    return one_sentence(result._replace(code=2))


def step_of(logdir):
    """The step of the checkpoint."""
    return checkpoint(logdir)["step"]["value"]


def metrics(logdir):
    """The lines of metrics.jsonl; one that is not valid JSON is an error."""

    def refuse(name):
        raise AssertionError(f"{name} is not valid JSON")

    lines = (logdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def untimed(logdir):
    """The metrics without those that depend on the speed of the machine."""
    timed = ("time_", "fps")
    return [
        {key: value for key, value in line.items() if not key.startswith(timed)}
        for line in metrics(logdir)
    ]


def series(logdir, key):
    """[(step, value), ...] of one metric."""
    return [(line["step"], line[key]) for line in metrics(logdir) if key in line]


def repeated(logdir):
    """What metrics.jsonl says more than once about one step, or says too late."""
    lines = metrics(logdir)
    steps = [line["step"] for line in lines]
    said = [(line["step"], key) for line in lines for key in line if key != "step"]
    return [pair for pair in said if said.count(pair) > 1], steps != sorted(steps)


def checkpoint(logdir):
    return load_checkpoint(logdir / "variables.pt")


def events(logdir):
    """TensorBoard's view of a logdir."""
    sizes = {event_accumulator.IMAGES: 0, event_accumulator.SCALARS: 0}
    return event_accumulator.EventAccumulator(str(logdir), sizes).Reload()


def episodes(folder):
    """The episodes of a folder as dicts of arrays, oldest first."""
    loaded = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            loaded.append(dict(file))
    return loaded


def goes_on(logdir, *flags):
    """Five more steps of CATCH from the checkpoint, in this process."""
    step = step_of(logdir)
    flags = [*CATCH, *flags, "--logdir", logdir, "--steps", step + 5]
    result = ok(train_here(*flags))
    assert f"Resumed at step {step}.\n" in result.out
    assert "Prefill" not in result.out and "Pretrain" not in result.out
    assert step_of(logdir) == step + 5
    assert repeated(logdir) == ([], False)
    return result


def same(left, right):
    """Whether two nested states are equal, to the last bit."""
    if isinstance(left, dict):
        if not isinstance(right, dict) or left.keys() != right.keys():
            return False
        return all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and left == right
