"""An update and the policy can be CUDA graphs: what they do not do, and addresses."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from agent_tools import BATCH, GAUSSIAN, make_agent, make_batch, make_obs
from capture_tools import Capturable, Forbidden, tensors_in

import dreamerv2.agent
from dreamerv2.common import torchutils
from dreamerv2.common.torchutils import named_tensors

pytestmark = pytest.mark.usefixtures("one_thread")

META = torch.device("meta")

PLAN2EXPLORE = {
    **{"expl_behavior": "Plan2Explore", "expl_extr_scale": 0.5, "disag_log": True},
    **{"reward_norm.momentum": 0.9, "expl_reward_norm.momentum": 0.9},
}
BOTH = {
    **{"actor_grad": "both", "actor_grad_mix": "linear(1,0.1,100)"},
    **{"actor_ent": "exp(0.1,0.01,50)", "expl_noise": 0.1, "eval_noise": 0.1},
}

# Settings, and whether actions are discrete.
CONFIGS = {
    "reinforce": ({}, True),
    "dynamics": ({"actor_grad": "dynamics"}, False),
    "both": (BOTH, True),
    "both, box": ({**BOTH, "rssm.ensemble": 5, "kl.free_avg": False}, False),
    "gaussian": ({**GAUSSIAN, "slow_target": False, "rssm.ensemble": 5}, True),
    "tanh": ({"actor.dist": "tanh_normal", "pred_discount": False}, False),
    "Plan2Explore": (PLAN2EXPLORE, True),
    "ModelLoss": ({"expl_behavior": "ModelLoss", "slow_baseline": False}, False),
    "random": ({"expl_behavior": "Random", r".*\.norm": "layer"}, False),
    "float16": ({"precision": "float16"}, True),
    "bfloat16": ({"precision": "bfloat16", "kl.balance": 0.5}, False),
}
CONFIGS["tanh"][0]["grad_heads"] = ["decoder", "reward"]


def act_and_learn(agent, discrete):
    """Every function that is captured, under a strict eye. Returns the ops seen."""
    batch = agent.to_device(make_batch(discrete=discrete))
    state = agent.wm.rssm.initial(BATCH)
    agent._update((batch, state), agent.noise)  # So that nothing is done at first.
    with Capturable() as watched:
        out = agent._update((batch, state), agent.noise)
    # Autograd's graph must be gone, with the streams that it remembers.
    assert not [x for x in tensors_in(list(out)) if x.requires_grad]
    obs = agent.to_device(make_obs(count=4))
    action = state["deter"].new_zeros(4, 3)
    latent = agent.wm.rssm.initial(4)
    for mode in ("train", "explore", "eval"):
        with Capturable(), torch.no_grad():
            agent._choose((obs, (latent, action)), agent.noise, mode)
    return watched.seen


@pytest.mark.parametrize("name", CONFIGS)
def test_neither_update_nor_policy_waits_for_the_device_or_takes_from_the_host(name):
    changes, discrete = CONFIGS[name]
    seen = act_and_learn(make_agent(changes, discrete), discrete)
    assert {"_foreach_sub_", "_fused_adam_", "convolution_backward"} <= seen


class OnMeta:
    """Noise without numbers."""

    def __init__(self, *args):
        pass

    def __call__(self, name, kind, shape):
        return torch.empty(tuple(shape), device=META)


@pytest.fixture
def on_meta(monkeypatch):
    """Agents are on the device that has no numbers, and go the ways of a GPU."""
    monkeypatch.setattr(torchutils, "resolve_device", lambda name: META)
    monkeypatch.setattr(dreamerv2.agent, "Noise", OnMeta)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)


@pytest.mark.parametrize("name", ["both, box", "Plan2Explore", "random"])
def test_on_another_device_no_tensor_of_the_host_takes_part(name, on_meta):
    changes, discrete = CONFIGS[name]
    agent = make_agent(changes, discrete)
    assert {p.device for p in agent.wm.rssm.parameters()} == {META}
    act_and_learn(agent, discrete)


@pytest.mark.parametrize("place", ["lambda_return", "action_noise"])
@pytest.mark.parametrize("planted", [torch.ones(()), torch.ones(1)], ids=["0d", "1d"])
def test_a_tensor_of_the_host_is_found_in_an_update_and_in_the_policy(
    place, planted, on_meta, monkeypatch
):
    """The same agent passes without it, see above."""
    agent = make_agent(*CONFIGS["both, box"])
    real = getattr(dreamerv2.agent, place)

    def spoilt(*args, **kwargs):
        return real(*args, **kwargs) * planted

    # The first update is not watched; PyTorch, too, finds what is not 0-d.
    monkeypatch.setattr(dreamerv2.agent, place, spoilt)
    with pytest.raises((Forbidden, RuntimeError), match="cpu"):
        act_and_learn(agent, False)


TOOLS = Path(__file__).parent.parent / "tools"
PYTHON_BACKENDS = "_setup_privateuseone_for_python_backend"  # PyTorch 2.6 has none.


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, PYTHON_BACKENDS),
    reason="this PyTorch makes no device in Python",
)
@pytest.mark.parametrize("planted", [None, "lambda_return", "action_noise"])
def test_fake_tensors_on_a_pretended_device_find_one_of_the_host(planted):
    command = [
        sys.executable,
        TOOLS / "pretend_worker.py",
        *([planted] * bool(planted)),
    ]
    path = os.pathsep.join([str(TOOLS), *sys.path])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if planted:
        assert "found at least two devices, pretended:0 and cpu" in done.stderr
        assert done.returncode and planted in done.stderr
    else:
        assert done.stdout.split()[-2:] == ["pretended:0"] * 2, done.stderr


@pytest.mark.parametrize(
    "spoil",
    {
        "item": lambda x: x.sum().item(),
        "branch": lambda x: 1 if x.sum() > 0 else 0,
        "mask": lambda x: x[x > 0],
        "mask_write": lambda x: x.clone().index_put_((x > 0,), x[:1]),
        "nonzero": lambda x: x.nonzero(),
        "equal": lambda x: torch.equal(x, x),
        "unique": lambda x: torch.unique(x),
        "constant": lambda x: x + torch.tensor(1.0),
        "array": lambda x: x + torch.as_tensor(np.ones(4)),
        "list": lambda x: x.new_tensor([1.0]),
        "random": lambda x: x + torch.rand(4),
        "dropout": lambda x: torch.nn.functional.dropout(x),
        "in_place": lambda x: x.clone().normal_(),
        "multinomial": lambda x: torch.multinomial(x, 1),
        "transfer": lambda x: x.to(META),
        "foreach": lambda x: torch._foreach_lerp_([x.clone()], [x], x.mean()),
    }.items(),
    ids=lambda item: item[0],
)
def test_the_eye_sees_what_cannot_be_captured(spoil):
    with Capturable(), pytest.raises(Forbidden):
        spoil[1](torch.ones(4))


def test_the_eye_sees_a_number_of_the_host_among_those_of_the_device():
    number = torch.ones(())  # Which PyTorch takes to a device by itself, and waits.
    with Capturable(), pytest.raises(Forbidden, match="on cpu and meta"):
        torch.ones(4, device=META) * number


def test_what_the_eye_lets_pass():
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(4)
    with Capturable():
        x.clone().normal_(generator=generator)
        x[torch.where(x > 0, 1, 0)] + 1.0 + x.new_zeros(4).fill_(3)
        torch.where(x.mean() > 0, 1.0, 0.5) * x


def addresses(agent):
    tensors = {**named_tensors(agent.state_dict()), "counter": agent._step}
    if hasattr(agent.expl_behavior, "_low"):
        tensors["low"] = agent.expl_behavior._low
    # The state of the random numbers is none: it is read out for the checkpoint. What
    # is carried over is new each time.
    others = ("noise.generator", "eval_noise.generator", "carried.")
    return {k: x.data_ptr() for k, x in tensors.items() if not k.startswith(others)}


@pytest.mark.parametrize("name", ["both, box", "Plan2Explore", "float16", "random"])
def test_everything_that_an_update_changes_stays_where_it_is(name):
    changes, discrete = CONFIGS[name]
    agent = make_agent(changes, discrete)
    before = addresses(agent)
    numbers = copy.deepcopy(named_tensors(agent.state_dict()))
    for seed in range(3):
        agent.train(make_batch(seed, discrete))
        agent.policy(make_obs(seed))
        assert addresses(agent) == before
    other = make_agent({**changes, "seed": 7}, discrete)
    other.train(make_batch(3, discrete))
    agent.load_state_dict(other.state_dict())
    agent.train(make_batch(4, discrete))
    assert addresses(agent) == before
    if name == "float16":  # The first steps are skipped, to find a scale.
        return
    after = named_tensors(agent.state_dict())
    same = [name for name, x in numbers.items() if x.equal(after[name])]
    # Without loss scaling, or with a norm that is off, these never change.
    still = ("good_steps", "mu_product", "mag")
    assert {name for name in same if not name.endswith(still)} == set()


def test_what_an_update_returns_is_no_part_of_the_agent():
    agent = make_agent()
    kept = set(addresses(agent).values())
    metrics = agent.train(make_batch())
    found = {x.data_ptr() for x in tensors_in([agent.carried, metrics])}
    assert not found & kept
    batch, latent = agent.to_device(make_batch()), agent.wm.rssm.initial(BATCH)
    given = {x.data_ptr() for x in tensors_in([batch, latent])}
    out = agent._update((batch, latent), agent.noise)
    assert not {x.data_ptr() for x in tensors_in(list(out))} & given
