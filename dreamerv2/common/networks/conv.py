"""Convolutions of images: shapes and kernels that fit, and forms that suit a CPU.

Images are (N, H, W, C) to whoever calls a network; convolutions take the view (N, C, H,
W) of them, which PyTorch computes as it lies, channels last.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.products import linear

Shapes = Mapping[str, Sequence[int]]

_KERNELS = range(3, 9)  # Those that are tried for the decoder.
_MOST_LAYERS = 7


def to_nchw(x: Tensor) -> Tensor:
    """View (N, H, W, C) as (N, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    """View (N, C, H, W) as (N, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def norm_act(x: Tensor, norm: nn.Module, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a norm over the channels of (N, C, H, W), and an activation, which may
    overwrite x where there is no norm."""
    if isinstance(norm, nn.Identity):
        return act(x)
    return to_nchw(act(norm(to_nhwc(x))))


def conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a convolution of stride 2 without padding, (N, C, H, W) -> (N, C', H', W');
    few places of many channels as a product, three times as fast on a CPU."""
    channels, kernel = layer.in_channels, layer.kernel_size[0]
    height, width = ((size - kernel) // 2 + 1 for size in x.shape[-2:])
    few = height * width <= 9 and channels >= 128
    if x.device.type != "cpu" or not few or torch.compiler.is_compiling():
        return layer(x)
    patches = (
        to_nhwc(x).unfold(1, kernel, 2).unfold(2, kernel, 2)
    )  # (N, H', W', C, ...)
    patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(len(x), height, width, -1)
    matrix = layer.weight.permute(0, 2, 3, 1).flatten(1)  # (C', k*k*C)
    return to_nchw(linear(patches, matrix, layer.bias))


def transposed_conv_of_1x1(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution to 1x1 images as a matrix product, several times
    as fast on a CPU: (N, C) -> (N, C', k, k), channels last in memory."""
    channels, outputs, height, width = layer.weight.shape
    matrix = layer.weight.permute(2, 3, 1, 0).reshape(-1, channels)  # (k*k*C', C)
    bias = layer.bias.repeat(height * width)
    return to_nchw(linear(x, matrix, bias).reshape(-1, height, width, outputs))


def transposed_conv(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of stride 2.

    (N, C, H, W) -> (N, C', 2H+k-2, 2W+k-2). For few output channels, as in an image,
    CPUs are twice as fast at the equivalent convolution that makes the 2x2 outputs of
    each place as 4 C' channels:

        out[2i + a] = sum over j of x[i - j] * weight[2j + a],  a in {0, 1}
    """
    few = layer.out_channels <= 4
    if x.device.type != "cpu" or (torch.compiler.is_compiling() and not few):
        return layer(x)
    weight, kernel = layer.weight, layer.weight.shape[-1]  # (C, C', k, k)
    if not few:
        y = F.conv_transpose2d(x, weight, layer.bias.detach(), stride=2)
        return _BiasGradient.apply(y, layer.bias)
    channels, outputs = weight.shape[:2]
    weight = F.pad(weight, (0, kernel % 2, 0, kernel % 2))
    half = (kernel + 1) // 2
    weight = weight.reshape(channels, outputs, half, 2, half, 2).flip(2, 4)
    weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(-1, channels, half, half)
    weight = weight.contiguous(memory_format=torch.channels_last)  # (4 C', C, ...)
    y = to_nhwc(F.conv2d(x, weight, padding=half - 1))
    batch, height, width = y.shape[:3]
    y = y.reshape(batch, height, width, 2, 2, outputs).permute(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * height, 2 * width, outputs) + layer.bias
    # An odd kernel was padded to an even one: its last row and column are zero.
    return to_nchw(y[:, : 2 * height - kernel % 2, : 2 * width - kernel % 2])


class _BiasGradient(torch.autograd.Function):
    """y, bias -> y, to which the bias was added without a gradient: a sum, for which a
    transposed convolution takes a sixth of its backward pass on a CPU."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor) -> Tensor:
        ctx.mark_dirty(y)
        ctx.dtype = bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad.sum((0, 2, 3), dtype=ctx.dtype)


def joined_image(shapes: Shapes, keys: Sequence[str]) -> tuple[int, int, int]:
    """Return height, width and channels of the images of these keys, joined; UsageError
    if they differ in height or width."""
    sizes = {tuple(shapes[key][:2]) for key in keys}
    if len(sizes) > 1:
        raise UsageError(
            "Images that are encoded together must have one size, but there are "
            f"{list_shapes({key: shapes[key] for key in keys})}: choose among them by "
            "encoder.cnn_keys and decoder.cnn_keys."
        )
    height, width = sizes.pop()
    return height, width, sum(shapes[key][-1] for key in keys)


def list_shapes(shapes: Shapes) -> str:
    """Return ``image (64, 64, 1), position (3,)``."""
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items())


def kernel_flags(height: int, width: int) -> str:
    """Return flags with kernels for images of this size, for errors."""
    kernels = decoder_kernels(height)
    if height != width or kernels is None:
        return "square images of at least 3x3, as by --render_size 64 64"
    encoder = " ".join(map(str, encoder_kernels(height)))
    decoder = " ".join(map(str, kernels))
    return f"--encoder.cnn_kernels {encoder} --decoder.cnn_kernels {decoder}"


def decoded_size(kernels: Sequence[int]) -> int:
    """Return the pixels per side that the decoder makes of one: 2 * (size - 1) + k."""
    size = 1
    for kernel in kernels:
        size = 2 * (size - 1) + kernel
    return size


def encoder_kernels(size: int) -> list[int]:
    """Return kernels for images whose smaller side is `size`: as many 4 as lead to 2 or
    more; for 64 [4, 4, 4, 4], below 6 a single one."""
    kernels = []
    while (smaller := (size - 4) // 2 + 1) >= 2:
        kernels.append(4)
        size = smaller
    return kernels or [min(size, 4)]


def decoder_kernels(size: int) -> list[int] | None:
    """Return kernels that make images of size x size, the nearest to 5 and 6; None for
    sizes that none of 3 to 8 lead to. For 64 these are [5, 5, 6, 6]."""
    found = [k for count in range(1, _MOST_LAYERS + 1) for k in _leading(size, count)]
    return min(found, key=_oddness, default=None)


def _leading(size: int, count: int) -> list[list[int]]:
    """Return all lists of `count` kernels that lead from 1 to size."""
    if count == 1:
        return [[size]] if size in _KERNELS else []
    low = decoded_size([_KERNELS[0]] * count)
    if not low <= size <= decoded_size([_KERNELS[-1]] * count):
        return []
    return [
        [*before, kernel]
        for kernel in _KERNELS
        if (size - kernel) % 2 == 0
        for before in _leading((size - kernel) // 2 + 1, count - 1)
    ]


def _oddness(kernels: list[int]) -> tuple[float, list[int]]:
    """Return how far they are from 5 and 6; of equals, small ones come first."""
    return sum((2 * k - 11) ** 2 for k in kernels) / len(kernels), kernels
