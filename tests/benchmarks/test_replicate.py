"""benchmarks/replicate.py: what it trains, how it goes on, and what it says of it."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image
from replication import jobs, plan
from replication.state import is_running, locked, read_state
from run_tools import PATIENCE, TINY, checkpoint, environment

from dreamerv2.common.config import load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.running.signals import StopSignals

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "replicate.py"
# A run of 160 frames and its flags; --save_every 0 saves after each step.
REAL = ("--games", "pong", "--frames", "160", "--jobs", "1", "--")
REAL_FLAGS = [*TINY, "--logger", "none"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("replicate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(out, task, method, seed, points, steps=500_000):
    """A run as train.py leaves it, with the evaluations given."""
    folder = out / task / method / str(seed)
    folder.mkdir(parents=True)
    flags = ["--configs", "atari", "--task", task, "--steps", str(steps)]
    parse_config(flags, load_presets()).save(folder / "config.yaml")
    lines = [json.dumps({"step": x, "eval_return": y}) for x, y in points]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def two_millions(first, second):
    """Evaluations whose means in the first and second million frames are these."""
    ends = ((1e6, first), (2e6, second))
    return [(end - 1e5 * k, y + d) for end, y in ends for k, d in ((5, 3), (0, -3))]


def remade(script, out, *flags):
    """replication.json, made anew from the runs in a folder."""
    assert script.main(["--out", str(out), "--plot_only", *flags]) == 0
    return json.loads((out / "replication.json").read_text())


def rows(data):
    return {(row["task"], row["method"], row["frames"]): row for row in data["table"]}


# The table


def test_means_over_seeds_are_judged_by_the_published_range(script, tmp_path, capsys):
    for seed, by in ((1, -1.0), (2, 0.0), (3, 4.0)):
        write(tmp_path, "atari_boxing", "ours", seed, two_millions(29, 81 + by))
        write(tmp_path, "atari_freeway", "ours", seed, two_millions(19, 30 + by / 4))
    data = remade(script, tmp_path)
    found = rows(data)
    boxing = found["atari_boxing", "ours", 2_000_000]
    assert boxing["scores"] == {"1": 80, "2": 81, "3": 85}
    assert (boxing["ours"], boxing["verdict"]) == (82, "inside")
    assert boxing["published"] == {
        **{"mean": 83.87, "std": 3.6, "min": 75.5, "max": 88.6, "seeds": 11}
    }
    verdicts = {key[::2]: row["verdict"] for key, row in found.items()}
    assert verdicts == {
        ("atari_boxing", 1_000_000): "below",  # 29 of 30.7 to 46.4.
        ("atari_boxing", 2_000_000): "inside",
        ("atari_freeway", 1_000_000): "above",  # 19 of 4.1 to 18.5.
        ("atari_freeway", 2_000_000): "inside",
    }
    printed = capsys.readouterr().out
    line = next(x for x in printed.splitlines() if "Boxing" in x and "2,000,000" in x)
    assert [cell.strip() for cell in line.split("|")[1:-1]] == [
        *("Boxing", "ours", "2,000,000", "3 of 3", "82.0", "80.0 to 85.0"),
        *("83.9", "75.5 to 88.6", "inside"),
    ]
    assert line in (tmp_path / "table.md").read_text()


def test_seeds_that_have_not_got_there_are_not_counted(script, tmp_path):
    write(tmp_path, "atari_boxing", "ours", 1, two_millions(40, 80))
    write(tmp_path, "atari_boxing", "ours", 2, two_millions(44, 99)[:3])
    data = remade(
        script, tmp_path, "--games", "boxing", "--methods", "ours", "--seeds", "1", "3"
    )
    found = rows(data)
    assert found["atari_boxing", "ours", 1_000_000]["scores"] == {"1": 40, "2": 44}
    end = found["atari_boxing", "ours", 2_000_000]
    assert (end["scores"], end["seeds"]) == ({"1": 80}, 3)
    states = {run["seed"]: run["state"] for run in data["runs"]}
    assert states == {"1": "done", "2": "stopped", "3": "not started"}
    text = (tmp_path / "table.md").read_text()
    assert "Not run to their end: atari_boxing/ours/3, atari_boxing/ours/2." in text


def test_a_run_shorter_than_a_bin_has_no_published_figure_and_a_picture(
    script, tmp_path
):
    write(tmp_path, "atari_pong", "ours", 1, [(800, -20), (4004, -18)], steps=1000)
    (row,) = remade(script, tmp_path)["table"]
    assert (row["frames"], row["ours"]) == (4000, -19)
    assert (row["published"], row["verdict"]) == (None, "no published figure")
    assert Image.open(tmp_path / "curves.png").size[0] > 100


def test_the_picture_has_whole_millions_alone_and_the_published_range(script, tmp_path):
    points = [*two_millions(40, 80), (2.4e6, -50)]
    write(tmp_path, "atari_boxing", "ours", 1, points, steps=1_250_000)
    remade(script, tmp_path)
    panel = json.loads((tmp_path / "curves.json").read_text())["tasks"]["atari_boxing"]
    curve = panel["methods"]["ours"]
    assert (curve["x"], curve["mean"]) == ([1e6, 2e6], [40, 80])
    assert curve["points"]["1"][1][-1] == -50
    assert panel["published"]["dreamerv2"]["min"][:2] == [30.7, 75.5]


def test_without_any_evaluation_there_is_a_table_and_no_picture(script, tmp_path):
    data = remade(script, tmp_path, "--games", "pong")
    assert data["table"][0]["verdict"] == "not reached"
    assert not (tmp_path / "curves.png").exists()


# What is asked for


def test_sets_of_configs_are_methods_side_by_side():
    methods = plan.make_methods([["defaults", "atari"], ["atari", "train_every=4"]])
    assert [method.name for method in methods] == [
        "dreamerv2",
        "dreamerv2_train_every4",
    ]
    made = plan.make_jobs(Path("out"), ["SpaceInvaders"], methods, [7], 2e6, [])
    assert [job.frames_per_update for job in made] == [64, 16]
    for job in made:
        assert job.folder == Path("out/atari_space_invaders", job.method, "7")
        config = parse_config(job.flags, load_presets())
        assert (config.task, config.seed) == ("atari_space_invaders", 7)
        assert (config.steps, config.eval_every) == (500_000, 25_000)
        assert config.logdir == str(job.folder)


def test_flags_behind_the_dashes_go_to_every_run(tmp_path):
    methods = plan.make_methods([["small"], ["small", "discount=0.9"]])
    passed = ["--prefill", "200", "--eval_every", "50"]
    for job in plan.make_jobs(tmp_path, ["pong"], methods, [1], 4000, passed):
        assert (job.config.prefill, job.config.eval_every) == (200, 50)
        assert job.frames == 4000


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--games bxing", "the nearest are boxing"),
        ("--games pong --frames 0", "expected more than 0, not '0'"),
        ("--games pong --configs atarii", "did you mean atari?"),
        ("--games pong -- --prefil 3", "did you mean --prefill or --profile?"),
        ("--games pong -- --seed 3", "use --seeds"),
        ("--games pong --configs atari --configs atari", "have one name"),
        ("--games pong --jobs 0", "expected 1 or more"),
        ("", "--games is missing"),
        ("--list", "There are no runs in"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    script, tmp_path, capsys, flags, said
):
    out = tmp_path / "out"
    assert script.main(["--out", str(out), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("replicate: ") and said in line
    assert not out.exists()


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path):
    (method,) = plan.make_methods([["atari"]])
    (job,) = plan.make_jobs(tmp_path, ["pong"], [method], [0], 2e6)
    write(tmp_path, "atari_pong", "dreamerv2", 0, [(100, 1)])
    with pytest.raises(UsageError, match="eval_every 250000 instead of 25000"):
        plan.refuse_other_settings([job])


# Processes. A stand-in for train.py, quicker to start, does what its seed says.

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(x[2:].split("=", 1) for x in sys.argv[1:] if "=" in x)
folder, seed = Path(flags["logdir"]), flags["seed"]
def stop(*args):
    (folder / "saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / "pid").write_text(str(os.getpid()))
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
if seed == "13":
    print("the reason")
    sys.exit(3)
if seed == "9":
    os.kill(os.getpid(), signal.SIGKILL)
while seed == "8":
    time.sleep(0.01)
frames = 4 * int(flags["steps"])
with (folder / "metrics.jsonl").open("a") as file:
    file.write(json.dumps({"step": frames, "eval_return": 1.0}) + "\\n")
"""


