"""evaluate.py: the score of a finished agent, the same number twice."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from play_tools import command
from run_tools import TINY, ok, train_here

from dreamerv2 import evaluate
from dreamerv2.running.exporting import export_run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """What train.py leaves of a short run."""
    folder = tmp_path_factory.mktemp("catch")
    ok(train_here(*TINY, "--task", "toy_catch", "--logdir", folder, "--steps", 24))
    return folder


def test_figures_are_those_of_the_returns_and_the_same_twice(logdir, tmp_path):
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        flags = "--episodes", 5, "--envs", 2, "--json", file
        result = ok(command(evaluate, "--logdir", logdir, *flags))
    first, second = (json.loads(file.read_text()) for file in files)
    assert first == second
    returns = first["returns"]
    assert first["episodes"] == len(returns) == 5
    assert first["mean"] == pytest.approx(np.mean(returns))
    assert first["std"] == pytest.approx(np.std(returns, ddof=1))
    assert (first["lowest"], first["highest"]) == (min(returns), max(returns))
    assert f"mean {first['mean']:.1f}" in result.out


def test_another_seed_plays_other_episodes(logdir, tmp_path):
    scores = []
    for seed in (0, 1):
        file = tmp_path / f"{seed}.json"
        flags = "--episodes", 6, "--seed", seed, "--json", file
        ok(command(evaluate, "--logdir", logdir, *flags))
        scores.append(json.loads(file.read_text())["returns"])
    assert scores[0] != scores[1]


def test_an_exported_agent_is_scored_with_videos_of_best_and_median(logdir, tmp_path):
    export_run(logdir, tmp_path / "out")
    flags = "--episodes", 3, "--video", tmp_path / "videos"
    result = ok(command(evaluate, "--logdir", tmp_path / "out", *flags))
    assert "3 episodes" in result.out
    best, median = sorted((tmp_path / "videos").iterdir())
    assert (best.name[:5], median.name[:7]) == ("best_", "median_")
    with Image.open(best) as gif:
        assert gif.n_frames > 5


def test_atari_scores_are_put_on_the_human_scale():
    class Boxing:
        name = "boxing"
        config = type("Config", (), {"task": "atari_boxing"})

    result = evaluate.summarize(Boxing, [12.1, 12.1], [10, 10], seed=0)
    assert result["human_normalised"] == pytest.approx(1.0)
    result = evaluate.summarize(Boxing, [0.1], [10], seed=0)
    assert result["human_normalised"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--logdir", "nowhere"], "There is no agent in nowhere: give the --logdir"),
        (["--logdir", "hf://nobody/none"], "huggingface_hub|hub does not give"),
    ],
)
def test_what_cannot_be_scored_is_one_sentence(flags, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = command(evaluate, *flags)
    assert result.code == 2 and result.err.count("\n") == 1
    assert re.search(told, result.err)
