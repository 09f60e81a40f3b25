"""The Python interface: train on an environment of one's own, load, and act."""

import json
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from run_tools import NETWORKS, environment

import dreamerv2.api as dv2
from dreamerv2.common.flags import Flags
from dreamerv2.common.suites.toys import ToyCatch

pytestmark = pytest.mark.usefixtures("one_thread")

LOOP = {
    "dataset.length": 6,
    "replay": {"minlen": 2, "maxlen": 6},
    "prefill": 20,
    "log_every": 10,
    "eval_every": 10,
    "train_every": 5,
    "steps": 40,
}


class Corridor(gymnasium.Env):
    """Ten cells; going right (1) leads to the end, where there is a reward."""

    observation_space = Box(0, 1, (3,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.cell = 0
        return self._obs(), {}

    def step(self, action):
        self.cell = max(self.cell + 2 * int(action) - 1, 0)
        end = self.cell == 10
        return self._obs(), float(end), end, False, {}

    def _obs(self):
        return np.array([self.cell / 10, 0, 1], np.float32)


def config(logdir, **changes):
    small = Flags(dv2.defaults).parse([*NETWORKS, "--time_limit", "15"])
    return small.update(LOOP).update(logdir=str(logdir), **changes)


def metrics(folder, name):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines if name in json.loads(line)]


def test_importing_reads_no_arguments_and_changes_nothing():
    code = (
        "import os, signal, sys, logging; before = dict(os.environ), list(sys.path), "
        "signal.getsignal(signal.SIGINT), logging.getLogger().level; "
        "import dreamerv2.api as dv2; after = dict(os.environ), list(sys.path), "
        "signal.getsignal(signal.SIGINT), logging.getLogger().level; "
        "print(before == after, dv2.defaults.rssm.deter)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--nonsense", "1"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert (done.stdout, done.returncode) == ("True 1024\n", 0), done.stderr


def test_flags_change_the_config_of_a_script(monkeypatch, capsys):
    changed = dv2.defaults.update(steps=10).parse_flags(["--rssm.deter", "64"])
    assert (changed.steps, changed.rssm.deter) == (10, 64)
    monkeypatch.setattr(sys, "argv", ["/somewhere/my_script.py", "--stepz", "3"])
    with pytest.raises(SystemExit) as stop:
        dv2.defaults.parse_flags()
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert told == "my_script.py: Unknown flag '--stepz'; did you mean --steps?\n"


def test_presets_update_the_defaults():
    crafter = dv2.defaults.update(dv2.presets["crafter"])
    assert (crafter.task, crafter.rssm.norm) == ("crafter_reward", "layer")


def test_a_function_makes_environments_for_training_and_evaluation(tmp_path):
    made = []

    def make():
        made.append(Corridor())
        return made[-1]

    dv2.train(make, config(tmp_path, envs=2, eval_eps=2))
    assert len(made) == 4
    assert len(metrics(tmp_path, "eval_return")) == 2  # At 30 and 40.
    assert metrics(tmp_path, "model_loss")
    saved = (tmp_path / "config.yaml").read_text()
    assert "task: own_make" in saved and "envs: 2" in saved


def test_environments_may_live_in_processes(tmp_path):
    dv2.train(Corridor, config(tmp_path, envs=2, envs_parallel="process"))
    assert metrics(tmp_path, "eval_return")


def test_one_environment_trains_without_evaluation_and_the_same_call_goes_on(
    tmp_path, capsys
):
    dv2.train(Corridor(), config(tmp_path))
    assert metrics(tmp_path, "train_return")
    assert not metrics(tmp_path, "eval_return")
    capsys.readouterr()
    dv2.train(Corridor(), config(tmp_path, steps=50))
    assert "Resumed at step 40." in capsys.readouterr().out


def test_a_list_of_environments_is_used_as_it_is(tmp_path):
    seen = []
    envs, evaluation = [Corridor(), Corridor()], [Corridor()]
    dv2.train(envs, config(tmp_path), outputs=[seen.extend], eval_env=evaluation)
    assert all(hasattr(env, "cell") for env in [*envs, *evaluation])
    assert metrics(tmp_path, "eval_return")
    assert {"train_return", "eval_return", "model_loss"} <= {
        name for _, name, _ in seen
    }


def test_environments_in_our_own_interface_are_taken(tmp_path):
    small = {"cnn_kernels": [4, 4]}, {"cnn_kernels": [14, 6]}
    sizes = {"encoder": small[0], "decoder": small[1], "render_size": [32, 32]}
    dv2.train(lambda: ToyCatch(1), config(tmp_path).update(sizes))
    assert metrics(tmp_path, "image_loss")


def test_training_works_in_a_thread_too(tmp_path):
    thread = threading.Thread(target=dv2.train, args=(Corridor, config(tmp_path)))
    thread.start()
    thread.join()
    assert metrics(tmp_path, "eval_return")


@pytest.mark.parametrize(
    "env, changes, words",
    [
        ([], {}, "The list of environments is empty"),
        (Corridor(), {"envs_parallel": "process"}, "give a function that makes one"),
        (Corridor, {"logdir": "/dev/null"}, "No --logdir was given"),
        (Corridor, {"imag_horizon": 1}, "must be 2 or more"),
    ],
)
def test_what_cannot_work_is_said(tmp_path, env, changes, words):
    with pytest.raises(dv2.UsageError, match=words):
        dv2.train(env, config(tmp_path).update(changes))


def test_too_few_environments_for_evaluation_are_refused(tmp_path):
    both = [Corridor(), Corridor()]
    with pytest.raises(dv2.UsageError, match="1 environments were given for eval"):
        dv2.train(both, config(tmp_path, eval_eps=2), eval_env=[Corridor()])


class Broken(Corridor):
    def step(self, action):
        raise OSError("the cable is out")


def test_a_broken_environment_that_was_given_ends_the_run_with_its_error(tmp_path):
    told = r"own_Broken\) failed \(OSError: the cable is out\) after 0 restarts"
    with pytest.raises(dv2.RunFailed, match=told):
        dv2.train(Broken(), config(tmp_path))
    log = (tmp_path / "env_errors.log").read_text()
    assert "the cable is out" in log and "Traceback" in log


def test_a_function_is_asked_again_for_an_environment_that_broke(tmp_path, capsys):
    made = []

    def make():
        made.append(Broken() if not made else Corridor())
        return made[-1]

    dv2.train(make, config(tmp_path))
    assert len(made) == 3  # Training, evaluation, and training again.
    assert "restart 1 of 10" in capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    dv2.train(Corridor, config(folder))
    return folder


def test_a_trained_agent_is_loaded_and_acts_like_the_one_that_was_trained(trained):
    player = dv2.load(trained, Corridor())
    obs, total, steps = player.env.reset(), 0.0, 0
    while not obs["is_last"]:
        action = player(obs)
        assert player.env.act_space["action"].contains(action["action"])
        obs = player.env.step(action)
        total, steps = total + obs["reward"], steps + 1
    assert 10 <= steps <= 15  # The end of the corridor, or the run's time limit.
    episode = dv2.load(trained, Corridor).episode()
    assert len(episode["action"]) == steps + 1
    assert not episode["action"][0].any() and episode["is_last"][-1]
    # From the same state of the noise the same actions.
    again = dv2.load(trained, Corridor()).episode()
    assert np.array_equal(episode["action"], again["action"])


def test_an_agent_of_a_named_task_brings_its_environment(tmp_path):
    from run_tools import CATCH, ok, train_here

    ok(train_here(*CATCH, "--logdir", tmp_path, "--steps", 20))
    episode = dv2.load(tmp_path).episode(mode="train")
    assert episode["image"].shape[1:] == (64, 64, 1)
    assert abs(episode["reward"]).sum() >= 1


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: None, "is made in Python"),
        (lambda: ToyCatch(1), "'vector' of shape \\(3,\\) rather than none"),
    ],
)
def test_loading_says_what_does_not_fit(trained, make, words):
    with pytest.raises(dv2.UsageError, match=words):
        dv2.load(trained, make())


def test_loading_needs_a_run(tmp_path):
    with pytest.raises(dv2.UsageError, match="There is no agent in"):
        dv2.load(tmp_path)


def test_an_agent_is_exported_and_loaded_without_its_run(tmp_path, trained):
    dv2.export(trained, tmp_path / "out", name="mine")
    player = dv2.load(tmp_path / "out", Corridor())
    before = dv2.load(trained, Corridor())
    assert player.agent.config.task == before.agent.config.task
    obs = player.env.reset()
    np.testing.assert_array_equal(player(obs)["action"], before(obs)["action"])
