"""benchmarks/scaling.py shows how the time of an update grows with a size."""

import json
import os
from pathlib import Path

import pytest
from run_tools import CATCH, ok, run_script, script_here

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scaling.py"


def test_points_are_compared_and_those_too_big_for_the_memory_skipped(tmp_path):
    few = "--updates", 1, "--warmup", 1, "--json", tmp_path / "found.json"
    values = 1024, 8, 10**7  # Of the last one, a matrix has 10**14 numbers and more.
    vary = "--vary", "deter", "--values", *values
    out = ok(run_script(SCRIPT, *vary, *few, *CATCH)).out
    found = json.loads((tmp_path / "found.json").read_text())
    big, small = found["rows"]
    assert [row["deter"] for row in (big, small)] == [1024, 8]
    assert big["flops_ratio"] == big["seconds_median_ratio"] == 1
    assert small["value_ratio"] == 1 / 128
    assert small["flops_ratio"] == small["flops"] / big["flops"] < 0.5
    ratio = small["seconds_median"] / big["seconds_median"]
    assert small["seconds_median_ratio"] == pytest.approx(ratio)
    assert 0 < big["fraction_of_peak"] < 1
    # Each has its own peak, though the larger one came first: 3 million parameters,
    # their gradients and moments take 50 MB.
    if os.access("/proc/self/clear_refs", os.W_OK):
        assert big["peak_memory_bytes"] > small["peak_memory_bytes"] + 25e6
    (skipped,) = found["skipped"]
    assert skipped["value"] == 10**7
    table = out.partition("deter (batch 2, length 6, horizon 3)")[2].splitlines()
    assert [line.split()[0] for line in table[2:]] == ["1,024", "8", "10,000,000"]
    assert "skipped for want of memory: it could not get " in table[-1]


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--vary", "length", "--values", 1], "--dataset.length is 1; it must be 2"),
        (["--values", 4], "--values are those of one size: name it by --vary."),
    ],
)
def test_what_cannot_be_measured_gets_a_sentence(flags, sentence):
    done = script_here(SCRIPT, *flags)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"scaling.py: {sentence}")
