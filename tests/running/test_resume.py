"""A run that is stopped, however it is, goes on from what it has saved."""

import json
import signal
import subprocess
from contextlib import ExitStack, closing

import pytest
from run_tools import (
    CATCH,
    SCRIPT,
    TINY,
    Running,
    checkpoint,
    environment,
    episodes,
    goes_on,
    metrics,
    ok,
    repeated,
    same,
    series,
    step_of,
    train_here,
    untimed,
)

from dreamerv2.common.config import load_presets
from dreamerv2.common.flags import parse_config
from dreamerv2.running.logdir import Logdir
from dreamerv2.running.signals import StopSignals
from dreamerv2.train import Trainer

ENDLESS = ["--steps", "1e8", "--eval_every", "1e8", "--log_every", "1e8"]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_its_last_step_and_goes_on_there(tmp_path, number, code):
    logdir = tmp_path / "run"
    with Running(tmp_path, *CATCH, *ENDLESS, "--logdir", logdir) as run:
        # Past the checkpoint at its first evaluation, and the next by time is far.
        run.wait_until((logdir / "variables.pt").exists)
        first = step_of(logdir)
        run.wait_until(lambda: len(list(logdir.glob("train_episodes/*"))) > 3)
        run.send(number)
        result = run.result()
    assert (result.code, result.err) == (code, "")
    assert f"{number.name}: saving after this step." in result.out
    assert result.out.splitlines()[-1] == (
        f"Stopped by {number.name}. The same command goes on from the last checkpoint."
    )
    # More steps than are in whole episodes: those of the unfinished one count, too.
    finished = sum(len(ep["reward"]) - 1 for ep in episodes(logdir / "train_episodes"))
    assert step_of(logdir) >= finished > first
    goes_on(logdir)


def test_a_run_that_is_stopped_before_its_first_checkpoint_says_what_is_kept(tmp_path):
    logdir = tmp_path / "run"
    flags = [*CATCH, "--pretrain", "1e6", "--logdir", logdir]
    with Running(tmp_path, *flags) as run:
        run.wait_until(lambda: "Pretrain: " in run.out)
        run.send(signal.SIGTERM)
        result = run.result()
    assert (result.code, result.err) == (143, "")
    assert not (logdir / "variables.pt").exists()
    kept = len(episodes(logdir / "train_episodes"))
    assert kept > 0
    assert result.out.splitlines()[-1] == (
        "Stopped by SIGTERM. The same command begins anew, with the episodes that are "
        "there: no checkpoint was due yet."
    )
    again = ok(train_here(*CATCH, "--steps", 40, "--logdir", logdir))
    assert "Prefill" not in again.out
    assert len(episodes(logdir / "train_episodes")) >= kept


