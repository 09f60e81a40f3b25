"""Parameters by the names and in the layouts of the TensorFlow 2 reference.

A name is the path of a parameter in the reference, such as ``rssm/gru/kernel`` or
``decoder/conv0/bias``: the network (encoder, rssm, decoder, reward, discount, actor,
critic, target_critic; with exploration expl_head0.., expl_actor, expl_critic,
expl_target_critic), the layer, and ``kernel``, ``bias``, or for norms ``scale``,
``offset``. Kernels lie as in TensorFlow: dense (in, out); convolution (height, width,
in, out); transposed convolution (height, width, out, in).

To bring a trained reference agent here: its checkpoint is a list of values without
names, so load it there, write one array under each of these names with
``numpy.savez(path, **arrays)``, and call ``load_reference(agent, numpy.load(path))`` on
an agent of the same config. Optimizer moments do not come along."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dreamerv2.agent import ActorCritic, Agent
from dreamerv2.common.errors import match_state
from dreamerv2.expl import Seeker


def to_reference(agent: Agent) -> dict[str, np.ndarray]:
    """Copy every parameter of an agent, in the reference's layout."""
    return {
        name: to_layout(param.detach()).cpu().numpy().copy()
        for name, param in parameters(agent).items()
    }


@torch.no_grad()
def load_reference(agent: Agent, params: Mapping[str, np.ndarray]) -> None:
    """Copy parameters, by name in the reference's layout, into an agent; UsageError for
    others, and nothing changed. Without a slow critic, ``target_critic`` may lack."""
    known = parameters(agent)
    slow = agent.config.slow_target
    needed = [name for name in known if slow or "target_critic/" not in name]
    expected = {name: to_layout(known[name]) for name in needed}
    params = {k: v for k, v in params.items() if k in expected or k not in known}
    match_state(expected, params, "The set of parameters")
    for name in needed:
        known[name].copy_(from_layout(torch.as_tensor(np.asarray(params[name]))))


def parameters(agent: Agent) -> dict[str, nn.Parameter]:
    """Return the parameters themselves, in our layout, by the reference's names."""
    named = {}
    for prefix, network in _networks(agent):
        named.update(named_parameters(network, prefix))
    return named


def named_parameters(network: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    """Return a network's parameters by the reference's names, `prefix/...`."""
    named = {}
    for path, layer in network.named_modules():
        leaves = {"weight": "kernel", "bias": "bias"}
        if isinstance(layer, nn.LayerNorm):
            leaves = {"weight": "scale", "bias": "offset"}
        # The reference's GRU cell is the linear map itself.
        parts = [part for part in path.split(".") if part and part != "linear"]
        for leaf, param in layer.named_parameters(recurse=False):
            named["/".join([prefix, *parts, leaves[leaf]])] = param
    return named


def to_layout(x: Tensor) -> Tensor:
    """Turn a parameter or its gradient from our layout to the reference's: (out, in) ->
    (in, out); (out, in, h, w) -> (h, w, in, out); vectors as they are."""
    return x.permute(2, 3, 1, 0) if x.ndim == 4 else x.T if x.ndim == 2 else x


def from_layout(x: Tensor) -> Tensor:
    """Undo to_layout."""
    return x.permute(3, 2, 0, 1) if x.ndim == 4 else x.T if x.ndim == 2 else x


def _networks(agent: Agent) -> Iterator[tuple[str, nn.Module]]:
    yield "encoder", agent.wm.encoder
    yield "rssm", agent.wm.rssm
    yield from agent.wm.heads.items()
    yield from _actor_critic(agent.task_behavior, "")
    if isinstance(expl := agent.expl_behavior, Seeker):
        for k, head in enumerate(getattr(expl, "heads", [expl.predictors])):
            yield f"expl_head{k}", head
        yield from _actor_critic(expl.ac, "expl_")


def _actor_critic(ac: ActorCritic, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    yield f"{prefix}actor", ac.actor
    yield f"{prefix}critic", ac.critic
    yield f"{prefix}target_critic", ac.slow if ac.config.slow_target else ac.critic
