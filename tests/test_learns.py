"""The agent learns: a shorter run of benchmarks/learns.py."""

import json
import subprocess
import sys
from pathlib import Path

from run_tools import environment

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "learns.py"


def learns(*flags):
    """Runs the benchmark in a process of its own. Returns exit code and output."""
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, flags)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_dreams_teach_to_reach_a_target_most_of_the_way_to_the_best_return(tmp_path):
    results = tmp_path / "results.json"
    code, output = learns(
        *("--tasks", "toy_reach", "--seeds", 1, "--share", 0.6, "--minutes", 8),
        *("--json", results, "--logdir", tmp_path),
    )
    assert code == 0, output
    (run,) = json.loads(results.read_text())["runs"]
    assert run["passed"] and run["share_of_the_way"] >= 0.6
    # The scale that the share is measured by: random is poor, the oracle good.
    assert run["random_return"] < 0 and run["best_return"] > 20


def test_a_run_that_does_not_get_there_fails_the_benchmark(tmp_path):
    code, output = learns(
        *("--tasks", "toy_catch", "--seeds", 1, "--minutes", 0.1),
        *("--logdir", tmp_path),
    )
    assert code == 1
    assert "FAILED" in output
