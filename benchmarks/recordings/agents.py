"""Runs an agent as the reference ran in a recording, and keeps what it computed."""

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from dreamerv2.agent import ActorCritic, Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.torchutils import Optimizer, named_tensors
from dreamerv2.running import reference
from recordings.recording import RecordedNoise, Recording

Results = dict[str, Any]

INPUTS = re.compile(
    r"config|params0/.*|update\d+/(\w+/)*noise/.*|update\d+/batch/.*"
    r"|policy/(obs|noise)\d+/.*|report/(batch|noise)/.*"
)
"""Names of the arrays that an agent is given; it must compute all the others."""


def compute(
    recording: Recording, precision: str, device: str, jit: bool, updates: int | None
) -> Results:
    """Everything in a whole agent's file, computed here, by the file's names.

    Updates, then the policy, then the open-loop video. With ``updates`` the agent
    stops after so many, and computes what comes with them alone.
    """
    agent = build_agent(recording, precision, device, jit)
    noise = recorded_noise(recording, agent)
    agent.noise = agent.eval_noise = noise
    reference.load_reference(agent, recording.group("params0"))
    noise.stage = "update0"
    if agent.precision.loss_scaling:
        settle_loss_scale(agent, recording.group("update0/batch"))
    tap = Tap(agent)
    results: Results = {}
    available = recording.count("update")
    for i in range(available if updates is None else updates):
        noise.stage = f"update{i}"
        metrics = agent.train(recording.group(f"update{i}/batch"))
        found = tap.results()
        found.update({f"metrics/{key}": value for key, value in metrics.items()})
        found["prior/stoch"] = _sample_prior(agent, found, noise)
        results.update({f"update{i}/{key}": value for key, value in found.items()})
        params = reference.to_reference(agent)
        results.update({f"params{i + 1}/{key}": x for key, x in params.items()})
    if updates is None:
        results.update(_policy(agent, recording, noise))
        results.update(_report(agent, recording, noise))
    return results


def build_agent(
    recording: Recording,
    precision: str,
    device: str,
    jit: bool,
    changes: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
) -> Agent:
    """An agent of the file's config, for the spaces that its first batch shows.

    The reference's Plan2Explore learns from pairs across episodes, too, so the mask
    that leaves them out is off.
    """
    config = Config(load_presets()["defaults"]).update(recording.config)
    config = config.update(
        {
            "device": device,
            "precision": precision,
            "jit": jit,
            "disag_mask_seams": False,
            **(changes or {}),
        }
    )
    shapes = {k: v.shape[2:] for k, v in recording.group("update0/batch").items()}
    spaces = {
        key: gymnasium.spaces.Box(-np.inf, np.inf, shape)
        for key, shape in shapes.items()
    }
    action = gymnasium.spaces.Box(-1, 1, shapes.pop("action"))
    del spaces["action"]
    action.discrete = _actor_dist(recording) == "onehot"
    return Agent(config, spaces, {"action": action}, Counter(0), ranks=ranks)


@torch.no_grad()
def settle_loss_scale(agent: Agent, batch: dict[str, np.ndarray]) -> None:
    """Lets float16's loss scale fall to where gradients are finite, as in a run's
    first updates, and takes everything else back."""
    state = named_tensors(agent.state_dict())
    before = {key: x.clone() for key, x in state.items() if not key.endswith("scale")}
    settled = False
    for _ in range(30):
        if settled:
            break
        with torch.enable_grad():
            agent.train(batch)
        settled = all(x > 0 for key, x in state.items() if key.endswith("good_steps"))
        for key, x in before.items():
            state[key].copy_(x)
        agent.carried = None


def recorded_noise(recording: Recording, agent: Agent) -> RecordedNoise:
    """Return the noise of a recording, for an agent."""
    latent = "gumbel" if recording.config["rssm"]["discrete"] else "normal"
    by_dist = {"onehot": "gumbel", "trunc_normal": "uniform"}
    kinds = {
        "observe_post": latent,
        "imagine_state": latent,
        "post": latent,
        "imagine_action": by_dist.get(_actor_dist(recording), "normal"),
    }
    members = recording.config["rssm"]["ensemble"]
    return RecordedNoise(recording, kinds, members, agent.precision.param, agent.device)


