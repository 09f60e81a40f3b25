"""Published figures: there, with their sources, and what is computed from them."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dreamerv2.common.errors import UsageError
from dreamerv2.common.plots import scores

ROOT = Path(__file__).parents[2]
FILES = [
    "baselines.csv",
    "dreamerv2.csv",
    "reference_cartpole_runs.csv",
    "reference_small_tasks.csv",
]


@pytest.mark.parametrize("name", FILES)
def test_every_file_states_its_source_and_is_explained(name):
    head = [x for x in (ROOT / "scores" / name).read_text().splitlines() if x[0] == "#"]
    assert any(line.startswith("# Source: ") for line in head)
    assert f"`{name}`" in (ROOT / "scores" / "README.md").read_text()


def test_no_file_goes_unnamed():
    assert {path.name for path in (ROOT / "scores").iterdir()} == {*FILES, "README.md"}


def test_baselines_are_those_published():
    baselines = scores.load_baselines()
    assert baselines["atari_pong"] == {
        "random": -20.7,
        "human_gamer": 14.6,
        "human_record": 21.0,
        "rainbow_sticky_2e8": 20.18,
        "iqn_sticky_2e8": 20.13,
        "c51_sticky_2e8": 19.34,
        "dqn_sticky_2e8": 16.61,
    }
    assert "human_gamer" not in baselines["atari_air_raid"]
    assert len(baselines) == 62
    assert all(math.isfinite(x) for task in baselines.values() for x in task.values())


def test_published_curves_are_sorted_and_within_their_extremes():
    published = scores.load_published()
    atari = [task for task in published if task.startswith("atari_")]
    control = [task for task in published if task.startswith("dmc_")]
    assert (len(atari), len(control), len(published)) == (55, 20, 75)
    for task in published:
        curve = published[task]["dreamerv2"]
        assert set(curve) == {"x", "seeds", "mean", "std", "min", "max"}
        assert (np.diff(curve["x"]) > 0).all()
        assert (curve["min"] <= curve["mean"]).all()
        assert (curve["mean"] <= curve["max"]).all()
        assert 3 <= min(curve["seeds"]) <= max(curve["seeds"]) <= 11
    alien = published["atari_alien"]["dreamerv2"]
    assert (alien["x"][0], alien["mean"][0], alien["std"][0]) == (1e6, 365.18, 52.0)


def test_the_paper_aggregates_follow_from_the_published_curves():
    baselines, published = scores.load_baselines(), scores.load_published()
    tasks = [task for task in published if task.startswith("atari_")]

    def figure(stat):
        final = [
            scores.normalize(
                published[task]["dreamerv2"]["mean"][-1],
                baselines[task],
                scores.SCALES[stat],
            )
            for task in tasks
        ]
        return float(scores.reduce_tasks(np.array(final), stat))

    # The paper's table at 200M frames: 2.15, 42.26, 0.44, 0.28; this is at 199M.
    assert figure("gamer_median") == pytest.approx(2.235, abs=1e-3)
    assert figure("gamer_mean") == pytest.approx(41.70, abs=1e-2)
    assert figure("record_mean") == pytest.approx(0.4406, abs=1e-4)
    assert figure("clip_record_mean") == pytest.approx(0.2834, abs=1e-4)


def test_reference_episodes_are_smoothed_over_ten():
    curves = scores.load_reference_episodes()
    assert set(curves) == {"gym_CartPole-v1", "gym_Pendulum-v1"}
    curve = curves["gym_CartPole-v1"]["reference"]
    assert len(curve["x"]) == len(curve["mean"]) == 177 - 9
    assert curve["mean"].max() <= 500


def test_scores_are_scaled_between_random_play_and_the_unit():
    baselines = {"random": 10.0, "human_gamer": 30.0, "human_record": 5.0}
    assert scores.normalize(10.0, baselines, "human_gamer") == 0
    assert scores.normalize(25.0, baselines, "human_gamer") == 0.75
    assert scores.normalize(25.0, baselines, "human_record") is None  # Below random.
    assert scores.normalize(25.0, {"random": 1.0}, "human_gamer") is None
    values = scores.normalize(np.array([0.0, 50.0]), baselines, "human_gamer")
    np.testing.assert_array_equal(values, [-0.5, 2.0])


def test_tasks_are_clipped_one_by_one():
    values = np.array([[0.2, -1.0], [3.0, 0.5], [0.4, 0.5]])  # (tasks, x)
    np.testing.assert_allclose(scores.reduce_tasks(values, "gamer_median"), [0.4, 0.5])
    np.testing.assert_allclose(scores.reduce_tasks(values, "gamer_mean"), [1.2, 0.0])
    clipped = scores.reduce_tasks(values, "clip_record_mean")
    np.testing.assert_allclose(clipped, [1.6 / 3, 0.0])


def test_files_are_found_from_any_working_directory(tmp_path):
    code = (
        "from dreamerv2.common.plots.scores import load_published as f; print(len(f()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "75", result.stderr


def test_files_of_an_installed_package_are_found_by_its_record(tmp_path, monkeypatch):
    folder = tmp_path / "share" / "dreamerv2" / "scores"
    folder.mkdir(parents=True)
    (folder / "extra.csv").write_text("task\n")

    class Installed(type(Path())):
        def locate(self):
            return tmp_path / self

    files = [Installed("x.py"), Installed("share/dreamerv2/scores/extra.csv")]
    monkeypatch.setattr(scores.importlib.metadata, "files", lambda name: files)
    assert scores.scores_file("extra.csv") == folder / "extra.csv"
    with pytest.raises(UsageError, match="other.csv is missing.*--baselines none"):
        scores.scores_file("other.csv")
