"""Small agents, random batches and gradients by name, for tests of what learns."""

import numpy as np
import torch
from gymnasium.spaces import Box

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.networks.noise import Noise
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.suites.wrappers import OneHotSpace
from dreamerv2.running import reference

BATCH, LENGTH = 3, 6

SMALL = {
    "device": "cpu",
    "precision": "32",
    "jit": False,
    "rssm": {"hidden": 10, "deter": 9, "stoch": 4, "discrete": 3},
    "encoder": {"cnn_depth": 2, "cnn_kernels": [4, 3], "mlp_layers": [8]},
    "decoder": {"cnn_depth": 2, "cnn_kernels": [3, 4], "mlp_layers": [8]},
    "(reward_head|discount_head|expl_head|actor|critic).layers": 1,
    "(reward_head|discount_head|expl_head|actor|critic).units": 8,
    "imag_horizon": 4,
    "dataset": {"batch": BATCH, "length": LENGTH},
    "disag_models": 3,
}

GAUSSIAN = {"rssm.discrete": 0}

NO_DECAY = {r".*_opt\.wd": 0.0}
"""With it, what moves a parameter is its gradient."""

# What an actor-critic logs; the task's as they are here, the exploration's with expl_
# before them, as what its predictors and their reward do.
TRAINED = """
    actor_loss actor_grad_norm actor_ent actor_ent_scale critic critic_loss
    critic_grad_norm critic_slow critic_target reward_mean reward_std
    reward_normed_mean reward_normed_std
""".split()
PREDICTED = """
    expl_loss expl_grad_norm intr_reward_mean intr_reward_std
    intr_reward_normed_mean intr_reward_normed_std
""".split()
EXPLORED = [f"expl_{key}" for key in TRAINED + PREDICTED]


def small_config(changes=None):
    """The defaults with tiny networks, for 8x8 images."""
    config = Config(load_presets()["defaults"]).update(SMALL)
    return config.update(changes or {})


def spaces(discrete=True, image=True, actions=3):
    """(obs_space, act_space): an image, a float and an int vector, and one to log."""
    obs_space = {
        "vector": Box(-np.inf, np.inf, (3,), np.float32),
        "count": Box(0, 2**31 - 1, (2,), np.int32),
        "log_stat": Box(-np.inf, np.inf, (5,), np.float32),
        **signal_spaces(),
    }
    if image:
        obs_space["image"] = Box(0, 255, (8, 8, 1), np.uint8)
    action = OneHotSpace(actions) if discrete else Box(-1, 1, (actions,), np.float32)
    return obs_space, {"action": action}


def make_agent(changes=None, discrete=True, image=True, step=0):
    return Agent(small_config(changes), *spaces(discrete, image), Counter(step))


def make_batch(seed=0, discrete=True, image=True, batch=BATCH, length=LENGTH):
    """Random sequences (batch, length, ...) in which the last row has a second
    episode from its middle on and the first ends terminally."""
    rng = np.random.default_rng(seed)
    shape = (batch, length)
    data = {
        "vector": rng.normal(size=(*shape, 3)).astype(np.float32),
        "count": rng.integers(0, 5, (*shape, 2)).astype(np.int32),
        "log_stat": rng.normal(size=(*shape, 5)).astype(np.float32),
        "reward": rng.normal(size=shape).astype(np.float32),
        "is_first": np.zeros(shape, bool),
        "is_last": np.zeros(shape, bool),
        "is_terminal": np.zeros(shape, bool),
    }
    if image:
        data["image"] = rng.integers(0, 256, (*shape, 8, 8, 1)).astype(np.uint8)
    if discrete:
        data["action"] = np.eye(3, dtype=np.float32)[rng.integers(0, 3, shape)]
    else:
        data["action"] = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    data["is_first"][:, 0] = True
    data["is_first"][-1, length // 2] = True
    data["is_last"][0, -1] = data["is_terminal"][0, -1] = True
    return data


def make_obs(seed=0, count=2, first=True):
    """Random observations of ``count`` environments, without actions."""
    data = make_batch(seed, batch=count, length=2)
    obs = {k: v[:, 0] for k, v in data.items() if k != "action"}
    return {**obs, "is_first": np.full(count, first)}


def snapshot(agent):
    """Copies of all parameters, by the names ``network/layer/kernel``."""
    params = reference.parameters(agent)
    return {name: param.detach().clone() for name, param in params.items()}


def moved(before, agent):
    """Names of the parameters that differ from a snapshot."""
    after = reference.parameters(agent)
    return {name for name, old in before.items() if not torch.equal(old, after[name])}


def names_of(agent, *networks):
    """Names of all parameters of these networks."""
    names = reference.parameters(agent)
    return {name for name in names if name.split("/")[0] in networks}


def gradients(loss, agent):
    """Gradients of a loss by name; parameters it does not reach are left out."""
    params = {k: p for k, p in reference.parameters(agent).items() if p.requires_grad}
    if not loss.requires_grad:
        return {}
    found = torch.autograd.grad(
        loss, list(params.values()), allow_unused=True, retain_graph=True
    )
    return {
        name: grad for name, grad in zip(params, found, strict=True) if grad is not None
    }


def networks_of(grads):
    """The networks that a loss reaches, whose gradients are all finite."""
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    return {name.split("/")[0] for name, grad in grads.items() if grad.any()}


class Replayed:
    """Noise that gives the draws it is handed by name, and the others seeded.

    ``asked`` keeps every name, kind and shape.
    """

    def __init__(self, seed=0, **draws):
        self._noise = Noise(seed)
        self._draws = draws
        self.asked = []

    def __call__(self, name, kind, shape):
        self.asked.append((name, kind, tuple(shape)))
        if name in self._draws:
            return torch.as_tensor(self._draws[name], dtype=torch.float32)
        return self._noise(name, kind, shape)