@pytest.fixture
def stand_in(tmp_path):
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return (sys.executable, "-S", str(path))


def make(out, *seeds):
    return plan.make_jobs(out, ["pong"], plan.make_methods([["atari"]]), seeds, 4000)


def train(made, stand_in, said):
    with StopSignals() as stop:
        return jobs.train(runs(made, stand_in), 2, stop, said.append)


def runs(made, stand_in):
    return [jobs.Run(job, {"command": "x"}, command=stand_in) for job in made]


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_that_fails_is_named_with_its_last_words_and_the_others_go_on(
    tmp_path, stand_in
):
    said = []
    made = make(tmp_path, 13, 9, 1)
    failed = train(made, stand_in, said)
    assert {job.seed for job in failed} == {"13", "9"}
    assert read_state(made[2].folder).has(4000)
    words = next(x for x in said if "/13: failed" in x)
    assert "failed with exit code 3" in words and words.endswith("    the reason")
    assert any("/9: was killed by SIGKILL" in x for x in said)
    assert read_state(made[0].folder).word(4000) == "failed"


def test_what_is_done_is_not_run_again(tmp_path, stand_in):
    made, said = make(tmp_path, 1), []
    assert train(made, stand_in, said) == [] and len(said) == 2
    (made[0].folder / "pid").unlink()
    assert train(made, stand_in, said) == [] and len(said) == 2
    assert not (made[0].folder / "pid").exists()
    (session,) = read_state(made[0].folder).sessions
    assert (session["command"], session["exit_code"]) == ("x", 0)
    assert session["frames"] == 4000 and session["seconds"] > 0


