"""Stills of the model's dreams in DIR/report."""

import numpy as np
import pytest
from agent_tools import make_batch
from PIL import Image
from run_tools import TINY, ok, train_here

from dreamerv2.common.errors import UsageError
from dreamerv2.common.outputs.stills import (
    chosen_times,
    save_stills,
    series_plot,
    set_apart,
    vector_plot,
    video_still,
)


def test_times_begin_with_what_was_seen_and_end_with_the_dream():
    assert chosen_times(50) == [0, 4, 5, 11, 18, 24, 30, 36, 43, 49]
    assert chosen_times(6) == [0, 4, 5]
    assert chosen_times(2) == [0, 1]
    assert len(chosen_times(1000)) == 10


def test_a_still_shows_the_frames_of_each_sequence_along_time():
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (20, 3 * 8, 4 * 16, 1), np.uint8)  # 4 of 16 x 8.
    still = video_still(video, count=4, rows=2)
    times = chosen_times(20)
    assert still.shape == (14 + 2 * 26, len(times) * 18 - 2, 3)
    for column, time in enumerate(times):
        for row in range(2):
            top, left = 14 + row * 26, column * 18
            shown = still[top : top + 24, left : left + 16]
            frame = video[time, :, row * 16 : (row + 1) * 16]
            np.testing.assert_array_equal(shown, np.repeat(frame, 3, -1))
    seen, dreamt = still[10, 15], still[10, 18 * 2 + 15]
    assert seen[2] > seen[0]  # Blue,
    assert dreamt[0] > dreamt[2]  # and orange.


def test_lines_set_the_sequences_of_a_video_apart_and_leave_all_else():
    video = np.random.default_rng(0).random((5, 3 * 8, 4 * 16, 1)) / 2
    (apart,) = set_apart({"x": video}, count=4).values()
    white = apart == 1
    rows, columns = (7, 8, 15, 16), (15, 16, 31, 32, 47, 48)
    assert white[:, rows].all() and white[:, :, columns].all()
    rest = np.ones(video.shape, bool)
    rest[:, rows] = rest[:, :, columns] = False
    assert (apart[rest] == video[rest]).all()


def test_a_plot_of_vectors_changes_with_truth_and_with_prediction():
    truth, model = np.zeros((4, 10, 2)), np.ones((4, 10, 2))
    plots = [vector_plot("x", *pair) for pair in [(truth, truth), (truth, model)]]
    assert plots[0].shape == plots[1].shape
    assert plots[0].dtype == np.uint8
    assert (plots[0] != plots[1]).any()
    many = vector_plot("x", np.zeros((1, 4, 50)), np.zeros((1, 4, 50)))
    assert many.shape[0] == pytest.approx((12 * 1.1 + 0.9) * 80, abs=1)


def test_a_plot_of_steps_since_the_reset_changes_with_what_was_measured():
    steps = np.array([1, 5, 30, 200])
    plots = [series_plot(steps, {"kl": x, "b": steps}) for x in (steps, steps[::-1])]
    assert plots[0].shape == plots[1].shape and (plots[0] != plots[1]).any()


def test_files_are_named_by_observation_and_step(tmp_path):
    video, vector = np.zeros((6, 12, 8, 3)), np.zeros((2, 6, 1))
    folder = tmp_path / "report"
    videos, vectors = {"openl_image": video}, {"speed": (vector, vector)}
    paths = save_stills(folder, 400, videos, vectors, count=2)
    assert [path.name for path in paths] == [
        "openl_image_0000000400.png",
        "openl_speed_0000000400.png",
    ]
    assert all(Image.open(path).format == "PNG" for path in paths)
    series = np.array([1, 2, 40]), {"kl": np.ones(3)}
    (path,) = save_stills(folder, 400, {}, {}, 2, series)
    assert path.name == "since_reset_0000000400.png"
    assert save_stills(folder, 400, {}, {}, 2, (np.zeros(0), {})) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="Cannot write .*report"):
        save_stills(tmp_path / "file" / "report", 1, videos, {}, count=2)


def test_a_run_leaves_stills_at_each_evaluation(tmp_path):
    flags = ["--task", "toy_reach", "--steps", "35", "--eval_every", "1000"]
    more = ["--log_histograms", "True", "--logger", "none"]
    ok(train_here("--configs", "debug", *TINY, *flags, *more, "--logdir", tmp_path))
    names = {path.name.rpartition("_")[0] for path in (tmp_path / "report").iterdir()}
    assert names == {"openl_image", "openl_position", "openl_target", "since_reset"}
    steps = {path.stem.rpartition("_")[2] for path in (tmp_path / "report").iterdir()}
    assert len(steps) == 2  # At the start and at the end.
    assert not list(tmp_path.glob("events*"))


def test_vectors_are_reported_as_they_were(tmp_path):
    from agent_tools import make_agent

    data = make_batch(length=8)
    agent = make_agent()
    report = agent.report_vectors(data)
    assert set(report) == set(agent.wm.decoder.mlp_keys)
    truth, model = report["vector"]
    np.testing.assert_allclose(truth, data["vector"][:6], rtol=1e-6)
    assert model.shape == truth.shape
    assert np.isfinite(model).all()
