"""The examples run as they are, from any folder, with fewer steps."""

import json
from pathlib import Path

import pytest
from run_tools import ok, run_script

FOLDER = Path(__file__).parents[2] / "examples"

SHORT = (
    "--steps 200 --prefill 150 --pretrain 1 --log_every 50 --eval_every 100"
    " --train_every 20 --dataset.batch 2 --eval_eps 1"
).split()


def example(name, *arguments, folder):
    return run_script(FOLDER / name, *arguments, cwd=folder)


def run(name, tmp_path, *flags):
    ok(example(name, *SHORT, "--logdir", tmp_path, *flags, folder=tmp_path))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    found = {key for line in lines for key in json.loads(line)}
    assert {"train_return", "eval_return", "model_loss", "actor_loss"} <= found


def test_cartpole_trains_and_its_agent_acts(tmp_path):
    run("cartpole.py", tmp_path)
    done = ok(example("act.py", "--logdir", tmp_path, folder=tmp_path))
    returns = [line.split() for line in done.out.splitlines()]
    assert [words[0] for words in returns] == ["Return"] * 5
    assert all(8 <= float(words[1]) <= 500 for words in returns)


def test_an_environment_written_by_hand_trains(tmp_path):
    run("own_env.py", tmp_path)


def test_minigrid_trains_from_pixels(tmp_path):
    pytest.importorskip("minigrid")
    small = "--rssm.deter 16 --rssm.hidden 16 --(en|de)coder.cnn_depth 2".split()
    run("minigrid_doorkey.py", tmp_path, *small, "--jit", "False", "--steps", 320)


def test_a_sweep_goes_on_with_the_trials_that_there_are(tmp_path):
    pytest.importorskip("optuna")
    tiny = ["--rssm.deter", 16, "--rssm.hidden", 16, "--imag_horizon", 3]
    for trials in (1, 2):
        done = ok(
            example(
                "optuna_sweep.py",
                *("--out", tmp_path, "--trials", trials, *SHORT, *tiny),
                folder=tmp_path,
            )
        )
    last = done.out.splitlines()[-2:]
    values = [float(line.split()[0]) for line in last]
    assert values == sorted(values, reverse=True) and min(values) > 0
    assert done.out.count("New run:") == 1
    assert len(list(tmp_path.glob("lr_*/metrics.jsonl"))) == 2


def test_a_wrong_flag_of_an_example_gets_a_sentence(tmp_path):
    done = example("cartpole.py", "--stepz", 10, folder=tmp_path)
    assert done.code == 2
    assert done.err == "cartpole.py: Unknown flag '--stepz'; did you mean --steps?\n"
