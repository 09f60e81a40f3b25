"""What a run leaves behind, what it goes on with, and that its seed decides it."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image
from run_tools import (
    NETWORKS,
    TINY,
    checkpoint,
    episodes,
    events,
    metrics,
    ok,
    repeated,
    series,
    train,
    train_here,
    untimed,
)

from dreamerv2.common.config import Config
from dreamerv2.common.outputs.services import scalar_tag

REPEAT = 4  # Frames per policy step of Atari.
PONG = ["--configs", "defaults", "atari", "debug", "--task", "atari_pong", *NETWORKS]

TRAINED = """
    kl_loss image_loss reward_loss discount_loss model_kl prior_ent post_ent model_loss
    model_grad_norm actor_loss actor_grad_norm actor_ent actor_ent_scale critic
    critic_loss critic_grad_norm critic_slow critic_target reward_mean reward_std
    reward_normed_mean reward_normed_std fps
""".split()
FOLLOWED = ["kl", "image_loss"]
COUNTED = "total_steps total_episodes loaded_steps loaded_episodes".split()


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    """(logdir, result) of 300 steps, 100 of which are prefill."""
    logdir = tmp_path_factory.mktemp("pong") / "run"
    return logdir, ok(train(*PONG, "--logdir", logdir, "--steps", "300"))


@pytest.fixture(scope="module")
def resumed(pong, tmp_path_factory):
    """(logdir, result) of the same, in a copy, going on to 500 steps."""
    logdir = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(pong[0], logdir)
    return logdir, ok(train(*PONG, "--logdir", logdir, "--steps", "500"))


def test_a_run_leaves_everything_in_its_logdir(pong):
    logdir, _ = pong
    names = {path.name for path in logdir.iterdir()}
    (event_file,) = (name for name in names if name.startswith("events.out.tfevents."))
    assert names == {
        *("config.yaml", "metrics.jsonl", "variables.pt", event_file),
        *("train_episodes", "eval_episodes", "report", "variables.prev.pt", ".lock"),
    }
    config = Config.read(logdir / "config.yaml")
    assert (config.task, config.steps) == ("atari_pong", 300)
    assert (config.action_repeat, config.time_limit) == (4, 100)


def test_its_episodes_hold_what_was_seen_done_and_earned(pong):
    logdir, _ = pong
    train_episodes = episodes(logdir / "train_episodes")
    # The random one and those of the evaluations at the start and at the end.
    assert len(train_episodes) == len(episodes(logdir / "eval_episodes")) == 3
    for episode in train_episodes:
        assert episode["image"].shape == (101, 64, 64, 1)
        assert episode["image"].dtype == np.uint8
        assert episode["action"].shape == (101, 6)
        assert episode["action"].sum(1).tolist() == [0.0] + [1.0] * 100
        assert np.flatnonzero(episode["is_first"]).tolist() == [0]
        assert np.flatnonzero(episode["is_last"]).tolist() == [100]
        assert not episode["is_terminal"].any()  # The time limit ended it.


def test_metrics_have_the_names_of_the_reference_and_steps_in_frames(pong):
    logdir, _ = pong
    lines = metrics(logdir)
    assert [line["step"] for line in lines if "train_return" in line] == [
        100 * REPEAT,
        200 * REPEAT,
        300 * REPEAT,
    ]
    (trained,) = (line for line in lines if "model_loss" in line)
    assert trained["step"] == 101 * REPEAT  # log_every is 300: next is 401.
    assert {key for key in trained if not key.startswith("time_")} == {
        "step",
        *TRAINED,
    }
    assert all(isinstance(value, int | float) for value in trained.values())
    assert trained["fps"] > 0
    for mode in ("train", "eval"):
        line = next(line for line in lines if f"{mode}_return" in line)
        names = ["return", "length", *COUNTED]
        if mode == "eval":
            names += [f"{x}_{y}" for x in FOLLOWED for y in ("early", "late")]
        assert set(line) == {"step", *(f"{mode}_{name}" for name in names)}
        assert line[f"{mode}_length"] == 100
    last = [line for line in lines if "train_return" in line][-1]
    assert (last["train_total_steps"], last["train_total_episodes"]) == (300, 3)


def test_returns_are_the_sums_of_the_rewards_in_the_episodes(pong):
    logdir, _ = pong
    for mode, skipped in (("train", 0), ("eval", 1)):
        sums = [
            float(ep["reward"].sum()) for ep in episodes(logdir / f"{mode}_episodes")
        ]
        logged = [value for _, value in series(logdir, f"{mode}_return")]
        assert logged == sums[skipped:]  # A random one is no evaluation.


def test_it_evaluates_at_the_start_when_due_and_at_the_end(resumed):
    logdir, _ = resumed
    steps = [step for step, _ in series(logdir, "eval_return")]
    assert steps == [100 * REPEAT, 300 * REPEAT, 400 * REPEAT, 500 * REPEAT]


def test_tensorboard_has_the_scalars_of_the_metrics(pong):
    logdir, _ = pong
    board = events(logdir)
    keys = {key for line in metrics(logdir) for key in line} - {"step"}
    assert set(board.Tags()["scalars"]) == {scalar_tag(key) for key in keys}
    for key in ("train_return", "model_loss", "eval_length"):
        found = [(event.step, event.value) for event in board.Scalars(scalar_tag(key))]
        assert found == [(step, np.float32(x)) for step, x in series(logdir, key)]


def test_videos_of_policies_and_of_dreams_are_gifs_in_tensorboard(pong):
    logdir, _ = pong
    board = events(logdir)
    # A dream's picture has truth, model and error, one below the other, of two
    # sequences side by side.
    sizes = {
        "train_policy_image": ((64, 64), 101),
        "eval_policy_image": ((64, 64), 101),
        "train_openl_image": ((2 * 64, 3 * 64), 10),
        "eval_openl_image": ((2 * 64, 3 * 64), 10),
    }
    assert set(board.Tags()["images"]) == set(sizes)
    for name, (size, frames) in sizes.items():
        data = board.Images(name)[0].encoded_image_string
        assert data.startswith(b"GIF89a")
        video = Image.open(io.BytesIO(data))
        # A GIF may hold two equal frames as one that is shown for longer.
        shown = [video.info["duration"]]
        for index in range(1, video.n_frames):
            video.seek(index)
            shown.append(video.info["duration"])
        assert (video.size, sum(shown) // 50) == (size, frames), name


def test_the_first_row_of_a_dream_is_the_truth_and_the_last_its_error(pong):
    logdir, _ = pong
    data = events(logdir).Images("train_openl_image")[0].encoded_image_string
    frame = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    truth, model, error = frame.reshape(3, 64, 128)
    # Within a grey level for rounding, and what a palette of 256 colours costs.
    inside = (model > 0) & (model < 255)  # Overshoots are cut.
    assert inside.mean() > 0.5
    assert np.abs(error - (model - truth + 255) / 2)[inside].mean() < 2
    assert truth.std() > 10  # Pong's court, ball and paddles.


def test_the_output_says_what_happened(pong):
    _, result = pong
    order = ["Device: cpu", "Prefill: 0/100", "Pretrain: 0/1", "Train: 100/300"]
    places = [result.out.index(text) for text in order]
    assert places == sorted(places)
    assert "Resumed" not in result.out
    assert result.err == ""


def test_the_same_command_goes_on_without_prefill_or_pretraining(pong, resumed):
    logdir, result = resumed
    assert "Resumed at step 300." in result.out
    assert "Train: 300/500" in result.out
    assert "Prefill" not in result.out
    assert "Pretrain" not in result.out
    assert "steps: 300 -> 500" in result.out
    assert checkpoint(logdir)["step"] == {"value": 500}
    before = metrics(pong[0])
    after = metrics(logdir)
    assert after[: len(before)] == before
    assert min(line["step"] for line in after[len(before) :]) > 300 * REPEAT
    assert repeated(logdir) == ([], False)
    assert [step for step, _ in series(logdir, "train_total_steps")] == [
        100 * REPEAT * number for number in range(1, 6)
    ]
    assert [x for _, x in series(logdir, "train_total_steps")] == [
        100 * number for number in range(1, 6)
    ]


def test_the_config_before_is_kept_when_a_run_goes_on_with_another(resumed):
    logdir, _ = resumed
    assert Config.read(logdir / "config.1.yaml").steps == 300
    assert Config.read(logdir / "config.yaml").steps == 500
    assert not (logdir / "config.2.yaml").exists()


def test_a_run_that_has_reached_its_steps_says_so_and_changes_nothing(resumed):
    logdir, _ = resumed
    watched = [logdir / name for name in ("metrics.jsonl", "variables.pt")]
    before = [path.read_bytes() for path in watched]
    result = ok(train_here(*PONG, "--logdir", logdir, "--steps", "500"))
    assert "This run has reached its 500 steps already." in result.out
    assert [path.read_bytes() for path in watched] == before


PROPRIO = ["--encoder.cnn_keys", "$^", "--decoder.cnn_keys", "$^"]
TASKS = {
    "toy_catch": [],
    "toy_reach": ["--eval_eps", "3", *PROPRIO],
    "atari_pong": ["--configs", "atari"],
}


def run_task(run, task, logdir, *flags):
    """A run of some twenty steps after the prefill."""
    settings = ["--task", task, "--steps", "70", "--logdir", logdir]
    ok(run(*TASKS[task], *TINY, "--envs", "2", *settings, *flags))
    return untimed(logdir)


@pytest.fixture(scope="module", params=TASKS)
def once(request, tmp_path_factory):
    """(task, logdir, its metrics) of a run with the default seed."""
    logdir = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, logdir, run_task(train, request.param, logdir)


def test_one_seed_gives_the_same_metrics_wherever_environments_live(once, tmp_path):
    task, _, first = once
    place = {"toy_catch": "thread", "toy_reach": "process", "atari_pong": "none"}[task]
    flags = ["--envs_parallel", place]
    second = run_task(train_here, task, tmp_path / "run", *flags)
    assert second == first
    assert sum("model_loss" in line for line in first) >= 3
    assert sum("eval_return" in line for line in first) >= 3


@pytest.mark.parametrize("once", ["toy_catch"], indirect=True)
def test_another_seed_gives_other_metrics(once, tmp_path):
    task, _, first = once
    second = run_task(train_here, task, tmp_path / "run", "--seed", "1")
    for key in ("kl_loss", "reward_loss", "actor_grad_norm", "critic"):
        pair = [[line[key] for line in x if key in line] for x in (first, second)]
        assert not np.equal(*pair).any(), key


@pytest.mark.parametrize("once", ["toy_reach"], indirect=True)
def test_each_environment_plays_as_many_episodes_in_an_evaluation(once):
    _, logdir, _ = once
    # 3 episodes in 2 environments are 2 and 1. Before that, both have played a random
    # one, which is no part of any evaluation.
    played = episodes(logdir / "eval_episodes")[2:]
    returns = [episode["reward"].astype(float).sum() for episode in played]
    logged = [value for _, value in series(logdir, "eval_return")]
    assert len(returns) == 3 * len(logged)
    assert logged == pytest.approx(np.reshape(returns, (-1, 3)).mean(1))
    assert len(set(returns)) == len(returns)  # Or else means would show little.
