"""What goes wrong in a run is named, and costs nothing that was earned."""

import json
import re
import resource
import signal
import subprocess
from contextlib import closing

import numpy as np
import pytest
import torch
from run_tools import (
    CATCH,
    SCRIPT,
    Running,
    checkpoint,
    environment,
    failed,
    goes_on,
    metrics,
    ok,
    one_sentence,
    repeated,
    same,
    step_of,
    train_here,
)

from dreamerv2.agent import Agent, WorldModel
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.torchutils import named_tensors
from dreamerv2.running.checkpoint import changed_versions, versions
from dreamerv2.running.logdir import Logdir
from dreamerv2.running.statefile import save_checkpoint
from dreamerv2.running.watch import Watch, all_finite
from dreamerv2.train import Trainer

# Numbers


@pytest.fixture
def spoil(monkeypatch):
    """Call it with numbers of updates: their model loss is not a number."""

    def arm(numbers):
        loss, count = WorldModel.loss, [0]

        def spoilt(self, *args, **kwargs):
            value, *rest = loss(self, *args, **kwargs)
            count[0] += 1
            return (value * float("nan") if count[0] in numbers else value, *rest)

        monkeypatch.setattr(WorldModel, "loss", spoilt)

    return arm


def test_a_single_bad_update_is_told_and_spoils_nothing(tmp_path, spoil):
    spoil([5, 9])
    result = ok(train_here(*CATCH, "--logdir", tmp_path, "--steps", "60"))
    lines = [line for line in result.out.splitlines() if "Not finite" in line]
    assert lines == [
        f"Not finite among {count} updates until step {step}: model_loss in 1, "
        "model_grad_norm in 1; such gradients are not followed, and the run goes on."
        for count, step in ((2, 30), (2, 36))
    ]
    assert all_finite(named_tensors(checkpoint(tmp_path)["agent"]).values())
    assert metrics(tmp_path)[-1]["step"] == 60


def test_numbers_that_stay_bad_end_the_run_with_its_good_checkpoint(tmp_path, spoil):
    spoil(range(8, 1000))
    flags = [*CATCH, "--logdir", tmp_path, "--nan_patience", "4", "--eval_every", "100"]
    result = train_here(*flags, "--steps", "100")
    sentence = failed(result)
    assert re.match(
        r"Not finite among 3 updates until step 41: model_loss in 3, model_grad_norm "
        r"in 3, and the last 5 in a row were bad, so that the run ends",
        sentence,
    ), sentence
    assert step_of(tmp_path) == 20
    assert "the checkpoint of step 20 is kept." in result.out
    with np.load(tmp_path / "nonfinite_batch.npz") as file:
        assert file["image"].shape == (2, 6, 64, 64, 1)
        assert file["is_first"].any()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])


def test_parameters_that_are_not_finite_never_replace_a_checkpoint(
    tmp_path, monkeypatch
):
    update = Trainer.update

    def spoilt(self):
        update(self)
        if self.step == 39:  # The last update before the evaluation.
            with torch.no_grad():
                next(iter(self.learner.agent.task_behavior.critic.parameters())).fill_(
                    float("inf")
                )

    monkeypatch.setattr(Trainer, "update", spoilt)
    flags = [*CATCH, "--logdir", tmp_path, "--nan_patience", "100"]
    sentence = failed(train_here(*flags, "--steps", "60"))
    assert sentence == (
        "Some parameters are not finite at step 40, so the run ends with its last good "
        "checkpoint kept: go on from there with a lower learning rate or --precision "
        "32."
    )
    assert step_of(tmp_path) == 30


def test_actions_that_are_not_finite_are_no_fault_of_the_environment(
    tmp_path, monkeypatch
):
    policy = Agent.policy

    def spoilt(self, obs, state, mode):
        outputs, state = policy(self, obs, state, mode)
        if self._counter == 33:
            outputs["action"][:] = np.nan
        return outputs, state

    monkeypatch.setattr(Agent, "policy", spoilt)
    sentence = failed(train_here(*CATCH, "--logdir", tmp_path, "--steps", "60"))
    assert sentence.startswith("The policy's actions are not finite at step 33, so")
    assert not (tmp_path / "env_errors.log").exists()


def test_an_overflow_that_the_loss_scale_answers_is_no_bad_number(tmp_path, capsys):
    watch = Watch(1, tmp_path)
    tensors = {"a_loss": 1.0, "a_grad_norm": float("inf"), "a_loss_scale": 64.0}
    tensors = {key: torch.tensor(value) for key, value in tensors.items()}
    watch.add(tensors, {})
    watch.check(1)
    assert capsys.readouterr().out == ""
    watch.add({**tensors, "a_loss_scale": torch.tensor(1.0)}, {})  # No lower one.
    with pytest.raises(RunFailed, match="until step 2: a_grad_norm in 1, and"):
        watch.check(2)


# Exceptions and signals


def test_an_error_between_environments_and_update_is_saved_before(tmp_path, capsys):
    class Broken(Exception):
        pass

    def policy(self, obs, state):
        if self.step == 33:
            raise Broken
        return self.learner.policy(obs, state, "train")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Broken):
        patch.setattr(Trainer, "train_policy", policy)
        train_here(*CATCH, "--logdir", tmp_path, "--steps", "60")
    assert step_of(tmp_path) == 33
    goes_on(tmp_path)


def test_an_error_in_an_update_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    def broken(self):
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("dreamerv2.agent.ActorCritic.update_slow_target", broken)
        train_here(*CATCH, "--logdir", tmp_path, "--pretrain", "0", "--steps", "60")
    assert step_of(tmp_path) == 20
    goes_on(tmp_path)


# The logdir


