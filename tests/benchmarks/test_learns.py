"""The agent learns: a shorter run of benchmarks/learns.py."""

import contextlib
import dataclasses
import json
import re
import signal
import sys
from pathlib import Path

import pytest
from run_tools import Running, load_script, script_here

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "learns.py"


# Half of the benchmark's networks: on one core it gets there within half a minute.
SMALL = (
    "--(reward_head|discount_head|actor|critic).units 64 --rssm.hidden 64"
    " --rssm.deter 64 --rssm.stoch 8 --rssm.discrete 8 --encoder.mlp_layers 64 64"
    " --decoder.mlp_layers 64 64 --imag_horizon 8 --eval_every 500 --logger none"
).split()


@pytest.fixture
def learns(monkeypatch):
    """The benchmark in this process, with a rough scale: a function that takes flags
    and returns exit code and output."""
    monkeypatch.setattr(load_script(SCRIPT), "GOAL_EPISODES", (20, 20))

    def learns(*flags):
        done = script_here(SCRIPT, *flags)
        return done.code, done.out + done.err

    return learns


def test_dreams_teach_to_reach_a_target_most_of_the_way_to_the_best_return(
    learns, monkeypatch, tmp_path
):
    module = load_script(SCRIPT)
    monkeypatch.setattr(module, "GOAL_EPISODES", (200, 20))
    task = module.SUITES["toy"]["toy_reach"]
    small = dataclasses.replace(task, flags=(*task.flags, *SMALL))
    monkeypatch.setitem(module.SUITES["toy"], "toy_reach", small)
    results = tmp_path / "results.json"
    code, output = learns(
        *("--tasks", "toy_reach", "--seeds", 1, "--share", 0.6, "--minutes", 30),
        *("--json", results, "--logdir", tmp_path),
    )
    assert code == 0, output
    (run,) = json.loads(results.read_text())["runs"]
    assert run["passed"] and run["share_of_the_way"] >= 0.6
    # The scale that the share is measured by: random is poor, the oracle good.
    assert run["random_return"] < 0 and run["best_return"] > 20


def test_the_gym_suite_prints_goals_and_a_table_of_steps_and_minutes(learns, tmp_path):
    results = tmp_path / "results.json"
    code, output = learns(
        *("--suite", "gym", "--tasks", "gym_CartPole-v1", "--seeds", 5),
        *("--minutes", 0, "--json", results, "--logdir", tmp_path),
    )
    assert code == 1, output
    assert re.search(r"^gym_CartPole-v1: random \d\d\.\d\d, goal 400$", output, re.M)
    head, row = output.split("\n\n")[1].splitlines()[:2]
    assert head.split() == "task seed random goal return steps minutes".split()
    assert row.split()[:2] == ["gym_CartPole-v1", "5"]
    assert row.split()[3:6] == ["400", "nan", "0"]
    assert row.split()[-1] == "FAILED"
    (run,) = json.loads(results.read_text())["runs"]
    assert run["goal"] == 400 and run["environment_steps"] == 0 and not run["passed"]


def test_the_goals_of_the_reference_suite_are_the_reference_s_last_ten_episodes():
    module = load_script(SCRIPT)
    rows = (ROOT / "scores" / "reference_small_tasks.csv").read_text().splitlines()
    for name, steps in ("gym_CartPole-v1", 20000), ("gym_Pendulum-v1", 16000):
        episodes = [row.split(",") for row in rows if row.startswith(name)]
        last = [float(x[3]) for x in episodes if int(x[2]) <= steps][-10:]
        task = module.SUITES["reference"][name]
        assert task.steps == steps
        assert module.reference_return(name, task) == pytest.approx(sum(last) / 10)


def test_a_benchmark_that_is_told_to_stop_leaves_no_run_behind(tmp_path):
    task = "gym_CartPole-v1"
    flags = ("--suite", "gym", "--tasks", task, "--seeds", 1, 2, "--logdir", tmp_path)
    started = tmp_path / task / "1" / "config.yaml"
    command = (sys.executable, SCRIPT)
    with Running(tmp_path, *flags, command=command) as running:
        running.wait_until(started.exists)
        running.send(signal.SIGTERM)
        result = running.result()
    assert result.code == 128 + signal.SIGTERM
    assert result.err == "Stopped by SIGTERM.\n"
    assert "FAILED" not in result.out
    # The run that was going has ended, and the next one was not begun.
    output = (started.parent / "output.txt").read_text()
    assert "SIGTERM" in output and "Traceback" not in output
    assert not (tmp_path / task / "2").exists()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert str(tmp_path) not in (folder / "cmdline").read_text()


def test_a_task_of_another_suite_is_refused_by_a_sentence(learns):
    code, output = learns("--suite", "gym", "--tasks", "toy_catch")
    assert code == 2
    assert "The suite gym has no task 'toy_catch': expected one of gym_Cart" in output


def test_a_run_at_the_reference_s_settings_that_is_cut_short_does_not_pass(
    learns, tmp_path
):
    folder = tmp_path / "gym_Pendulum-v1" / "1"
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": 200 * i, "train_return": -1 / 8}) for i in range(20)]
    (folder / "metrics.jsonl").write_text("\n".join([*lines, ""]))
    code, output = learns(
        *("--suite", "reference", "--tasks", "gym_Pendulum-v1", "--seeds", 1),
        *("--minutes", 0, "--logdir", tmp_path),
    )
    assert code == 1
    assert "return -1.00 after 3800 steps" in output and "FAILED" in output
