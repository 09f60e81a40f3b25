"""benchmarks/replicate.py --launcher slurm, and runs that Slurm stops and starts."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from replication.jobs import OUTPUT
from replication.state import read_sessions, read_state
from run_tools import (
    CATCH,
    PATIENCE,
    TINY,
    environment,
    repeated,
    run_script,
    script_here,
)

from dreamerv2.common.config import Config

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "replicate.py"
SWEEP = ROOT / "examples" / "sweep_seeds.py"


def has_slurm():
    if not shutil.which("sinfo"):
        return False
    command = ["sinfo", "--noheader", "--format=%t"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return bool({"idle", "mix"} & set(done.stdout.split()))


needs_slurm = pytest.mark.skipif(
    not has_slurm(), reason="no Slurm runs here; tests/tools/start_slurm.sh starts one"
)


def job_ids(out):
    """Name of a run -> its job."""
    path = out / "slurm" / "jobs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def was_stopped(folder):
    """Whether a run was asked to stop, and saved."""
    output = folder / OUTPUT
    return output.exists() and "Train stopped: " in output.read_text()


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Where the runs go, on a machine without a GPU."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield tmp_path / "out"
    for job in job_ids(tmp_path / "out").values():
        subprocess.run(["scancel", "--quiet", job], check=False)


def replicate(out, *flags, seeds="1234", frames=480):
    """The command for runs of Pong with tiny networks."""
    return script_here(
        SCRIPT,
        *("--out", out, "--games", "pong", "--frames", frames, "--seeds", *seeds),
        *("--launcher", "slurm", "--gpus", 0, "--cpus", 1, "--memory", 1, *flags, "--"),
        *(*TINY, "--logger", "none", "--save_every", 0),
    )


def folders(out):
    return [out / "atari_pong" / "dreamerv2" / seed for seed in "1234"]


def processes(folder):
    """Those that train a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:  # It has ended.
            continue
        if f"--logdir={folder}".encode() in words:
            found.append(int(path.parent.name))
    return found


def send(number, processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):  # It has ended.
            os.kill(process, number)


def hold_until_told(folder):
    """Let a run, however fast the machine is, hardly work until it is asked to stop;
    Slurm wakes what it signals, so that a signal may come at any moment."""
    found = processes(folder)
    told = ": saving after this step" in (folder / OUTPUT).read_text()
    send(signal.SIGCONT, found)
    if not told:
        time.sleep(0.0001)
        send(signal.SIGSTOP, found)


@needs_slurm
def test_an_array_is_whole_although_one_is_requeued_and_one_reaches_the_limit(out):
    pytest.importorskip("submitit")
    end, most, requeued = time.monotonic() + PATIENCE, 0, False
    limited, again = folders(out)[:2]
    flags = ("--jobs", 2, "--time", 2, "--warn", 10)
    result = replicate(out, *flags)
    assert result.code == 0, result.err
    assert "Queued 4 as job " in result.out and " 4 queued," in result.out
    result = replicate(out, *flags)
    assert "Slurm has 4 of these already." in result.out

    while not all(read_state(folder).has(480) for folder in folders(out)):
        assert time.monotonic() < end, replicate(out, "--list").out
        command = ["squeue", "--noheader", "--array", "--states=RUNNING"]
        running = subprocess.run(command, capture_output=True, text=True, check=True)
        most = max(most, len(running.stdout.splitlines()))
        if (limited / "variables.pt").exists() and not was_stopped(limited):
            hold_until_told(limited)
        if (again / "variables.pt").exists() and not requeued:
            found = processes(again)
            send(signal.SIGSTOP, found)
            job = job_ids(out)[again.relative_to(out).as_posix()]
            subprocess.run(["scontrol", "requeue", job], check=True)
            send(signal.SIGCONT, found)
            requeued = True
        time.sleep(0.05)

    assert most == 2
    for folder in (limited, again):
        sessions = read_sessions(folder)
        for before, after in pairwise(sessions):
            assert after["from_frames"] == before["frames"]
        saved = {x["frames"] for x in sessions[:-1]}
        assert 0 < max(saved) < 480
        steps = re.findall(r"Resumed at step (\d+)\.", (folder / OUTPUT).read_text())
        assert steps  # Logged every five of them.
        assert all(any(x <= 4 * int(step) < x + 20 for x in saved) for step in steps)
    logs = sorted((out / "slurm").glob("*.out"))
    assert len(logs) == 4 and "Job has timed out." in logs[0].read_text()
    for folder in folders(out):
        assert repeated(folder) == ([], False)
    result = replicate(out, "--plot_only")
    assert result.code == 0, result.err
    (row,) = json.loads((out / "replication.json").read_text())["table"]
    assert len(row["scores"]) == row["seeds"] == 4
    # A run is done before Slurm has ended its job.
    while "4 done, 0 running, 0 queued" not in (listed := replicate(out, "--list").out):
        assert time.monotonic() < end, listed
    assert "Runs: 4, of which 4 done." in replicate(out).out


