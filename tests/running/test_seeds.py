"""Streams of random numbers: no two of a run, nor of neighbouring seeds, are one."""

import io
from contextlib import ExitStack, closing, redirect_stdout

import numpy as np
import torch
from tools.run_tools import CATCH, ok, train_here

from dreamerv2.common.config import load_presets
from dreamerv2.common.envs import make_env
from dreamerv2.common.flags import parse_config
from dreamerv2.running import environments
from dreamerv2.running.environments import Environments, Restarts
from dreamerv2.running.logdir import Logdir
from dreamerv2.running.seeds import STREAMS, derive_env_seed, derive_seed
from dreamerv2.running.signals import StopSignals
from dreamerv2.train import Trainer


def test_no_two_streams_share_a_seed():
    seeds = [
        derive_seed(seed, stream, *indices)
        for seed in (*range(50), 2**63 - 1)
        for stream in STREAMS
        for indices in ((), *((i, j) for i in range(4) for j in range(3)))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_of_environments_fit_every_simulator_and_differ():
    seeds = [
        derive_env_seed(seed, train, index, failures, episodes, step)
        for seed in range(4)
        for train in (True, False)
        for index in range(4)
        for failures in range(2)
        for episodes in range(3)
        for step in (0, 60)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def streams(folder, seed, *flags):
    """The first numbers of all streams of a run that has just been made."""
    made = []

    def make(config, env_seed, train):
        made.append(env_seed)
        return make_env(config, env_seed, train)

    flags = [*flags, "--envs", 4, "--eval_eps", 4, "--seed", seed]
    flags = [*CATCH, "--logdir", folder, *flags]
    config = parse_config([str(flag) for flag in flags], load_presets())
    with ExitStack() as stack, redirect_stdout(io.StringIO()):
        logdir = stack.enter_context(closing(Logdir(config)))
        run = Trainer(config, logdir, StopSignals(), stack, make)
        first = [np.random.default_rng(env_seed).random() for env_seed in made]
        assert len(first) == 8
        agent = run.learner.agent
        weights = agent.wm.rssm.state_dict().values()
        first.append(float(next(iter(weights)).flatten()[0]))
        noises = [agent.noise, agent.eval_noise]
        if config.async_training:
            noises.append(run.learner._copy.noise)
        first += [float(noise("", "uniform", [1])) for noise in noises]
        replays = run.train.replay, run.eval.replay
        first += [np.random.default_rng(r._seed).random() for r in replays]
        seed = derive_seed(seed, "random_agent")
        first.append(np.random.default_rng(seed).random())
        first += [float(torch.rand(())), np.random.random()]
    return first


def test_all_streams_of_runs_with_neighbouring_seeds_differ(tmp_path):
    flags = "--async_training", "True"
    found = [
        number
        for seed in range(4)
        for number in streams(tmp_path / str(seed), seed, *flags)
    ]
    assert len(set(found)) == len(found) == 4 * 17


def test_one_seed_gives_the_same_streams(tmp_path):
    assert streams(tmp_path / "a", 1) == streams(tmp_path / "b", 1)


def test_environments_begin_with_new_episodes_wherever_a_run_goes_on(
    tmp_path, monkeypatch
):
    """Where their states cannot be saved; the same stops play the same again."""
    seeds = []

    def make(config, seed, train):
        seeds.append(seed)
        return make_env(config, seed, train)

    def seeds_of_parts(folder):
        seeds.clear()
        for steps in (20, 30, 40):
            ok(train_here(*CATCH, "--logdir", tmp_path / folder, "--steps", steps))
        return list(seeds)

    monkeypatch.setattr(environments, "make_env", make)
    monkeypatch.setattr(environments, "state_of", lambda env: None)
    first = seeds_of_parts("a")
    assert len(set(first)) == len(first) == 6  # One to train, one to evaluate.
    assert seeds_of_parts("b") == first


def test_an_environment_that_fails_is_replaced_as_in_a_run_never_stopped(tmp_path):
    config = parse_config([*CATCH, "--logdir", str(tmp_path)], load_presets())
    restarts = Restarts(9, tmp_path)

    def made(*start):
        return Environments(config, 1, True, restarts, start=start)

    def replaced(envs):
        with redirect_stdout(io.StringIO()):
            return envs.replace(0, ValueError("broken")).reset()["image"]

    state = made(0, 0).state_dict()
    resumed, anew = made(2, 40), made(2, 40)
    assert resumed.load_state_dict(state) == ""
    never_stopped = replaced(made(0, 0))
    assert np.array_equal(replaced(resumed), never_stopped)
    assert not np.array_equal(replaced(anew), never_stopped)
