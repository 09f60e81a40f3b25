"""Every preset, and every way to explore and to act, runs ten steps."""

import math

import numpy as np
import pytest
from agent_tools import make_batch, moved, snapshot
from gymnasium.spaces import Box
from run_tools import TINY, checkpoint, episodes, metrics, ok, train_here

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.suites.wrappers import OneHotSpace

CATCH, PONG, REACH = "toy_catch", "atari_pong", "toy_reach"
VECTORS = {"position", "target"}

# Per preset: --configs, a task that needs no optional package, and what the encoder
# sees and the decoder predicts there.
PRESETS = {
    "defaults": ("defaults", REACH, {"image", *VECTORS}),
    "atari": ("atari", PONG, {"image"}),
    "atari_paper": ("atari atari_paper", PONG, {"image"}),
    "crafter": ("crafter", CATCH, {"image"}),
    "dmc_vision": ("dmc_vision", REACH, {"image"}),
    "dmc_proprio": ("dmc_proprio", REACH, VECTORS),
    "debug": ("debug", CATCH, {"image"}),
    "small": ("small", PONG, {"image"}),
    "small_boxing": ("small small_boxing", PONG, {"image"}),
    "minigrid": ("minigrid", REACH, VECTORS),
    "gym": ("gym", REACH, {"image", *VECTORS}),
    "retro": ("retro", PONG, {"image"}),
}


def ten_steps(logdir, *flags):
    """At least ten steps after a prefill of one episode. Returns what it printed, the
    metrics of its updates, and its checkpoint."""
    seldom = "--envs 1 --log_every 7 --eval_every 1000".split()  # Videos take long.
    flags = [*TINY, *seldom, *flags, "--steps", "35", "--logdir", logdir]
    result = ok(train_here(*flags))
    lines = metrics(logdir)
    assert all(math.isfinite(x) for line in lines for x in line.values())
    trained = [line for line in lines if "model_loss" in line]
    assert len(trained) >= 2
    saved = checkpoint(logdir)
    assert saved["step"]["value"] >= 35
    assert saved["agent"]["task_behavior"]["updates"] >= 4
    return result.out, trained, saved


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_ten_steps(name, tmp_path):
    presets, task, seen = PRESETS[name]
    flags = ["--configs", *presets.split(), "--task", task]
    out, trained, saved = ten_steps(tmp_path, *flags)
    config = Config.read(tmp_path / "config.yaml")
    losses = {key for key in trained[0] if key.endswith("_loss")}
    heads = seen | {"reward"} | ({"discount"} if config.pred_discount else set())
    assert losses == {
        f"{part}_loss" for part in heads | {"kl", "model", "actor", "critic"}
    }
    (line,) = (line for line in out.splitlines() if line.startswith("The encoder sees"))
    parts = line.removeprefix("The encoder sees ").split("; the decoder predicts ")
    assert [set(part.rstrip(".").split(", ")) for part in parts] == [seen, seen]
    normed = any("norm" in key for key in saved["agent"]["task_behavior"]["critic"])
    assert normed == (config.critic["norm"] == "layer") == (name == "crafter")
    assert {line["step"] % config.action_repeat for line in trained} == {0}
    count = {PONG: 18 if name == "atari_paper" else 6, CATCH: 3, REACH: 2}[task]
    assert episodes(tmp_path / "train_episodes")[0]["action"].shape[1] == count


def test_no_preset_is_left_out():
    assert set(PRESETS) == set(load_presets())


@pytest.mark.parametrize(
    "names", ["atari", "crafter", "dmc_vision", "small", "small small_boxing"]
)
def test_the_networks_of_a_preset_learn_in_their_own_size(names, one_thread):
    presets = load_presets()
    config = Config(presets["defaults"])
    for name in names.split():
        config = config.update(presets[name])
    eager = {"jit": False, "device": "cpu", "precision": "32"}
    config = config.update({**eager, "kl.free": 0.0})  # So that the prior learns too.
    shape = (*config.render_size, 1)
    obs_space = {"image": Box(0, 255, shape, np.uint8), **signal_spaces()}
    agent = Agent(config, obs_space, {"action": OneHotSpace(3)}, Counter())
    batch = make_batch(batch=1, length=2)
    batch["image"] = np.random.default_rng(0).integers(0, 256, (1, 2, *shape), np.uint8)
    before = snapshot(agent)
    assert all(math.isfinite(loss) for loss in agent.train(batch).values())
    stayed = set(before) - moved(before, agent)
    assert {name for name in stayed if not name.startswith("target_")} == set()


