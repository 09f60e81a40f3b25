"""benchmarks/train_step.py measures what it says."""

import json
from pathlib import Path

import pytest
from run_tools import CATCH, load_script, ok, script_here

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_step.py"


def measured(path, *flags):
    few = "--updates", 2, "--warmup", 1
    done = ok(script_here(SCRIPT, *CATCH, *few, "--json", path, *flags))
    return json.loads(path.read_text()), done.out


def test_the_figures_of_an_update_fit_together(tmp_path, monkeypatch):
    monkeypatch.setitem(load_script(SCRIPT).SIZES, "cpu", (768,))
    found, printed = measured(tmp_path / "a.json", "--table", 3, "--dataset.batch", 4)
    assert 0 < found["seconds_min"] <= found["seconds_median"] <= found["seconds_max"]
    rate = found["flops"] / found["seconds_median"] / 1e9
    assert found["gflops_per_second"] == pytest.approx(rate)
    share = rate / found["peak_gflops_per_second"]
    assert found["fraction_of_peak"] == pytest.approx(share)
    assert 0 < share < 1
    assert found["peak_memory_bytes"] > 1e7
    assert (found["device"], found["compute_dtype"]) == ("cpu", "float32")
    costs = found["costs"]
    assert len(costs) == 3 and costs[0]["share"] >= costs[1]["share"] > 0
    assert costs[0]["operation"] in printed
    # Twice the sequences are twice the products. (Fewer than 16 imagined states would
    # not take rows of weights.)
    more, _ = measured(tmp_path / "b.json", "--dataset.batch", 8)
    assert more["flops"] == 2 * found["flops"]


def test_a_wrong_flag_gets_a_sentence():
    done = script_here(SCRIPT, "--stepz", 3)
    assert done.code == 2
    assert done.err == "train_step.py: Unknown flag '--stepz'; did you mean --steps?\n"
