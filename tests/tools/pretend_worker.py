"""Update and act on a pretended device, without numbers: run as a process of its own.

    python tests/tools/pretend_worker.py [lambda_return|action_noise]

PyTorch's fake tensors cannot be on `cuda` where it was built without: slices and sums
ask for a guard of the device. A backend that is set up in Python has one. With a name,
what that function of the agent returns is multiplied by a tensor of the host.
"""

import sys

import torch
from agent_tools import BATCH, make_agent, make_batch, make_obs
from torch._subclasses import FakeTensorMode
from torch.utils import backend_registration

import dreamerv2.agent
from dreamerv2.common import torchutils

backend_registration._setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended:0")
CHANGES = {"expl_noise": 0.1, "actor_grad": "both", "expl_behavior": "Plan2Explore"}


class Draws:
    """Noise without numbers."""

    def __init__(self, *args):
        pass

    def __call__(self, name, kind, shape):
        return torch.empty(tuple(shape), device=DEVICE)


def on_device(arrays):
    return {k: torch.as_tensor(x).to(DEVICE) for k, x in arrays.items()}


def spoilt(real):
    more = torch.ones(1)
    return lambda *args, **named: real(*args, **named) * more


def main(planted):
    torchutils.resolve_device = lambda name: DEVICE
    dreamerv2.agent.Noise = Draws
    torch.nn.Module.to = lambda self, *args, **named: self  # They are made there.
    with FakeTensorMode():
        with torch.device(DEVICE):
            agent = make_agent(CHANGES, True)
        for name in planted:
            setattr(dreamerv2.agent, name, spoilt(getattr(dreamerv2.agent, name)))
        state = agent.wm.rssm.initial(BATCH)
        out, _ = agent._update((on_device(make_batch()), state), agent.noise)
        latent = agent.wm.rssm.initial(4)
        inputs = on_device(make_obs(count=4)), (latent, latent["deter"].new_zeros(4, 3))
        with torch.no_grad():
            _, action = agent._choose(inputs, agent.noise, "train")
        print(out["deter"].device, action.device)


main(sys.argv[1:])
