"""benchmarks/faults.py: its judge sees what is lost, and a few faults lose nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fault_trials import KINDS, ROWS, Loss, Outcome, judge
from fault_trials.folders import Snapshot, fault_of_episode
from fault_trials.report import print_table
from fault_trials.runs import Result, resumed_at
from fault_trials.traps import Trap
from run_tools import environment

from dreamerv2.running.statefile import save_checkpoint

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "faults.py"

# Starts the script with a product that deletes its oldest episode when it goes on.
SABOTAGE = """
import runpy, sys
from dreamerv2.common.episodes.files import EpisodeFiles
scan = EpisodeFiles.scan
def forgetful(self):
    names = scan(self)
    if len(names) > 3:
        (self.directory / names[0]).unlink()
    return scan(self)
EpisodeFiles.scan = forgetful
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def faults(folder, *flags, before=()):
    """Runs the benchmark in a process of its own, which leaves what it leaves in the
    folder. Returns exit code and output."""
    done = subprocess.run(
        [sys.executable, *before, SCRIPT, *map(str, flags)],
        env={**environment(), "TMPDIR": str(folder), "PYTHONPATH": str(SCRIPT.parent)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def name_of(number, folder="train_episodes", steps=4):
    return f"{folder}/20260101T00000000000{number}-{number:032x}-{steps}.npz"


def write_episode(path, steps=4, **changes):
    first, last = np.zeros((2, steps + 1), bool)
    first[0] = last[-1] = True
    reward = np.zeros(steps + 1, np.float32)
    arrays = {"is_first": first, "is_last": last, "reward": reward, **changes}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)


def line_of(step, **values):
    return json.dumps({"step": step, **values}).encode()


def make_run(logdir, step=40, episodes=3):
    """A logdir with a checkpoint, episodes and metrics, all of it made up."""
    for number in range(episodes):
        write_episode(logdir / name_of(number))
    save_checkpoint(logdir / "variables.pt", {"step": {"value": step}})
    lines = [line_of(80 * i, fps=1.0) for i in range(1, step // 20 + 1)]
    counts = {"train_total_episodes": episodes, "train_total_steps": 4 * episodes}
    lines.append(line_of(4 * step, **counts))
    (logdir / "metrics.jsonl").write_bytes(b"\n".join([*lines, b""]))
    return Snapshot.of(logdir)


def append(logdir, *lines):
    with (logdir / "metrics.jsonl").open("ab") as file:
        file.writelines(line + b"\n" for line in lines)
    return Snapshot.of(logdir)


def kinds(losses):
    return [loss.kind for loss in losses]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def test_a_run_that_lost_nothing_is_found_to_have_lost_nothing(run):
    before = make_run(run)
    write_episode(run / name_of(3))
    after = append(run, line_of(240, fps=1.0))
    out = "Resumed at step 40.\nTrain: 40/100000000 (0%)"
    assert judge.judge_seen(before.episodes, after, 40) == []
    assert judge.judge_episodes(before, after, run) == []
    assert judge.judge_metrics(before.metrics, after, 160) == []
    save_checkpoint(run / "variables.pt", {"step": {"value": 60}})
    assert judge.judge_steps(before, Snapshot.of(run), out, 40) == []
    assert (before.step, before.frames, before.training()) == (40, 160, (3, 12))


def test_an_episode_that_is_gone_is_a_loss_and_one_with_other_bytes_too(run):
    before = make_run(run)
    (run / name_of(0)).unlink()
    write_episode(run / name_of(1), reward=np.ones(5, np.float32))
    after = Snapshot.of(run)
    assert judge.judge_episodes(before, after, run) == [
        Loss("episodes", f"{name_of(0)} is gone"),
        Loss("silent", f"{name_of(1)} has other bytes"),
    ]
    assert kinds(judge.judge_seen(before.episodes, after, 40)) == ["episodes"]
    assert kinds(judge.judge_counted(before)) == []
    assert judge.judge_counted(after) == [
        Loss("episodes", "counts 3 episodes of 12 steps, but there are 2 of 8")
    ]


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({}, ""),
        ({"reward": np.array([0, 0, np.nan, 0, 0], np.float32)}, "has a reward that"),
        ({"is_first": np.array([1, 0, 1, 0, 0], bool)}, "is joined from two episodes"),
        ({"is_last": np.zeros(5, bool)}, "is not one whole episode"),
        ({"action": np.zeros((4, 2), np.float32)}, "has another length"),
    ],
)
def test_a_new_episode_must_be_one_whole_episode_of_finite_numbers(run, changes, fault):
    path = run / name_of(1)
    write_episode(path, **changes)
    assert fault_of_episode(path)[: len(fault)] == fault
    assert bool(fault_of_episode(path)) == bool(fault)
    path.write_bytes(path.read_bytes()[:-9])
    assert fault_of_episode(path) == "cannot be read"


def test_a_checkpoint_that_is_gone_damaged_or_older_is_a_loss(run):
    make_run(run, step=40)
    assert judge.judge_seen([], Snapshot.of(run), 40) == []
    assert kinds(judge.judge_seen([], Snapshot.of(run), 60)) == ["checkpoints"]
    content = (run / "variables.pt").read_bytes()
    (run / "variables.pt").write_bytes(content[: len(content) // 2])
    (loss,) = judge.judge_seen([], Snapshot.of(run), 40)
    assert loss.kind == "checkpoints" and "cut short" in loss.text
    (run / "variables.pt").unlink()
    assert kinds(judge.judge_seen([], Snapshot.of(run), 40)) == ["checkpoints"]


def test_a_count_that_goes_back_or_jumps_is_a_loss_of_so_many_steps(run):
    before = make_run(run)
    for out, lost in (("Resumed at step 30.", 10), ("Resumed at step 47.", 7)):
        assert [x.count for x in judge.judge_steps(before, before, out, 40)] == [lost]
    out = "Resumed at step 40.\nPretrain: 0/1"
    (loss,) = judge.judge_steps(before, before, out, 40)
    assert "second prefill" in loss.text
    assert kinds(judge.judge_steps(before, before, "Prefill: 0/60", 40)) == [
        "steps",
        "steps",
    ]
    assert judge.judge_steps(before, before, "Prefill: 12/60 (20%)", None) == []
    assert kinds(judge.judge_steps(before, before, "Prefill: 8/60", None)) == ["steps"]
    assert resumed_at("Resumed at step 1,040.\n") == 1040


def test_lines_of_metrics_missing_repeated_or_changed_are_a_loss(run):
    before = make_run(run)
    lines = before.metrics

    def lost(*now):
        after = Snapshot(before.files, list(now), before.step)
        return kinds(judge.judge_metrics(lines, after, 160))

    assert lost(*lines, line_of(240, fps=1.0)) == []
    assert lost(*lines[1:]) == ["metrics"]  # One is gone.
    assert lost(lines[1], lines[0], *lines[2:]) == ["metrics"]  # The order changed.
    assert lost(lines[0].replace(b"1.0", b"2.0"), *lines[1:]) == ["metrics"]
    assert lost(*lines, line_of(160, train_total_steps=12)) == ["metrics"]  # Twice.
    assert lost(*lines, line_of(320, fps=1.0)) == ["metrics"]  # One was left out.
    assert lost(*lines, b'{"step": 2') == ["metrics"]
    assert lost(*lines, line_of(300, a=1), line_of(280, a=1)) == ["metrics"]
    # Later lines than the checkpoint's are made again.
    assert lost(*lines) == []
    later = [*lines, line_of(170, a=1)]
    after = Snapshot(before.files, lines, before.step)
    assert judge.judge_metrics(later, after, 160) == []


def test_a_training_episode_without_its_line_is_a_loss_unless_it_was_played_again(run):
    make_run(run, episodes=2)
    after = append(run, line_of(200, train_return=1.0))
    (loss,) = judge.judge_returns(after, "Resumed at step 40.")
    assert (loss.kind, loss.count) == ("metrics", 1)
    assert judge.judge_returns(after, "Holding back 1 ...\nResumed at step 40.") == []
    after = append(run, line_of(240, train_return=1.0))
    assert judge.judge_returns(after, "Resumed at step 40.") == []


@pytest.mark.parametrize(
    "text, good",
    [
        ("dreamerv2-train: Cannot write run/x.npz (No space left): make room.\n", True),
        ("dreamerv2-train: The run is here. Use another one.\n", False),
        ("dreamerv2-train: no end\n", False),
        ("Traceback (most recent call last):\n  File\nValueError: x.\n", False),
        ("", False),
    ],
)
def test_a_message_must_be_one_sentence(text, good):
    losses = judge.judge_refusal(Result(2, "", text))
    assert kinds(losses) == [] if good else ["messages"]
    assert kinds(judge.judge_refusal(Result(1, "", text)))[-1] == "runs"


def test_what_is_not_named_or_changed_by_a_refusal_is_silent(run):
    assert kinds(judge.judge_named("Set aside 1 file, a.npz.\n", "b.npz")) == ["silent"]
    assert judge.judge_named("Set aside 1 file, a.npz.\n", "a.npz") == []
    before = make_run(run)
    (run / ".lock").touch()
    assert judge.judge_unchanged(before, Snapshot.of(run)) == []
    append(run, b"{}")
    assert kinds(judge.judge_unchanged(before, Snapshot.of(run))) == ["silent"]


def test_the_table_counts_losses_by_kind_and_says_what_was_skipped(capsys):
    outcomes = [
        Outcome("kill", 0, "", [], 1.0),
        Outcome("kill", 1, "", [Loss("episodes", "x"), Loss("steps", "y", 7)], 1.0),
        Outcome("disk-full", 0, "", [], 1.0, skipped="there is no disk"),
    ]
    assert print_table(outcomes) == 8
    rows = {
        line[:32].strip(): line[32:] for line in capsys.readouterr().out.split("\n")
    }
    assert list(KINDS)[:2] == ["episodes", "steps"]
    assert rows[ROWS["kill"].title].split() == ["2", "1", "7", "0", "0", "0", "0", "0"]
    assert rows["all"].split()[:3] == ["2", "1", "7"]
    assert "skipped: there is no disk" in rows[ROWS["disk-full"].title]


def test_a_trap_springs_in_the_middle_of_the_file_that_it_waits_for(tmp_path):
    code = (
        "import os; from pathlib import Path\n"
        "from fault_trials.traps import Trap\n"
        "Trap('b$', 'write', number=2, after=70).set()\n"
        "for name in ('b', 'a', 'sub/b'):\n"
        "    Path(name).parent.mkdir(exist_ok=True)\n"
        "    with Path(name).open('wb') as file:\n"
        "        file.write(bytes(50)); file.flush(); file.write(bytes(50))\n"
    )
    path = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=path)
    assert done.returncode == -9
    sizes = [(tmp_path / name).stat().st_size for name in ("b", "a", "sub/b")]
    assert sizes == [100, 100, 70]
    assert Trap("b", "fsync").marker is None


def test_a_sample_of_faults_loses_nothing(tmp_path):
    report = tmp_path / "faults.json"
    rows = ["kill-checkpoint:0", "config:1", "episode:1"]
    code, output = faults(tmp_path, "--rows", *rows, "--json", report)
    assert code == 0, output
    trials = json.loads(report.read_text())["trials"]
    assert [f"{x['row']}:{x['number']}" for x in trials] == rows
    assert all(trial["losses"] == [] for trial in trials)
    assert list(tmp_path.iterdir()) == [report]


def test_a_run_that_forgets_an_episode_fails_the_benchmark(tmp_path):
    flags = ["--rows", "kill-episode:0"]
    code, output = faults(tmp_path, *flags, before=["-c", SABOTAGE])
    assert code == 1, output
    assert "LOST" in output and ".npz is gone" in output
