"""The benchmark of exploration counts what was reached, and says who reached more."""

import json
from pathlib import Path

import numpy as np
import pytest
from run_tools import episodes, run_script

pytest.importorskip("minigrid")
import gymnasium  # noqa: E402

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "explore.py"
SMALL = [
    r"--(rssm\.hidden|rssm\.deter|.*\.units)",
    *("8", "--imag_horizon", "2", "--dataset.batch", "2", "--pretrain", "1"),
    *("--disag_models", "2", "--train_every", "48"),
]


def explore(*flags):
    """Runs the benchmark in a process of its own. Returns exit code and output."""
    done = run_script(SCRIPT, *flags)
    return done.code, done.out + done.err


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(exit code, output, report, logdir) of two short runs."""
    logdir = tmp_path_factory.mktemp("explore")
    results = logdir / "results.json"
    code, output = explore(
        *("--behaviors", "Random", "Plan2Explore", "--seeds", 1, "--steps", 1440),
        *("--jobs", 2, "--json", results, "--logdir", logdir, *SMALL),
    )
    assert results.exists(), output
    return code, output, json.loads(results.read_text()), logdir


def states_of_episodes(logdir, task, layout):
    """The distinct states in which the episodes' actions lead through the layout."""
    env = gymnasium.make(task, disable_env_checker=True)
    actions = env.unwrapped.actions
    actions = [actions.left, actions.right, actions.forward, actions.toggle]
    states, steps = set(), 0
    for episode in episodes(logdir / "train_episodes"):
        env.reset(seed=layout)
        for t, action in enumerate(episode["action"]):
            if t:
                env.step(actions[int(np.argmax(action))])
                steps += 1
            world = env.unwrapped
            cells = world.grid.encode().tobytes()
            position = tuple(map(int, world.agent_pos))
            states.add((position, int(world.agent_dir), cells))
    return states, steps


@pytest.mark.parametrize("behavior", ["Random", "Plan2Explore"])
def test_every_state_that_a_run_was_in_is_counted_once(ran, behavior):
    _, _, report, logdir = ran
    (run,) = (run for run in report["runs"] if run["behavior"] == behavior)
    # No episode finds the goal, so all are 120 steps long, and none is unfinished.
    folder = logdir / behavior / "1"
    states, steps = states_of_episodes(folder, report["task"], report["layout"])
    assert steps == run["environment_steps"] == 1440
    assert len(states) == run["distinct_states"] > 20
    positions = len({state[0] for state in states})
    assert positions == run["distinct_positions"]
    assert [point[0] for point in run["curve"]] == [500, 1000]
    assert run["curve"][1][1] <= run["distinct_states"]
    assert run["goals"] == 0


def test_the_states_within_reach_are_those_of_48_fields_and_five_doors(ran):
    # In four directions, with each of five doors open or shut, 42 fields of floor; the
    # five doors themselves, which must be open; the goal, reached in two directions.
    within = ran[2]["within_reach"]
    assert 42 * 4 * 32 + 5 * 4 * 16 + 2 * 32 == 5760
    assert within == {"distinct_states": 5760, "distinct_positions": 48}


def test_the_table_and_the_exit_code_say_who_reached_more(ran):
    code, output, report, _ = ran
    counts = {run["behavior"]: run["distinct_states"] for run in report["runs"]}
    assert code == (0 if counts["Plan2Explore"] > counts["Random"] else 1)
    for name, count in counts.items():
        (row,) = (row for row in output.splitlines() if row.startswith(f"{name:14} "))
        assert row.split()[1:4] == ["1", str(count), f"{count / 5760:.1%}"]


def test_a_flag_that_the_runs_would_refuse_is_told_first():
    code, output = explore("--behaviors", "Random", "--seeds", 1, "--rssm.size", 3)
    assert code == 2
    assert "--rssm.size" in output and "Traceback" not in output