def _actor_dist(recording: Recording) -> str:
    """Return the actor's distribution; under ``auto``, the parameters tell it."""
    dist = recording.config["actor"]["dist"]
    if dist != "auto":
        return dist
    with_std = "params0/actor/out/std/kernel" in recording
    return "trunc_normal" if with_std else "onehot"


class Tap:
    """Listens to an agent's losses and gradients while it trains.

    Nothing is computed a second time: what is compared is what the agent used.
    """

    def __init__(self, agent: Agent):
        self._names = {
            id(param): name for name, param in reference.parameters(agent).items()
        }
        self._found: Results = {}
        self._tap_world_model(agent)
        self._tap_optimizer(agent.wm.opt)
        self._tap_behavior(agent.task_behavior, "task")
        if hasattr(agent.expl_behavior, "ac"):
            self._tap_optimizer(agent.expl_behavior.opt)
            self._tap_behavior(agent.expl_behavior.ac, "expl")

    def results(self) -> Results:
        """Return what was heard since the last call, by the names within an update."""
        found, self._found = self._found, {}
        return found

    def _keep(self, name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, part in value.items():
                self._keep(f"{name}/{key}", part)
        elif isinstance(value, Tensor):
            self._found[name] = value.detach().clone()

    def _tap_world_model(self, agent: Agent) -> None:
        loss = agent.wm.loss

        def tapped(*args: Any, **kwargs: Any) -> tuple:
            result = loss(*args, **kwargs)
            for key, value in result[2].items():
                self._keep("kl_value" if key == "kl" else key, value)
            return result

        agent.wm.loss = tapped

    def _tap_behavior(self, behavior: ActorCritic, name: str) -> None:
        loss = behavior.loss
        names = {
            "feat": "imagine/feat",
            "action": "imagine/action",
            "discount": "imagine/discount",
            "weight": "imagine/weight",
            "reward": "imagine/reward_normed",
            "target": "lambda_return",
        }

        def tapped(*args: Any, **kwargs: Any) -> tuple:
            result = loss(*args, **kwargs)
            for key, value in result[2].items():
                self._keep(f"{name}/{names.get(key, key)}", value)
            return result

        behavior.loss = tapped
        self._tap_optimizer(behavior.actor_opt)
        self._tap_optimizer(behavior.critic_opt)

    def _tap_optimizer(self, optimizer: Optimizer) -> None:
        gradients = optimizer.gradients

        def tapped(loss: Tensor) -> list[Tensor]:
            grads = gradients(loss)
            for param, grad in zip(optimizer.params, grads, strict=True):
                name = self._names[id(param)]
                self._keep(f"grads/{name}", reference.to_layout(grad))
            return grads

        optimizer.gradients = tapped


@torch.no_grad()
def _sample_prior(agent: Agent, found: Results, noise: RecordedNoise) -> Tensor:
    """Sample the prior's latents, as the reference does; nothing reads them."""
    rssm = agent.wm.rssm
    prefix = "prior/"
    stats = {k[len(prefix) :]: v for k, v in found.items() if k.startswith(prefix)}
    batch, length = stats["deter"].shape[:2]
    shape = (length, batch, *rssm.latent_shape)
    draws = noise("observe_prior", rssm.noise_kind, shape)
    return rssm.sample(stats, draws.transpose(0, 1))


def _policy(agent: Agent, recording: Recording, noise: RecordedNoise) -> Results:
    """Call the policy in eval mode, its state carried along."""
    results: Results = {}
    state = None
    for t in range(recording.count("policy/obs")):
        noise.stage = f"policy{t}"
        out, state = agent.policy(recording.group(f"policy/obs{t}"), state, mode="eval")
        latent, _ = state
        results[f"policy/action{t}"] = out["action"]
        results[f"policy/deter{t}"] = latent["deter"]
    return results


def _report(agent: Agent, recording: Recording, noise: RecordedNoise) -> Results:
    """Return the open-loop video of every image, if one was recorded."""
    data = recording.group("report/batch")
    if not data:
        return {}
    noise.stage = "report"
    return {f"report/{key}": value for key, value in agent.report(data).items()}
