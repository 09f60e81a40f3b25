"""What Async promises: the same environment elsewhere, and no way to hang."""

import functools
import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from dreamerv2.common.driver import Driver
from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.parallel import Async
from dreamerv2.common.suites.toys import ToyReach

both = pytest.mark.parametrize("strategy", ["thread", "process"])


class Troublesome:
    """Does what its action says; made in the worker, so pickled by value."""

    obs_space = act_space = {}

    def __init__(self, fail=None):
        if fail:
            raise fail

    def reset(self):
        return os.getpid()

    def step(self, action):
        if action == "raise":
            raise ZeroDivisionError("a very special failure")
        if action == "usage":
            raise UsageError("Mend me.")
        if action == "exit":
            os._exit(7)
        if action == "sleep":
            time.sleep(60)
        if action == "unpicklable":
            return (i for i in range(3))
        return action

    def close(self):
        self.closed = True


class BadlyClosing(Troublesome):
    def close(self):
        raise OSError("cannot close")


def alive(pid):
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=15):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@both
def test_it_behaves_as_the_environment_itself(strategy):
    here = ToyReach(seed=4, image=True)
    there = Async(functools.partial(ToyReach, 4, True), strategy)
    assert there.obs_space == here.obs_space
    assert there.act_space == here.act_space
    for _ in range(2):
        expected, obs = here.reset(), there.reset()()
        while True:
            assert set(obs) == set(expected)
            for key in obs:
                np.testing.assert_array_equal(obs[key], expected[key])
                assert np.asarray(obs[key]).dtype == np.asarray(expected[key]).dtype
            if obs["is_last"]:
                break
            action = {"action": here.oracle()}
            expected, obs = here.step(action), there.step(action)()
    assert there.call("render")().shape == (64, 64, 3)
    assert there.access("SPEED") == 0.2
    there.close()


@both
def test_it_runs_in_a_driver(strategy):
    envs = [Async(functools.partial(ToyReach, i), strategy) for i in range(2)]
    driver = Driver(envs)
    episodes = []
    driver.on_episode(lambda ep, worker: episodes.append((worker, ep)))
    driver(lambda obs, state: ({"action": np.ones((2, 2), np.float32)}, None), 50)
    [env.close() for env in envs]
    assert [worker for worker, _ in episodes] == [0, 1]
    for worker, episode in episodes:
        start = ToyReach(worker).reset()["position"]
        np.testing.assert_array_equal(episode["position"][0], start)
        assert len(episode["reward"]) == 26


def test_a_process_is_another_one_and_a_thread_is_not():
    with_thread, with_process = Async(Troublesome), Async(Troublesome, "process")
    assert with_thread.reset()() == os.getpid()
    assert with_process.reset()() != os.getpid()
    with_thread.close()
    with_process.close()


@both
def test_a_failure_is_raised_here_with_traceback_and_name(strategy):
    env = Async(Troublesome, strategy, name="atari_pong 3")
    with pytest.raises(RuntimeError) as info:
        env.step("raise")()
    text = str(info.value)
    assert "atari_pong 3" in text and "step" in text
    assert "ZeroDivisionError: a very special failure" in text
    assert 'raise ZeroDivisionError("a very special failure")' in text
    assert env.step("fine")() == "fine"  # The worker goes on.
    with pytest.raises(UsageError, match="^Mend me.$"):
        env.step("usage")()
    with pytest.raises(RuntimeError, match="pickle"):
        env.step("unpicklable")()
    with pytest.raises(RuntimeError, match="AttributeError"):
        env.access("nothing")
    env.close()


@both
def test_a_failing_constructor_is_raised_here(strategy):
    failing = functools.partial(Troublesome, UsageError("No such game."))
    with pytest.raises(UsageError, match="No such game"):
        Async(failing, strategy)
    failing = functools.partial(Troublesome, ValueError("odd"))
    with pytest.raises(RuntimeError, match="(?s)env 2 .*construction.*ValueError: odd"):
        Async(failing, strategy, name="env 2")


@both
def test_answers_find_their_promises_in_any_order(strategy):
    env = Async(Troublesome, strategy)
    promises = [env.step(i) for i in range(4)]
    assert [promises[i]() for i in (2, 0, 3, 1)] == [2, 0, 3, 1]
    env.close()


@both
def test_no_answer_in_time_is_an_error_and_closing_does_not_hang(strategy):
    env = Async(Troublesome, strategy, name="slow one", timeout=20)
    env._timeout = 0.2
    with pytest.raises(TimeoutError, match="slow one gave no answer to step.*0.2 s"):
        env.step("sleep")()
    start = time.monotonic()
    with pytest.warns(UserWarning, match="did not close within 0.2 s"):
        env.close(grace=0.2)
    assert time.monotonic() - start < 10
    if strategy == "process":
        assert env._worker.returncode is not None


def test_a_dead_process_is_an_error_with_its_exit_code():
    env = Async(Troublesome, "process", name="dying one")
    with pytest.raises(RuntimeError, match="dying one lost its process.*code 7"):
        env.step("exit")()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env.close()


@both
def test_closing_twice_is_fine_and_calling_after_it_is_an_error(strategy):
    env = Async(Troublesome, strategy, name="shut one")
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match="shut one is closed"):
        env.step(0)
    if strategy == "process":
        assert env._worker.returncode == 0


@both
def test_closing_with_open_promises_does_not_hang(strategy):
    env = Async(Troublesome, strategy)
    for i in range(5):
        env.step(np.full(100_000, i))
    env.close()
    assert not env._alive()


@both
def test_a_failure_of_the_environments_close_is_not_swallowed(strategy):
    env = Async(BadlyClosing, strategy)
    with pytest.raises(RuntimeError, match="cannot close"):
        env.close()
    assert not env._alive()


def test_dropping_the_object_ends_the_worker():
    env = Async(Troublesome, "process")
    worker = env._worker
    del env
    assert worker.returncode is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
@pytest.mark.parametrize("busy", [False, True])
def test_no_worker_outlives_a_killed_parent(busy):
    script = (
        "import time\n"
        "from dreamerv2.common.suites.parallel import Async\n"
        "class Env:\n"
        "    obs_space = act_space = {}\n"
        "    def step(self, action):\n"
        "        time.sleep(60)\n"
        "env = Async(Env, 'process')\n"  # Without a guard of __main__.
        f"{'env.step(0)' if busy else ''}\n"
        "print(env._worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        pid = int(parent.stdout.readline())
        assert alive(pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.communicate()
    assert wait_for(lambda: not alive(pid))


def test_a_worker_does_not_load_torch():
    def find():
        env = Troublesome()
        env.modules = list(sys.modules)
        return env

    env = Async(find, "process")
    modules = env.access("modules")
    env.close()
    assert "numpy" in modules and "torch" not in modules


def test_an_unknown_strategy_is_the_users_fault():
    with pytest.raises(UsageError, match="'fork': expected thread or process"):
        Async(Troublesome, "fork")
