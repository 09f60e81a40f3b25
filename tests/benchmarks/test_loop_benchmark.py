"""benchmarks/loop.py measures what it says."""

import json
import statistics
from pathlib import Path

import pytest
from run_tools import CATCH, metrics, ok, script_here, untimed

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "loop.py"


def test_the_figures_of_the_loop_fit_together(tmp_path):
    short = "--seconds", 0.2, "--window", 12, "--skip", 1, "--envs", 2
    flags = [*CATCH, "--action_repeat", 2, "--envs_parallel", "none"]
    path = tmp_path / "loop.json"
    kept = "--logdir", tmp_path / "runs", "--json", path
    done = ok(script_here(SCRIPT, *short, *kept, *flags))
    report = json.loads(path.read_text())
    assert [run["mode"] for run in report["runs"]] == ["sync", "async"]
    for run in report["runs"]:
        logdir = tmp_path / "runs" / f"{run['mode']}_2"
        lines = [line for line in metrics(logdir) if "fps" in line]
        steps = [line["step"] // 2 for line in lines]
        assert steps == [steps[0] + 12 * k for k in range(len(steps))]
        lines = lines[2:]
        assert run["windows"] == len(lines) >= 3
        rates = [line["fps"] for line in lines]
        assert run["frames_per_second_median"] == statistics.median(rates)
        assert run["frames_per_second_min"] == min(rates)
        seconds = [2 * 12 / rate for rate in rates]
        assert run["seconds_measured"] == pytest.approx(sum(seconds)) and sum(seconds)
        # An update every other step, at two frames each.
        updates = run["frames_per_second_median"] / 4
        assert run["updates_per_second"] == pytest.approx(updates)
        parts = "env", "policy", "data", "update"
        for part in parts:
            shares = [line[f"time_{part}"] for line in lines]
            assert run[f"share_{part}"] == statistics.median(shares)
        assert 0 < run["share_other"] < 1
        rate = f"{run['frames_per_second_median']:.1f}"
        (row,) = (x for x in done.out.splitlines() if f" {run['mode']} " in x)
        assert row.split()[:3] == ["2", run["mode"], rate]
        assert not any("eval_return" in line for line in metrics(logdir))
    # The modes differ in what acts, so that they were two.
    sync, other = (
        untimed(tmp_path / "runs" / f"{mode}_2") for mode in ("sync", "async")
    )
    assert sync[: len(other)] != other[: len(sync)]


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--stepz", 3], "Unknown flag '--stepz'; did you mean --steps?"),
        (["--imag_horizon", 1], "--imag_horizon is 1; it must be 2 or more."),
    ],
)
def test_what_train_would_refuse_gets_a_sentence(flags, sentence):
    done = script_here(SCRIPT, *flags)
    assert (done.code, done.err) == (2, f"loop.py: {sentence}\n")
