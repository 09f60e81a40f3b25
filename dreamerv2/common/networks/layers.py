"""Activations, norms, the GRU and output layers that the networks share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv2.common import dists
from dreamerv2.common.networks.products import Linear
from dreamerv2.common.torchutils import LOW_PRECISION, at_least_float32

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "elu": F.elu,
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "relu": F.relu,
    "selu": F.selu,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "softplus": F.softplus,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def elu_(x: Tensor) -> Tensor:
    """Apply ELU in place: max(x, exp(min(x, 0)) - 1), up to twice as fast on a CPU as
    PyTorch's, in pieces that fit its caches."""
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    plain = x.device.type == "cpu" and x.dtype not in LOW_PRECISION and dense
    if not plain or torch.compiler.is_compiling():
        return F.elu(x, inplace=True)
    return _EluInPlace.apply(x)


class _EluInPlace(torch.autograd.Function):
    PIECE = 2**17  # Numbers, half a megabyte.

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        for part in x.as_strided((x.numel(),), (1,)).split(_EluInPlace.PIECE):
            torch.maximum(part, part.clamp(max=0).exp_().sub_(1), out=part)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return torch.ops.aten.elu_backward(grad, 1, 1, 1, True, y)


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu_,
    "relu": functools.partial(F.relu, inplace=True),
}


def get_act(name: str, inplace: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the activation of that name.

    inplace: write into the argument where there is such a form, which saves a CPU half
    of the time. For tensors that no one else reads and that are no view, which autograd
    would copy.
    """
    return IN_PLACE.get(name, ACTIVATIONS[name]) if inplace else ACTIVATIONS[name]


class LayerNorm(nn.LayerNorm):
    """Layer norm over the last dimension with TensorFlow's epsilon, in float32."""

    EPS = 1e-3

    def __init__(self, size: int):
        super().__init__(size, eps=self.EPS)

    def forward(self, x: Tensor) -> Tensor:
        wide, shape = at_least_float32(x), self.normalized_shape
        y = F.layer_norm(wide, shape, self.weight, self.bias, self.eps)
        return y.to(x.dtype) if x.dtype in LOW_PRECISION else y


def NormLayer(name: str, size: int) -> nn.Module:
    """Make a LayerNorm over ``size`` features for ``layer``, nothing for ``none``."""
    return LayerNorm(size) if name == "layer" else nn.Identity()


class GRUCell(nn.Module):
    """A GRU whose gates share one layer norm, computed in float32.

    reset, candidate, update = split(norm(linear([input, state])))
    candidate = tanh(sigmoid(reset) * candidate)
    update = sigmoid(update - 1)      # starts out keeping most of the state
    new = update * candidate + (1 - update) * state
    """

    UPDATE_BIAS = -1.0

    def __init__(self, inputs: int, size: int):
        super().__init__()
        self.linear = Linear(inputs + size, 3 * size)
        self.norm = LayerNorm(3 * size)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """x (..., inputs), state (..., D) -> new state (..., D)."""
        return self.gate(self.linear(self.join(x, state)), state)

    def join(self, x: Tensor, state: Tensor) -> Tensor:
        """Return the linear map's input, (..., inputs + D)."""
        return torch.cat([x, state.to(x.dtype)], -1)

    def gate(self, parts: Tensor, state: Tensor) -> Tensor:
        """Return the new state for the linear map's output, (..., 3 D)."""
        parts = self.norm(at_least_float32(parts))
        reset, candidate, update = parts.chunk(3, -1)  # (..., D) each
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update + self.UPDATE_BIAS)
        return update * candidate + (1 - update) * state


class DistLayer(nn.Module):
    """Linear maps to the parameters of a distribution of event shape `shape`, in
    float32: mse, normal, binary, tanh_normal, trunc_normal or onehot."""

    WITH_STD = ("normal", "tanh_normal", "trunc_normal")

    def __init__(
        self, inputs: int, shape: Sequence[int], dist: str = "mse", min_std: float = 0.1
    ):
        super().__init__()
        self._shape = tuple(shape)
        self._dist = dist
        self._min_std = min_std
        size = int(torch.Size(self._shape).numel())
        self.out = Linear(inputs, size)
        if dist in self.WITH_STD:
            self.std = Linear(inputs, size)

    def forward(self, x: Tensor) -> dists.Dist:
        """Features (..., inputs) -> distribution with batch shape (...)."""
        std = None
        if self._dist in self.WITH_STD:
            std = at_least_float32(self.std(x)).reshape(*x.shape[:-1], *self._shape)
        out = at_least_float32(self.out(x)).reshape(*x.shape[:-1], *self._shape)
        return self.make(out, std)

    def make(self, out: Tensor, std: Tensor | None = None) -> dists.Dist:
        """Return the distribution for raw outputs of the linear maps, (..., *shape)."""
        dims = len(self._shape)
        if self._dist == "mse":
            return dists.MSEDist(out, dims)
        if self._dist == "binary":
            return dists.BinaryDist(out, dims)
        if self._dist == "onehot":
            return dists.OneHotDist(out)
        if self._dist == "trunc_normal":
            std = 2 * torch.sigmoid(std / 2) + self._min_std
            return dists.TruncNormalDist(torch.tanh(out), std)
        std = F.softplus(std) + self._min_std
        if self._dist == "tanh_normal":
            return dists.TanhNormalDist(5 * torch.tanh(out / 5), std)
        return dists.NormalDist(out, std, dims)
