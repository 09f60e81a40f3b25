"""An environment that fails costs its unfinished episode, and is named."""

import os
import signal
import time

import numpy as np
import pytest
from run_tools import (
    CATCH,
    episodes,
    failed,
    goes_on,
    ok,
    step_of,
    train_here,
)

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.driver import Driver
from dreamerv2.common.errors import RunFailed, WorkerFailed, summary
from dreamerv2.common.suites.toys import ToyCatch
from dreamerv2.running import environments
from dreamerv2.running.environments import Environments, Restarts


@pytest.fixture
def trouble(monkeypatch):
    """Call it with what the steps of ToyCatch from one number to another do."""

    def arm(what, first, last=10**9, name="step"):
        method, count = getattr(ToyCatch, name), [0]

        def troubled(self, *args):
            count[0] += 1
            if first <= count[0] <= last:
                if what == "raise":
                    raise ValueError("a very\nspecial failure")
                obs = method(self, *args)
                obs[what] = np.full(np.shape(obs[what]), np.nan, np.float32)
                return obs
            return method(self, *args)

        monkeypatch.setattr(ToyCatch, name, troubled)

    return arm


@pytest.mark.parametrize(
    "what, name, told",
    [
        ("raise", "step", "ValueError: a very special failure"),
        ("raise", "reset", "ValueError: a very special failure"),
        ("reward", "step", "ValueError: its 'reward' is nan in step 7 of the episode"),
        ("image", "step", "ValueError: its 'image' is nan in step 7 of the episode"),
    ],
)
def test_an_environment_that_fails_is_made_anew(what, name, told, tmp_path, trouble):
    first = 67 if name == "step" else 4  # Of the first episode after the prefill.
    trouble(what, first, first, name)
    result = ok(train_here(*CATCH, "--logdir", tmp_path, "--steps", "60"))
    (line,) = (line for line in result.out.splitlines() if "failed" in line)
    assert line == (
        f"Training environment 0 (toy_catch) failed ({told}), so it was made anew "
        f"without its unfinished episode, restart 1 of 10; {tmp_path}/env_errors.log "
        "has the traceback."
    )
    log = (tmp_path / "env_errors.log").read_text()
    assert "Training environment 0 (toy_catch), failure 1" in log
    assert ("special failure" if what == "raise" else "is nan") in log
    assert "Traceback" in log
    # Each file holds a whole episode: none goes over the seam.
    for episode in episodes(tmp_path / "train_episodes"):
        assert episode["is_first"].tolist() == [True] + [False] * 20
        assert np.isfinite(episode["reward"]).all()
    assert step_of(tmp_path) == 60


def test_one_that_goes_on_failing_ends_the_run_after_saving(tmp_path, trouble):
    trouble("raise", 67)
    flags = [*CATCH, "--logdir", tmp_path, "--env_restarts", "2", "--eval_every", "100"]
    result = train_here(*flags, "--steps", "60")
    assert failed(result) == (
        "Training environment 0 (toy_catch) failed (ValueError: a very special "
        "failure) after 2 restarts, which is all that --env_restarts allows: mend it "
        f"with the help of {tmp_path}/env_errors.log and start the same command again "
        "to go on."
    )
    assert (tmp_path / "env_errors.log").read_text().count("Traceback") == 3
    assert step_of(tmp_path) == 26
    assert "Saved at step 26." in result.out


def test_a_run_that_was_saved_in_the_middle_of_a_step_goes_on(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count, step = [0], ToyCatch.step

        def broken(self, action):
            count[0] += 1
            if count[0] > 66:
                raise ValueError("broken")
            return step(self, action)

        patch.setattr(ToyCatch, "step", broken)
        flags = ["--env_restarts", "0", "--eval_every", "100"]
        failed(train_here(*CATCH, *flags, "--logdir", tmp_path, "--steps", "60"))
    result = goes_on(tmp_path, *flags)
    assert (
        "The environments begin new episodes, since the checkpoint has no states of "
        "them.\n"
    ) in result.out


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Call it with a strategy: Environments of one that tells its process."""
    made = []
    config = Config(load_presets()["defaults"]).update(task="odd_one", env_timeout=1)

    class Odd:  # In here, so that a worker need not import this file.
        obs_space = act_space = {}

        def reset(self):
            return {"pid": os.getpid(), "is_first": True, "is_last": False}

        def step(self, action):
            if action == "sleep":
                time.sleep(60)
            return {**self.reset(), "is_first": False}

    def make(strategy):
        monkeypatch.setattr(environments, "make_env", lambda *args: Odd())
        changed = config.update(envs_parallel=strategy)
        made.append(Environments(changed, 1, True, Restarts(1, tmp_path)))
        return made[0]

    yield make
    for each in made:
        each.close()


def test_a_worker_that_hangs_is_replaced(odd, tmp_path):
    envs = odd("process")
    env = envs.envs[0]
    pid = env.reset()()["pid"]
    with pytest.raises(TimeoutError) as error:
        env.step("sleep")()
    new = envs.replace(0, error.value)
    assert new.reset()()["pid"] != pid and envs.envs == [new]
    assert env._worker.returncode is not None
    assert (
        "gave no answer to step within 1 s" in (tmp_path / "env_errors.log").read_text()
    )
    with pytest.raises(RunFailed, match="Training environment 0 .odd_one. failed"):
        envs.replace(0, error.value)


def test_a_worker_that_was_killed_is_replaced_and_told_by_its_exit_code(odd, capsys):
    envs = odd("process")
    driver = Driver(envs.envs, envs.replace)
    os.kill(envs.envs[0].reset()()["pid"], signal.SIGKILL)
    seen = []
    driver.on_reset(lambda tran, worker: seen.append(int(tran["pid"])))
    driver(lambda obs, state: ({}, None), steps=1)
    assert len(seen) == 1 and seen[0] == envs.envs[0].reset()()["pid"]
    assert (
        "lost its process during reset, with exit code -9)" in capsys.readouterr().out
    )


def test_an_environment_that_cannot_be_made_is_one_sentence(tmp_path, monkeypatch):
    def broken(*args):
        raise OSError("no such thing")

    monkeypatch.setattr(environments, "make_env", broken)
    result = train_here(*CATCH, "--logdir", tmp_path)
    assert failed(result) == (
        "Training environment 0 (toy_catch) cannot be made (OSError: no such thing): "
        f"mend it with the help of {tmp_path}/env_errors.log."
    )


def test_an_error_is_summed_up_in_a_part_of_a_sentence():
    there = summary(ValueError("Bad. Not good."))
    assert there == "ValueError: Bad; Not good"
    assert summary(WorkerFailed("env failed in step:\nTraceback ..", there)) == there
    assert summary(ValueError("one\ntwo.")) == "ValueError: one two"
    assert summary(KeyError()) == "KeyError"


def test_the_others_go_on_when_one_environment_fails():
    class Failing(ToyCatch):
        def step(self, action):
            raise ValueError

    driver = Driver([ToyCatch(1), Failing(2)], lambda index, error: ToyCatch(2))
    seen = []
    driver.on_step(lambda tran, worker: seen.append(worker))
    driver(lambda obs, state: ({"action": np.ones(2, int)}, None), steps=5)
    assert seen == [0, 0, 1, 0, 1]