def test_a_run_whose_output_nobody_reads_any_more_saves_and_stops(tmp_path):
    flags = map(str, [*CATCH, "--steps", "1e8", "--logdir", tmp_path])
    process = subprocess.Popen(
        [*SCRIPT, *flags],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert any(line.startswith("Train: 20/") for line in process.stdout)
        process.stdout.close()  # As `| head` does.
        err = process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
    assert err == "Nobody reads the output any more: saving after this step.\n"
    goes_on(tmp_path)


def test_a_second_ctrl_c_stops_in_the_middle_of_an_update(tmp_path):
    logdir = tmp_path / "run"
    slow = ["--imag_horizon", "100000"]  # Minutes of dreaming, step by step.
    with Running(tmp_path, *CATCH, *slow, "--logdir", logdir) as run:
        run.wait_until(lambda: "Pretrain: 0/1" in run.out)
        run.send(signal.SIGINT)
        run.wait_until(lambda: "Press Ctrl-C again" in run.out)
        run.send(signal.SIGINT)
        result = run.result()
    assert (result.code, result.err) == (130, "")
    assert "Pretrain stopped: 0/1" in result.out
    assert not (logdir / "variables.pt").exists()


def test_a_run_killed_at_any_moment_goes_on_from_its_last_checkpoint(tmp_path):
    logdir = tmp_path / "run"
    often = ["--steps", "1e8", "--save_every", "0"]  # A checkpoint after each step.
    with Running(tmp_path, *CATCH, *often, "--logdir", logdir) as run:
        run.wait_until((logdir / "variables.pt").exists)
        first = step_of(logdir)
        run.wait_until(lambda: step_of(logdir) > first + 10)
        run.send(signal.SIGKILL)
        assert run.result().code == -signal.SIGKILL
    # What it leaves when that hits a write.
    (logdir / ".variables.pt.tmp").write_bytes(b"half")
    (logdir / "train_episodes" / ".20200101T000000000000-x-20.npz.tmp").touch()
    late = {"step": step_of(logdir) + 1, "train_return": 1.25}
    with (logdir / "metrics.jsonl").open("a") as file:
        file.write(f'{json.dumps(late)}\n{{"step": 12')
    result = goes_on(logdir)
    assert late not in metrics(logdir)
    assert "Removed a line that was cut short" in result.out
    assert not (logdir / ".variables.pt.tmp").exists()


def test_a_run_killed_before_its_first_checkpoint_keeps_its_episodes(tmp_path):
    flags = [*CATCH, "--logdir", tmp_path, "--prefill", "60", "--steps", "80"]
    ok(train_here(*flags))
    (tmp_path / "variables.pt").unlink()
    for path in sorted((tmp_path / "train_episodes").iterdir())[2:]:
        path.unlink()
    result = ok(train_here(*flags))
    assert "Prefill: 40/60" in result.out
    assert "Pretrain done" in result.out
    assert repeated(tmp_path) == ([], False)
    assert step_of(tmp_path) == 80


def test_a_checkpoint_restores_every_part_of_a_run(tmp_path):
    logdir = tmp_path / "run"
    flags = [*CATCH, "--logdir", str(logdir), "--expl_behavior", "Plan2Explore"]
    ok(train_here(*flags, "--steps", "40"))
    saved = checkpoint(logdir)
    config = parse_config([*flags, "--steps", "50", "--seed", "3"], load_presets())
    with ExitStack() as stack:
        folder = stack.enter_context(closing(Logdir(config)))
        stop = stack.enter_context(StopSignals())
        Trainer(config, folder, stop, stack).checkpoint.save()
    assert same(checkpoint(logdir), saved)
    # And these parts hold what they should.
    agent = saved["agent"]
    updates = int(agent["task_behavior"]["updates"])
    assert updates == 1 + 10  # The pretraining's, then every other step of 20.
    assert int(agent["expl_behavior"]["ac"]["updates"]) == updates
    for optimizer in (
        agent["wm"]["opt"],
        agent["task_behavior"]["actor_opt"],
        agent["task_behavior"]["critic_opt"],
        agent["expl_behavior"]["opt"],
    ):
        assert optimizer["step"] == updates
        assert any(x.any() for key, x in optimizer.items() if key.startswith("v."))
    assert saved["step"] == {"value": 40}
    assert agent["carried"]["deter"].shape == (2, 8)
    assert saved["when_train"] == {"every": 2, "due": 41}
    assert saved["when_log"] == {"every": 5, "due": 41}
    assert saved["when_eval"] == {"every": 10, "due": 50}
    assert len(saved["train"]["replay"]["datasets"]) == 2


def test_stopping_halfway_changes_no_count(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for logdir, steps in ((whole, 60), (halves, 40), (halves, 60)):
        ok(train_here(*CATCH, "--logdir", logdir, "--steps", steps))
    one, two = checkpoint(whole), checkpoint(halves)
    counts = [name for name in one if name.startswith("when_")] + ["step"]
    assert {name: one[name] for name in counts} == {name: two[name] for name in counts}
    for path in (("task_behavior", "updates"), ("wm", "opt", "step")):
        values = [one["agent"], two["agent"]]
        for key in path:
            values = [value[key] for value in values]
        assert values[0] == values[1] == 21
    for key in ("model_loss", "eval_return"):
        steps = [[step for step, _ in series(x, key)] for x in (whole, halves)]
        assert steps[0] == steps[1]
    # Nor does ending there, with an evaluation and a save, change what came before.
    early = [
        [line for line in untimed(x) if line["step"] <= 40] for x in (whole, halves)
    ]
    assert early[0] == early[1]
    assert repeated(halves) == ([], False)


def test_a_run_goes_on_with_batches_of_another_size(tmp_path):
    ok(train_here(*CATCH, "--logdir", tmp_path, "--steps", "25"))
    flags = ["--dataset.batch", "3", "--dataset.length", "7", "--envs", "2"]
    result = ok(train_here(*CATCH, *flags, "--logdir", tmp_path, "--steps", "35"))
    assert "dataset.batch: 2 -> 3" in result.out
    assert checkpoint(tmp_path)["agent"]["carried"]["deter"].shape == (3, 8)


TASKS = {
    "toy_catch": ["--task", "toy_catch", "--envs", "1", "--dataset.rows", "stream"],
    "toy_catch in two processes": [
        *["--task", "toy_catch", "--envs", "2", "--envs_parallel", "process"],
        *["--dataset.rows", "acted", "--replay.ongoing", "True"],
    ],
    "toy_reach": [
        *["--dataset.rows", "rows"],
        *["--task", "toy_reach", "--envs", "2", "--expl_noise", "0.1"],
        *["--encoder.cnn_keys", "$^", "--decoder.cnn_keys", "$^"],
    ],
    "atari_pong": ["--configs", "atari", "--task", "atari_pong", "--envs", "2"],
}


@pytest.mark.parametrize("task", TASKS)
def test_a_killed_run_that_goes_on_ends_as_if_it_never_was(task, tmp_path):
    # The only checkpoint before the kill is that of the first evaluation.
    flags = [*TASKS[task], *TINY, "--steps", "90", "--eval_every", "1000"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    ok(train_here(*flags, "--logdir", whole))
    with Running(tmp_path, *flags, "--logdir", killed) as run:
        run.wait_until(lambda: len(list(killed.glob("train_episodes/*.npz"))) > 3)
        run.send(signal.SIGKILL)
        assert run.result().code == -signal.SIGKILL
    early = step_of(killed)
    assert early < 60
    result = ok(train_here(*flags, "--logdir", killed))
    assert f"Resumed at step {early}.\n" in result.out
    assert "new episodes" not in result.out
    one, two = checkpoint(whole), checkpoint(killed)
    assert one.keys() == two.keys()
    for each in (one, two):  # Replays name files by the time, and metrics tell it.
        del each["train"]["replay"], each["eval"]["replay"], each["jsonl"]
    assert [name for name in one if not same(one[name], two[name])] == []
    for mode in ("train", "eval"):
        contents = [episodes(x / f"{mode}_episodes") for x in (whole, killed)]
        assert same(*contents) and len(contents[0]) > 1
    assert untimed(whole) == untimed(killed)


@pytest.fixture
def stop_in_evaluation(monkeypatch):
    """Call it with a number: a SIGTERM comes at that step of all evaluations."""

    def arm(number):
        left = [number]
        policy = Trainer.eval_policy

        def stopping(self, obs, state):
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGTERM)
            return policy(self, obs, state)

        monkeypatch.setattr(Trainer, "eval_policy", stopping)

    return arm


def test_an_evaluation_that_was_cut_short_is_made_again(tmp_path, stop_in_evaluation):
    flags = [*CATCH, "--logdir", tmp_path, "--steps", "35", "--eval_every", "10"]
    stop_in_evaluation(20 + 5)  # In the second one.
    result = train_here(*flags)
    assert (result.code, result.err) == (143, "")
    assert step_of(tmp_path) == 30
    ok(train_here(*flags))
    assert [step for step, _ in series(tmp_path, "eval_return")] == [20, 30, 35]
    assert repeated(tmp_path) == ([], False)


def test_a_stop_in_the_last_evaluation_loses_no_step(tmp_path, stop_in_evaluation):
    flags = [*CATCH, "--logdir", tmp_path, "--steps", "35", "--eval_every", "100"]
    stop_in_evaluation(20 + 5)
    result = train_here(*flags)
    assert (result.code, result.err) == (143, "")
    assert step_of(tmp_path) == 35


def test_an_environment_that_cannot_be_saved_begins_a_new_episode(tmp_path):
    # Gymnasium has no way to save an environment. So what differs from a run that was
    # never stopped is the episode at the seam: it is dropped, and counted as steps.
    proprio = ["--encoder.cnn_keys", "$^", "--decoder.cnn_keys", "$^"]
    flags = [*TINY, *proprio, "--task", "gym_Pendulum-v1", "--logdir", tmp_path]
    ok(train_here(*flags, "--steps", "25"))
    result = ok(train_here(*flags, "--steps", "50"))
    assert (
        "Resumed at step 25.\nThe environments begin new episodes, since the "
        "checkpoint has no states of them.\n"
    ) in result.out
    played = episodes(tmp_path / "train_episodes")
    assert [len(episode["reward"]) for episode in played] == [21, 21]
    assert step_of(tmp_path) == 50
