"""How an agent's networks are made: seeded weights, dtype, device, compilation."""

from collections.abc import Mapping

import torch
from torch import nn

from dreamerv2.common import torchutils
from dreamerv2.common.config import Config
from dreamerv2.common.other import StreamNorm


class Builder:
    """Makes the agent's networks: seeded weights, dtype, device, compilation."""

    def __init__(
        self,
        device: torch.device,
        precision: torchutils.Precision,
        generator: torch.Generator,
        jit: bool,
    ):
        self.device = device
        self.precision = precision
        self._generator = generator
        self._jit = jit and torchutils.can_compile()
        if jit and not self._jit:
            print("No C++ compiler found: running without torch.compile (jit).")

    def __call__(self, module: nn.Module) -> nn.Module:
        """Initializes a network and puts it where it computes."""
        torchutils.init_weights(module, self._generator)
        module.to(self.device, self.precision.param)
        module.to(memory_format=torch.channels_last)
        for part in module.modules() if self._jit else ():
            if hasattr(part, "compile_parts"):
                part.compile_parts()
        return module

    def optimizer(
        self, name: str, networks: Mapping[str, nn.Module], config: Config
    ) -> torchutils.Optimizer:
        """An optimizer of all parameters of the networks, by their dotted names."""
        params = {
            f"{key}.{name}": param
            for key, network in networks.items()
            for name, param in network.named_parameters()
        }
        scaling = self.precision.loss_scaling
        return torchutils.Optimizer(name, params, **config, loss_scaling=scaling)

    def stream_norm(self, config: Config) -> StreamNorm:
        dtype = self.precision.param
        return StreamNorm(**config, device=self.device, dtype=dtype)
