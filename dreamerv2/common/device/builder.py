"""Making an agent's networks."""

import shutil
from collections.abc import Mapping

import torch
from torch import nn

from dreamerv2.common import torchutils
from dreamerv2.common.config import Config
from dreamerv2.common.device.capture import cause
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.other import StreamNorm


class Builder:
    """Makes the agent's networks: seeded weights, dtype, device, compilation."""

    def __init__(
        self,
        device: torch.device,
        precision: torchutils.Precision,
        generator: torch.Generator,
        jit: bool,
        learns: bool = True,
        ranks: Ranks = ALONE,
    ):
        self.device, self.precision, self.ranks = device, precision, ranks
        self._generator, self._learns = generator, learns
        trouble = compile_trouble(device) if jit else None
        self._jit = jit and trouble is None
        if trouble:
            print(f"{trouble}: running without torch.compile (jit).")

    def __call__(self, module: nn.Module) -> nn.Module:
        """Initialize a network and put it where it computes."""
        torchutils.init_weights(module, self._generator)
        module.to(self.device, self.precision.param)
        module.to(memory_format=torch.channels_last)
        for part in module.modules() if self._jit else ():
            if hasattr(part, "compile_parts"):
                part.compile_parts()
        return module

    def optimizer(
        self, name: str, networks: Mapping[str, nn.Module], config: Config
    ) -> torchutils.Optimizer | None:
        """Make an optimizer of the networks' parameters; None without learning."""
        if not self._learns:
            return None
        params = {
            f"{key}.{name}": param
            for key, network in networks.items()
            for name, param in network.named_parameters()
        }
        more = {"loss_scaling": self.precision.loss_scaling, "ranks": self.ranks}
        return torchutils.Optimizer(name, params, **config, **more)

    def stream_norm(self, config: Config) -> StreamNorm:
        """Make a norm of rewards."""
        dtype, ranks = self.precision.param, self.ranks
        return StreamNorm(**config, device=self.device, dtype=dtype, ranks=ranks)


def compile_trouble(device: torch.device) -> str | None:
    """Say why torch.compile does not work for this device; None if it does. A GPU needs
    more than a compiler, so something small is compiled and run there."""
    if device.type == "cpu":
        return None if torchutils.can_compile() else "No C++ compiler found"
    try:
        torchutils.compiled(lambda x: x.tanh().sum())(torch.ones(8, device=device))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Whatever it is: there is another way to go on.
        return f"torch.compile does not work here ({cause(error)})"
    return None


def no_gpu() -> str:
    """Say that PyTorch sees no GPU; there may be one all the same."""
    if not shutil.which("nvidia-smi"):
        return "PyTorch sees no CUDA GPU."
    made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs alone"
    return (
        "PyTorch sees no CUDA GPU, though an NVIDIA driver is installed: this build of "
        f"PyTorch is for {made_for}; compare that with what nvidia-smi says, and "
        "install a newer driver or another build of PyTorch."
    )
