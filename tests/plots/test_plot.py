"""Learning curves: runs are found, read, aggregated and drawn as said."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from dreamerv2.common import plot
from dreamerv2.common.errors import UsageError
from dreamerv2.common.plots import curves, scores
from dreamerv2.common.plots.curves import LoggedRun, make_curve
from dreamerv2.common.plots.figure import choose_colors, draw, format_tick, task_title
from dreamerv2.common.plots.options import parse

TASKS, METHODS, SEEDS = ("atari_breakout", "atari_pong"), ("ours", "theirs"), (0, 1, 2)
BASE = {"atari_breakout": 10.0, "atari_pong": -20.0}


def value(task, method, seed, k):
    """The evaluation return at million k."""
    return BASE[task] + 2 * k + (5 if method == "ours" else 0) + seed


def write(folder, points, y="eval_return", tail=""):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, y: value}) for step, value in points]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" + tail)


@pytest.fixture
def logdir(tmp_path):
    """Two tasks, two methods, three seeds; evaluations twice a million frames."""
    folder = tmp_path / "logdir"
    for task in TASKS:
        for method in METHODS:
            for seed in SEEDS:
                points = []
                for k in range(1, 5):
                    y = value(task, method, seed, k)
                    points += [(k * 1e6 - 5e5, y - 1), (k * 1e6, y + 1)]
                write(folder / task / method / str(seed), points)
    return folder


def run(logdir, *flags):
    """Exit code and curves.json."""
    out = logdir.parent / "plots"
    flags = ["--indir", logdir, "--outdir", out, "--dpi", "50", *flags]
    code = plot.main([str(flag) for flag in flags])
    path = out / logdir.name / "curves.json"

    def refuse(name):
        raise AssertionError(f"{name} is not valid JSON")

    if not path.exists():
        return code, None
    return code, json.loads(path.read_text(), parse_constant=refuse)


def fails(capsys, logdir, *flags):
    """The one sentence that plot ends with."""
    code, data = run(logdir, *flags)
    assert (code, data) == (2, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("plot: ")
    return line


# Two tasks, two methods, three seeds


def test_curves_of_generated_runs_have_the_known_figures(logdir):
    code, data = run(logdir, "--bins", "1e6")
    assert code == 0
    assert list(data["tasks"]) == list(TASKS)
    for task, panel in data["tasks"].items():
        assert list(panel["methods"]) == list(METHODS)
        for method, curve in panel["methods"].items():
            middle = [value(task, method, 1, k) for k in range(1, 5)]
            assert curve["x"] == [1e6, 2e6, 3e6, 4e6]
            np.testing.assert_allclose(curve["mean"], middle)
            np.testing.assert_allclose(curve["middle"], middle)
            np.testing.assert_allclose(curve["std"], 1.0)  # Of 0, 1 and 2; n-1.
            np.testing.assert_allclose(curve["low"], np.subtract(middle, 1))
            np.testing.assert_allclose(curve["min"], np.subtract(middle, 1))
            np.testing.assert_allclose(curve["max"], np.add(middle, 1))
            assert curve["seeds"] == [3, 3, 3, 3]
            assert list(curve["runs"]) == ["0", "1", "2"]
    assert data["tasks"]["atari_pong"]["baselines"] == {
        "random": -20.7,
        "human_gamer": 14.6,
    }
    published = data["tasks"]["atari_pong"]["published"]["dreamerv2"]
    assert (published["x"][0], published["seeds"][0]) == (1e6, 11)


def test_aggregates_of_generated_runs_are_the_known_ones(logdir):
    _, data = run(logdir, "--bins", "1e6")
    assert list(data["stats"]) == [
        "gamer_median",
        "gamer_mean",
        "record_mean",
        "clip_record_mean",
    ]
    # At 4M frames ours has 24 in Breakout (random 1.7, gamer 30.5, record 864) and -6
    # in Pong (-20.7, 14.6, 21).
    gamer = (24 - 1.7) / (30.5 - 1.7), (-6 + 20.7) / (14.6 + 20.7)
    record = (24 - 1.7) / (864 - 1.7), (-6 + 20.7) / (21 + 20.7)
    for stat, known in [
        ("gamer_median", np.median(gamer)),
        ("gamer_mean", np.mean(gamer)),
        ("record_mean", np.mean(record)),
        ("clip_record_mean", np.mean(record)),
    ]:
        curve = data["stats"][stat]["methods"]["ours"]
        assert curve["x"] == [1e6, 2e6, 3e6, 4e6]
        assert curve["y"][-1] == pytest.approx(known)
        assert curve["tasks"] == list(TASKS)
    assert data["stats"]["gamer_mean"]["baselines"] == {"random": 0, "human_gamer": 1}
    published = data["stats"]["gamer_mean"]["published"]["dreamerv2"]
    assert published["tasks"] == list(TASKS)
    of_tasks = [
        scores.normalize(
            scores.load_published()[task]["dreamerv2"]["mean"],
            scores.load_baselines()[task],
            "human_gamer",
        )
        for task in TASKS
    ]
    np.testing.assert_allclose(published["y"], np.mean(of_tasks, 0))


def test_pictures_have_the_size_asked_for_and_are_not_empty(logdir):
    code, _ = run(logdir, "--bins", "1e6", "--size", "2", "2", "--cols", "3")
    assert code == 0
    folder = logdir.parent / "plots" / "logdir"
    image = np.asarray(Image.open(folder / "curves.png").convert("RGB"))
    assert image.shape == (2 * 2 * 50 + 25, 3 * 2 * 50, 3)  # 6 panels, and the legend
    found = {tuple(color) for color in image.reshape(-1, 3)}
    assert {(0x00, 0x22, 0xFF), (0xFF, 0x33, 0x00)} <= found  # Both methods.
    assert (folder / "curves.pdf").read_bytes().startswith(b"%PDF")


# What real folders are like


def test_an_empty_folder_is_a_sentence(tmp_path, capsys):
    (tmp_path / "logdir").mkdir()
    assert "Found no metrics.jsonl" in fails(capsys, tmp_path / "logdir")
    assert "There is no folder" in fails(capsys, tmp_path / "elsewhere")
    write(tmp_path / "logdir" / "a" / "b" / "0", [])
    assert "nothing yet" in fails(capsys, tmp_path / "logdir")


def test_a_cut_last_line_is_left_out_with_a_word(tmp_path, capsys):
    folder = tmp_path / "logdir" / "toy_catch" / "ours" / "0"
    tail = '{"step": 3, "eval_return": null}\n[1]\n{"step": 4, "eval_ret'
    write(folder, [(1, 2.0), (2, 4.0)], tail=tail)
    code, data = run(tmp_path / "logdir", "--bins", "0")
    assert code == 0
    assert data["tasks"]["toy_catch"]["methods"]["ours"]["mean"] == [2.0, 4.0]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Left out 2 lines that are no JSON, in {folder}/metrics.jsonl."


def test_runs_of_unequal_length_say_how_many_are_left(tmp_path):
    for seed, length in [(0, 4), (1, 2)]:
        points = [(k, 10.0 * seed + k) for k in range(1, length + 1)]
        write(tmp_path / "logdir" / "toy_catch" / "ours" / str(seed), points)
    code, data = run(tmp_path / "logdir", "--bins", "1")
    curve = data["tasks"]["toy_catch"]["methods"]["ours"]
    assert code == 0
    assert curve["seeds"] == [2, 2, 1, 1]
    assert curve["mean"] == [6.0, 7.0, 3.0, 4.0]
    assert curve["std"][2:] == [0.0, 0.0]
    assert curve["runs"]["1"] == [11.0, 12.0, None, None]


def test_a_run_without_the_metric_is_left_out_with_a_word(logdir, capsys):
    write(logdir / "atari_pong" / "new" / "0", [(5, 1.0)], y="train_return")
    code, data = run(logdir)
    assert code == 0
    assert list(data["tasks"]["atari_pong"]["methods"]) == list(METHODS)
    assert "new/0/metrics.jsonl: it has no 'eval_return'" in capsys.readouterr().err


def test_a_metric_that_no_run_has_is_a_sentence_that_names_those_there_are(
    logdir, capsys
):
    said = fails(capsys, logdir, "--yaxis", "eval_retrun")
    assert said.endswith("what they have, eval_return, step.")


def test_a_run_alone_is_found_by_its_config(tmp_path):
    folder = tmp_path / "catch" / "first"
    write(folder, [(1, 2.0)])
    config = "task: toy_catch\nseed: 7\n"
    (folder / "config.yaml").write_text(config)
    for indir, method in [(folder, "first"), (tmp_path / "catch", "first")]:
        (found,) = curves.find_runs(indir)
        assert (found.task, found.method, found.seed) == ("toy_catch", method, "7")
    (found,) = curves.find_runs(tmp_path / "catch", prefix=True)
    assert found.method == "catch_first"
    (folder / "config.yaml").unlink()
    (found,) = curves.find_runs(folder)
    assert (found.task, found.method, found.seed) == folder.parts[-3:]


def test_methods_with_different_tasks_are_said_to_be_so(logdir, capsys):
    shutil.rmtree(logdir / "atari_pong" / "theirs")
    code, data = run(logdir, "--stats", "gamer_mean", "tasks")
    assert code == 0
    methods = data["stats"]["gamer_mean"]["methods"]
    assert methods["theirs"]["tasks"] == ["atari_breakout"]
    assert data["stats"]["tasks"]["methods"]["ours"]["y"][-1] == 2
    assert "different tasks" in capsys.readouterr().err


def test_an_aggregate_ends_where_the_first_task_ends():
    of_task = {
        "a": (np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 4.0])),
        "b": (np.array([2.0]), np.array([4.0])),
    }
    x, y, tasks = curves.aggregate(of_task, "mean", {})
    assert (x.tolist(), y.tolist(), tasks) == ([2.0], [3.0], ["a", "b"])
    assert curves.aggregate(of_task, "gamer_mean", {}) is None


# Bins and spreads


def make_run(x, y, seed="0"):
    return LoggedRun("a", "b", seed, None, np.array(x, float), np.array(y, float))


def test_a_bin_is_open_on_its_left_and_closed_on_its_right():
    x = np.array([0, 1, 10, 10.5, 20, 41.0])
    ends, means = curves.bin_points(x, np.array([1, 2, 3, 4, 6, 7.0]), 10)
    assert ends.tolist() == [10, 20, 50]
    assert means.tolist() == [2, 5, 7]
    ends, _ = curves.bin_points(np.array([0.3, 0.6, 0.7]), np.zeros(3), 0.1)
    np.testing.assert_allclose(ends, [0.3, 0.6, 0.7])  # For all that 3*0.1 is not 0.3.
    ends, means = curves.bin_points(np.array([1, 1, 2.0]), np.array([1, 3, 5.0]), 0)
    assert (ends.tolist(), means.tolist()) == ([1, 2], [2, 5])


def test_a_run_is_joined_between_its_points_and_never_continued():
    curve = make_curve(
        [make_run([1, 3], [0, 4]), make_run([2, 4], [1, 1], "1"), make_run([9], [9])],
        width=0,
    )
    assert curve.x.tolist() == [1, 2, 3, 4, 9]
    nan = np.nan
    np.testing.assert_array_equal(
        curve.values,
        [[0, 2, 4, nan, nan], [nan, 1, 1, 1, nan], [nan, nan, nan, nan, 9]],
    )
    assert curve.counts.tolist() == [1, 2, 2, 1, 1]


def test_spreads_are_those_that_their_names_say():
    curve = make_curve([make_run([1], [y]) for y in (0, 1, 2, 3, 10)], 0)
    std = np.std([0, 1, 2, 3, 10], ddof=1)
    for kind, known in {
        "std1": (3.2, 3.2 - std, 3.2 + std),
        "std0.5": (3.2, 3.2 - std / 2, 3.2 + std / 2),
        "mean": (3.2, 3.2, 3.2),
        "per25": (2, 1, 3),
        "per0": (2, 0, 10),
    }.items():
        np.testing.assert_allclose(np.ravel(curve.spread(kind)), known)


@pytest.mark.parametrize("longest, width", [(1e6, 5e4), (3e6, 1e5), (31, 2), (0, 0)])
def test_bins_are_about_thirty_of_a_round_width(longest, width):
    assert curves.nice_width([make_run([0, longest], [0, 0])]) == width


# Options


def test_tasks_and_methods_are_chosen_and_ordered_by_patterns(logdir):
    write(logdir / "dmc_walker_walk" / "ours" / "0", [(1e6, 500.0)])
    flags = ["--tasks", "pong", "break", "--methods", "the.rs", "ours"]
    _, data = run(logdir, *flags, "--stats", "none")
    assert list(data["tasks"]) == ["atari_pong", "atari_breakout"]
    assert list(data["tasks"]["atari_pong"]["methods"]) == ["theirs", "ours"]
    assert data["stats"] == {}


def test_labels_and_colors_belong_to_their_methods(logdir, capsys):
    labels = ["--labels", "ours", "A", "theirs", "B"]
    _, data = run(logdir, *labels, "--colors", "B", "red", "A", "#00ff00")
    assert list(data["tasks"]["atari_pong"]["methods"]) == ["A", "B"]
    colors = choose_colors(["A", "B"], ["contrast"], {"B": "red"})
    assert colors == {"A": "#0022ff", "B": "red"}
    assert list(choose_colors(list("abc"), ["viridis"], {})) == list("abc")
    assert choose_colors(list("abc"), ["red", "blue"], {})["c"] == "red"
    capsys.readouterr()


def test_baselines_are_chosen_by_patterns(logdir):
    _, data = run(logdir, "--baselines", "dqn", "record")
    panel = data["tasks"]["atari_pong"]
    assert panel["baselines"] == {"dqn_sticky_2e8": 16.61, "human_record": 21.0}
    assert panel["published"] == {}
    _, data = run(logdir, "--baselines", "none")
    assert data["tasks"]["atari_pong"]["baselines"] == {}


def test_other_metrics_have_no_scores_behind_them(tmp_path):
    for task in TASKS:
        write(tmp_path / "logdir" / task / "ours" / "0", [(1e6, 3.0)], y="model_kl")
    _, data = run(tmp_path / "logdir", "--yaxis", "model_kl")
    assert data["tasks"]["atari_pong"]["baselines"] == {}
    assert data["tasks"]["atari_pong"]["published"] == {}
    assert data["stats"] == {}


def test_values_beyond_maxval_are_left_out_and_x_is_multiplied(tmp_path):
    points = [(1, 2.0), (2, -500.0), (3, 4.0)]
    write(tmp_path / "logdir" / "toy_catch" / "ours" / "0", points)
    flags = ["--bins", "0", "--maxval", "100", "--xmult", "4"]
    _, data = run(tmp_path / "logdir", *flags)
    curve = data["tasks"]["toy_catch"]["methods"]["ours"]
    assert (curve["x"], curve["mean"]) == ([4.0, 12.0], [2.0, 4.0])


def test_several_folders_are_told_apart_by_prefix(logdir, tmp_path):
    shutil.copytree(logdir, tmp_path / "second")
    out = tmp_path / "out"
    flags = f"--indir logdir second --indir-prefix {tmp_path} --outdir {out}"
    more = "--prefix True --subdir False --agg none --xlim 0 5e6 --ylim -21 30"
    ticks = "--xlimticks True --ylimticks True --xticks 3 --legendcols 2"
    assert plot.main([*flags.split(), *more.split(), *ticks.split()]) == 0
    data = json.loads((out / "curves.json").read_text())
    assert list(data["tasks"]["atari_pong"]["methods"]) == [
        "logdir_ours",
        "logdir_theirs",
        "second_ours",
        "second_theirs",
    ]


@pytest.mark.parametrize(
    "flags, said",
    [
        ("--bins wide", "--bins: expected a number, not 'wide'"),
        ("--agg most", "expected stdK, perK"),
        ("--agg per80", "expected stdK, perK"),
        ("--subdir true", "expected True or False, not 'true'"),
        ("--tasks [", "no regular expression"),
        ("--labels ours", "--labels takes pairs, METHOD LABEL"),
        ("--labels his A", "'his', which is none of the methods ours, theirs"),
        ("--colors ours blurple", "'blurple', which is no color"),
        ("--colors his red", "but the methods are ours, theirs"),
        ("--palette nice", "Unknown --palette nice"),
        ("--baselines muzero", "no baseline 'muzero': choose from dreamerv2, "),
        ("--tasks doom", "there are the tasks atari_breakout, atari_pong"),
        ("--cols 0", "--cols: expected a whole number"),
        ("--stats best", "invalid choice: 'best'"),
        ("--what 1", "nrecognized arguments: --what 1"),
    ],
)
def test_mistakes_are_one_sentence(logdir, capsys, flags, said):
    assert said in fails(capsys, logdir, *flags.split())


def test_a_folder_that_cannot_be_written_is_a_sentence(logdir, capsys):
    (logdir.parent / "plots").write_text("in the way")
    assert "choose another --outdir" in fails(capsys, logdir)


def test_defaults_are_what_help_says(capsys):
    args = parse(["--indir", "a", "--outdir", "b"])
    assert (args.xaxis, args.yaxis, args.agg) == ("step", "eval_return", "std1")
    with pytest.raises(SystemExit) as exit:
        parse(["--help"])
    assert exit.value.code == 0
    assert "--yaxis YAXIS" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--indir"):
        parse([])


def test_numbers_and_names_are_written_short():
    shown = [format_tick(x) for x in (0, 2500, -2e8, 1.5e9, 0.25, 1e-15)]
    assert shown == ["0", "2.5K", "-200M", "1.5B", "0.25", "0"]
    assert task_title("atari_space_invaders") == "Space Invaders"
    assert task_title("gym_CartPole-v1") == "gym_CartPole-v1"


def test_one_published_point_shows_its_range_and_the_legend_fits_one_panel():
    numbers = {"x": 1e6, "mean": 10.0, "std": 3.0, "min": 4.0, "max": 18.0}
    curve = {key: np.array([value]) for key, value in numbers.items()}
    panel = {"methods": {}, "baselines": {}, "published": {"dreamerv2": curve}}
    data = {"tasks": {"atari_freeway": panel}, "stats": {}, "agg": "std"}
    data.update(xaxis="step", yaxis="eval_return")
    flags = ["--indir", "x", "--outdir", "x", "--band", "range", "--xlim", "0", "2e6"]
    drawn = draw(data, parse(flags))
    (bar,) = drawn.axes[0].collections
    assert bar.get_segments()[0].tolist() == [[1e6, 4.0], [1e6, 18.0]]
    drawn.canvas.draw()
    box = drawn.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= drawn.bbox.width
