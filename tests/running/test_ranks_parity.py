"""Two processes on halves of each batch learn what one learns on the whole.

Both draw the same noise, by name, in the configurations of the recorded agents and in
one more. Gradients meet by gloo.
"""

import json

import pytest
import rank_worker
from run_tools import ranks_of, train


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """{configuration: {way of reducing: how far parameters are apart}}."""
    path = tmp_path_factory.mktemp("ranks") / "errors.json"
    result = train(path, command=ranks_of(rank_worker.__file__))
    assert result.code == 0, result.err
    return json.loads(path.read_text())


@pytest.mark.parametrize("case", rank_worker.CASES)
def test_two_halves_of_a_batch_are_one_batch(errors, case):
    assert errors[case]["right"] < 1e-9
    assert errors[case]["same"]  # The two agree with each other to the last bit.


@pytest.mark.parametrize("case", rank_worker.CASES)
@pytest.mark.parametrize("wrong", ["clipped first", "own means"])
def test_another_order_or_means_of_one_rank_would_be_seen(errors, case, wrong):
    assert errors[case][wrong] > 1e-6