GAUSSIAN = ["--rssm.discrete", "0"]
ENSEMBLE = ["--disag_target", "feat", "--disag_log", "True", "--expl_extr_scale", "0.5"]
EXPLORING = {
    "Random, discrete": (CATCH, "Random", []),
    "Random, continuous": (REACH, "Random", []),
    "Plan2Explore": (CATCH, "Plan2Explore", []),
    "Plan2Explore, Gaussian": (REACH, "Plan2Explore", [*GAUSSIAN, *ENSEMBLE]),
    "ModelLoss": (REACH, "ModelLoss", []),
    "ModelLoss of the image": (CATCH, "ModelLoss", ["--expl_model_loss", "image"]),
}


@pytest.fixture
def modes(monkeypatch):
    """Steps of the modes in which the agent is asked to act while training."""
    asked = {"train": [], "explore": [], "eval": []}
    policy = Agent.policy

    def spy(self, obs, state=None, mode="train"):
        asked[mode].append(int(self._counter))
        return policy(self, obs, state, mode)

    monkeypatch.setattr(Agent, "policy", spy)
    return asked


@pytest.mark.parametrize("name", EXPLORING)
def test_every_way_to_explore_runs_until_its_step(name, tmp_path, modes):
    task, behavior, more = EXPLORING[name]
    flags = ["--task", task, "--expl_behavior", behavior, "--expl_until", "30", *more]
    _, trained, _ = ten_steps(tmp_path, *flags)
    first = min(modes["explore"])
    assert modes["explore"] == list(range(first, 30))
    assert modes["train"] == list(range(30, 35))
    explored = {key for key in trained[0] if key.startswith("expl_")}
    if behavior == "Random":
        assert not explored
    else:
        assert {"expl_expl_loss", "expl_actor_loss", "expl_critic_loss"} <= explored


ACTING = {
    "both, discrete": [CATCH, "--actor_grad", "both"],
    "both, continuous": [REACH, "--actor_grad", "both"],
    "both, by a schedule": [CATCH, "--actor_grad", "both"]
    + ["--actor_grad_mix", "linear(1,0,50)", "--actor_ent", "exp(1,0,10)"],
    "dynamics, discrete": [CATCH, "--actor_grad", "dynamics"],
    "reinforce, continuous": [REACH, "--actor_grad", "reinforce"],
    "tanh_normal": [REACH, "--actor.dist", "tanh_normal"],
    "normal": [REACH, "--actor.dist", "normal", "--actor_grad", "reinforce"],
    "Gaussian, discrete actions": [CATCH, *GAUSSIAN],
    "Gaussian, continuous actions": [REACH, *GAUSSIAN, "--rssm.std_act", "softplus"],
    "bfloat16": [CATCH, "--precision", "bfloat16"],
    "bfloat16, Gaussian, continuous": [REACH, *GAUSSIAN, "--precision", "bfloat16"],
    "an ensemble of priors": [CATCH, "--rssm.ensemble", "3"],
    "noise": [CATCH, "--expl_noise", "0.5", "--eval_noise", "0.5"]
    + ["--eval_state_mean", "True"],
    "no slow target": [CATCH, "--slow_target", "False", "--slow_baseline", "False"],
}


@pytest.mark.parametrize("name", ACTING)
def test_every_way_to_act_and_to_learn_runs(name, tmp_path):
    task, *flags = ACTING[name]
    _, _, saved = ten_steps(tmp_path, "--task", task, *flags)
    latent = saved["agent"]["carried"]
    gaussian = "--rssm.discrete" in flags
    assert set(latent) == {
        "deter",
        "stoch",
        *(["mean", "std"] if gaussian else ["logit"]),
    }
    parameters = saved["agent"]["wm"]["encoder"].values()
    assert {str(value.dtype) for value in parameters} == {"torch.float32"}
    for episode in episodes(tmp_path / "train_episodes"):
        assert np.abs(episode["action"]).max() <= 1


def test_the_share_of_dynamics_in_both_follows_its_schedule(tmp_path):
    flags = ["--actor_grad", "both", "--actor_grad_mix", "linear(1,0,50)"]
    flags += ["--train_every", "5", "--log_every", "5", "--task", CATCH]
    _, trained, _ = ten_steps(tmp_path, *flags)
    # One update per line, but for the first, which holds the pretraining's, too.
    for line in trained[1:]:
        assert line["actor_grad_mix"] == pytest.approx(1 - line["step"] / 50)