def test_a_run_that_another_process_trains_is_waited_for(tmp_path, stand_in):
    (job,) = make(tmp_path, 1)
    job.folder.mkdir(parents=True)
    said = []
    with locked(job.folder) as lock:
        assert lock is not None and is_running(job.folder)
        assert read_state(job.folder).word(4000) == "running"

        def say(sentence):
            said.append(sentence)
            if "waiting" in sentence:
                raise InterruptedError

        with StopSignals() as stop, pytest.raises(InterruptedError):
            jobs.train(runs([job], stand_in), 1, stop, say)
    assert said == [f"{job.name}: waiting for the process that trains it."]
    assert not is_running(job.folder)
    train([job], stand_in, [])
    assert read_state(job.folder).has(4000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_its_runs_are_asked_to_save(tmp_path, stand_in, number):
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a child that its parent was killed")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from dreamerv2.running.signals import Stopped, StopSignals\n"
        "from replication import jobs, plan\n"
        "methods = plan.make_methods([['atari']])\n"
        "made = plan.make_jobs(Path(sys.argv[1]), ['pong'], methods, [8], 4000)\n"
        "try:\n"
        "    with StopSignals() as stop:\n"
        "        runs = [jobs.Run(job, {}, command=sys.argv[2:]) for job in made]\n"
        "        jobs.train(runs, 1, stop)\n"
        "except Stopped as stopped:\n"
        "    sys.exit(stopped.code)\n"
    )
    (job,) = make(tmp_path / "out", 8)
    process = subprocess.Popen(
        [sys.executable, program, tmp_path / "out", *stand_in],
        env={**environment(), "PYTHONPATH": str(SCRIPT.parent)},
        stdout=subprocess.DEVNULL,
    )
    started = job.folder / "threads"
    wait_for(lambda: started.exists() or process.poll() is not None)
    assert is_running(job.folder)
    process.send_signal(number)
    code = process.wait(PATIENCE)
    assert code == (-9 if number == signal.SIGKILL else 128 + number)
    wait_for(lambda: not is_running(job.folder))
    assert (job.folder / "saved").exists()
    assert read_state(job.folder).word(4000) == "stopped"


def test_fewer_runs_at_once_where_there_are_few_cores():
    assert jobs.runs_at_once(cuda=True, cores=16, runs=12) == 4
    assert jobs.runs_at_once(cuda=True, cores=4, runs=12) == 2
    assert jobs.runs_at_once(cuda=True, cores=16, runs=1) == 1
    assert jobs.runs_at_once(cuda=False, cores=16, runs=12) == 8
    assert jobs.runs_at_once(cuda=False, cores=1, runs=12) == 1


# All of it


def test_a_real_run_goes_on_after_sigkill_and_is_evaluated(script, tmp_path, capsys):
    out = tmp_path / "out"
    argv = ["--out", str(out), *REAL, *REAL_FLAGS, "--save_every", "0"]
    argv[argv.index("160")] = "2000"
    folder = out / "atari_pong" / "dreamerv2" / "1"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *argv], env=environment(), stdout=subprocess.DEVNULL
    )
    wait_for(lambda: (folder / "variables.pt").exists() or process.poll() is not None)
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(folder))
    step = checkpoint(folder)["step"]["value"]
    assert 0 < step < 500
    frames = str(4 * (step + 10))
    argv[argv.index("2000")] = frames

    assert script.main(["--out", str(out), "--list"]) == 0
    assert "0 done, 0 running, 0 queued, 1 stopped, 0 failed" in capsys.readouterr().out
    assert script.main(argv) == 0
    assert f"Resumed at step {step}." in (folder / "output.txt").read_text()
    data = json.loads((out / "replication.json").read_text())
    (run,) = data["runs"]
    assert (run["state"], run["of_frames"]) == ("done", int(frames))
    assert run["frames_per_update"] == 8
    assert [session["exit_code"] for session in run["sessions"]] == [None, 0]
    assert len(data["commands"]) == 2 and "--frames" in data["commands"][0]
    assert data["versions"][0]["torch"] and "CPU cores" in data["hardware"][0]
    assert data["hours"] > 0 and data["seeds"] == ["1"]
    capsys.readouterr()
    assert script.main(argv) == 0  # Nothing is left.
    assert "Runs: 1, of which 1 done." in capsys.readouterr().out
    assert script.main(["--out", str(out), "--list"]) == 0
    assert "1 done, 0 running, 0 queued, 0 stopped" in capsys.readouterr().out