@needs_slurm
def test_what_slurm_does_not_take_is_said_in_a_sentence(out):
    pytest.importorskip("submitit")
    result = replicate(out, "--partition", "nowhere", seeds="1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "Slurm did not take the jobs" in result.err and "partition" in result.err


def test_without_slurm_or_submitit_there_is_a_sentence(out, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = replicate(out, seeds="1")
    assert result.code == 2 and result.err == (
        "replicate: --launcher slurm needs submitit: "
        "pip install 'dreamerv2-torch[slurm]'.\n"
    )
    monkeypatch.delitem(sys.modules, "submitit")
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    result = replicate(out, seeds="1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "There is no sbatch on this machine" in result.err


@pytest.mark.parametrize("cluster", ["local", pytest.param("slurm", marks=needs_slurm)])
def test_the_example_sweeps_a_flag_over_seeds(out, cluster):
    pytest.importorskip("submitit")
    flags = "--flag actor_ent --values 1e-3 1e-2 --seeds 1 2 --task toy_catch --jobs 2"
    few = ["--cluster", cluster, "--cpus", 1, "--memory", 1, "--out", out]
    done = run_script(SWEEP, *flags.split(), *few, *CATCH, "--steps", 25)
    assert done.code == 0, done.err
    folders = [out / "toy_catch" / v / s for v in ("1e-3", "1e-2") for s in "12"]
    end = time.monotonic() + PATIENCE
    while not all(read_state(folder).has(25) for folder in folders):
        assert cluster == "slurm" and time.monotonic() < end, done.out
        time.sleep(0.2)
    config = Config.read(folders[2] / "config.yaml")
    assert (config.actor_ent, config.seed) == ("1e-2", 1)


# What stands for train.py saves on SIGTERM.
PROGRAM = """
import signal, sys
from pathlib import Path
from replication import plan
from replication.jobs import Run
from replication.slurm import SlurmRun
signal.signal(signal.SIGUSR2, lambda *args: sys.exit(7))  # As submitit does.
(job,) = plan.make_jobs(
    Path(sys.argv[1]), ["pong"], plan.make_methods([["atari"]]), [1], 4000
)
SlurmRun(Run(job, {}, command=[sys.executable, "-S", "-c", sys.argv[2]]))()
"""
STAND_IN = """
import signal, sys, time
from pathlib import Path
folder = Path(next(x for x in sys.argv if x.startswith("--logdir=")).partition("=")[2])
def stop(*args):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / "started").touch()
while True:
    time.sleep(0.01)
"""


def test_a_job_that_is_warned_waits_for_the_save_and_then_lets_submitit_requeue_it(out):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, out, STAND_IN],
        env={**environment(), "PYTHONPATH": str(SCRIPT.parent)},
    )
    folder, end = folders(out)[0], time.monotonic() + PATIENCE
    while not (folder / "started").exists() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(PATIENCE) == 7
    assert (folder / "saved").exists()
    (session,) = read_sessions(folder)
    assert session["exit_code"] == 143 and "torch" in session["versions"]
    assert read_state(folder).word(4000) == "stopped"