def test_what_is_evaluated_and_logged_changes_nothing_in_training(tmp_path):
    runs = {"rare": ["100", "100"], "often": ["7", "3"]}
    saved = []
    for name, (evals, logs) in runs.items():
        flags = ["--eval_every", evals, "--log_every", logs, "--steps", "50"]
        ok(train_here(*CATCH, *flags, "--logdir", tmp_path / name))
        saved.append(checkpoint(tmp_path / name))
    for one in saved:
        del one["agent"]["metrics"], one["agent"]["eval_noise"]
        del one["train"]["replay"], one["train"]["driver"]["episodes"]
    for part in ("agent", "train", "when_train"):
        assert same(saved[0][part], saved[1][part]), part


def test_a_logdir_in_use_is_refused_and_free_after_a_kill(tmp_path):
    logdir = tmp_path / "run"
    endless = ["--steps", "1e8", "--eval_every", "1e8", "--logdir", logdir]
    with Running(tmp_path, *CATCH, *endless) as run:
        run.wait_until(lambda: "Train: " in run.out)
        pid = run._process.pid
        sentence = one_sentence(train_here(*CATCH, *endless))
        assert sentence.startswith(
            f"The logdir {logdir} is in use by the process {pid} on "
        )
        run.send(signal.SIGKILL)
        run.result()
    config = Config(load_presets()["defaults"]).update(logdir=logdir, task="toy_catch")
    with pytest.raises(UsageError, match="cannot go on with"):
        Logdir(config)  # The lock is no reason any more.


def test_a_lock_is_given_back(tmp_path):
    config = Config(load_presets()["defaults"]).update(logdir=tmp_path)
    with closing(Logdir(config)), pytest.raises(UsageError, match="is in use by the"):
        Logdir(config)
    Logdir(config).close()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The logdir of a short run."""
    logdir = tmp_path_factory.mktemp("short") / "run"
    ok(train_here(*CATCH, "--logdir", logdir, "--steps", "25"))
    return logdir


def test_a_checkpoint_that_does_not_fit_is_refused_before_a_file_is_changed(run):
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    flags = ["--precision", "float16", "--steps", "30"]
    sentence = one_sentence(train_here(*CATCH, *flags, "--logdir", run))
    assert "does not fit this configuration, with 3 missing (task_behavior" in sentence
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == (
        files
    )


def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_taken(run):
    whole = (run / "variables.pt").read_bytes()
    damaged = whole[:1000]  # Before the archive of numbers that is a part of it.
    (run / "variables.pt").write_bytes(damaged)
    result = ok(train_here(*CATCH, "--logdir", run, "--steps", "30"))
    assert (
        f"The checkpoint {run}/variables.pt cannot be loaded because it is cut short "
        "or no checkpoint, so it is kept as variables.damaged.pt and the run goes on "
        "from the one before, variables.prev.pt.\n"
    ) in result.out
    assert (run / "variables.damaged.pt").read_bytes() == damaged
    assert step_of(run) == 30
    assert repeated(run) == ([], False)
    goes_on(run)


def test_versions_that_changed_are_named():
    assert changed_versions(versions()) == ""
    old = {**versions(), "torch": "1.0"}
    assert changed_versions(old) == f"torch 1.0 -> {versions()['torch']}"


@pytest.mark.parametrize("size", [40_000, 250_000])
def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint(run, size, tmp_path):
    # No file may grow beyond the size: TensorBoard's, or the checkpoint.
    flags = [*CATCH, "--logdir", str(run), "--steps", "1e8", "--logger"]
    flags.append("tensorboard" if size < 200_000 else "none")
    before = step_of(run)
    done = subprocess.run(
        [*SCRIPT, *flags],
        env=environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(
        r"dreamerv2-train: Cannot write .* \(File too large\): .*\.",
        done.stderr.strip(),
    ), done.stderr
    assert step_of(run) >= before


# What a restore may raise


def test_a_full_gpu_while_restoring_is_no_misfit_of_the_checkpoint(run, monkeypatch):
    def full(self, state):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(Agent, "load_state_dict", full)
    flags = [*CATCH, "--logdir", run, "--steps", step_of(run) + 5]
    sentence = one_sentence(train_here(*flags))
    assert sentence.startswith("The memory of the GPU is not enough (CUDA out of mem")


def test_a_fault_of_the_program_while_restoring_keeps_its_stack_trace(run, monkeypatch):
    def broken(self, state):
        raise RuntimeError("a fault")

    monkeypatch.setattr(Agent, "load_state_dict", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        train_here(*CATCH, "--logdir", run, "--steps", step_of(run) + 5)


@pytest.mark.parametrize("part, state", [("step", {}), ("agent", []), ("train", None)])
def test_a_part_that_is_not_as_it_was_written_is_named(run, tmp_path, part, state):
    saved = {**checkpoint(run), part: state}
    logdir = tmp_path / "run"
    logdir.mkdir()
    save_checkpoint(logdir / "variables.pt", saved)
    sentence = one_sentence(train_here(*CATCH, "--logdir", logdir, "--steps", 99))
    assert f"'{part}'" in sentence and "does not fit this version" in sentence


def test_a_checkpoint_of_an_old_version_is_refused_by_its_name(run, tmp_path):
    saved = checkpoint(run)
    del saved["layout"]
    saved["versions"]["dreamerv2"] = "0.1.0"
    save_checkpoint(tmp_path / "old" / "variables.pt", saved)
    sentence = one_sentence(train_here(*CATCH, "--logdir", tmp_path / "old"))
    assert "was written by version 0.1.0 of dreamerv2, and" in sentence
    flags = ["--load", tmp_path / "old", "--logdir", tmp_path / "new", "--steps", 25]
    assert "Loaded the weights of" in ok(train_here(*CATCH, *flags)).out
