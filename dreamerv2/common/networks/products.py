"""Matrix products, by the library that is fast at them.

PyTorch leaves float32 products on a CPU to MKL, which gives AMD's processors the code
for AVX2 though they have AVX-512; oneDNN, which PyTorch has for convolutions, uses all
of it and is twice as fast. Everything else, such as GPUs, gets PyTorch's choice.
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 32  # Rows, columns and sums; for fewer, preparing takes as long.


@functools.cache
def _onednn() -> Any:
    """Return oneDNN's linear map if it is the faster one here, else None."""
    cpus = Path("/proc/cpuinfo")
    amd = cpus.exists() and "AuthenticAMD" in cpus.read_text()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return (
        getattr(torch.ops.mkldnn, "_linear_pointwise", None) if amd and wide else None
    )


def _suits(x: Tensor, rows: int, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(rows, *weight.shape) >= LEAST
        and _onednn() is not None
        and not torch.is_autocast_enabled("cpu")
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias: (M, I), (O, I), (O) -> (M, O), without gradients."""
    if _suits(x, len(x), weight):
        return _onednn()(_dense(x), _dense(weight), bias, "none", [], "")
    return F.linear(x, weight, bias)


def _dense(x: Tensor) -> Tensor:
    """Return x without gaps between its rows, at which oneDNN is thousands of times
    slower."""
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Do what F.linear does, gradients included."""
    rows = x.numel() // max(x.shape[-1], 1)
    if not _suits(x, rows, weight):
        return F.linear(x, weight, bias)
    apply = _Product.apply if torch.is_grad_enabled() else product
    y = apply(x.reshape(rows, -1), weight, bias)
    return y if x.dim() == 2 else y.reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A linear map by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Product(torch.autograd.Function):
    """x (M, I), weight (O, I), bias (O) -> x @ weight.T + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t()) if by_x else None,
            product(grad.t(), x.t()) if by_weight else None,
            grad.sum(0) if by_bias else None,
        )
