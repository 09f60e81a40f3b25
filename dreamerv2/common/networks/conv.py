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
from dreamerv2.common.networks.products import linear, product

Shapes = Mapping[str, Sequence[int]]

_KERNELS = range(3, 9)  # Those that are tried for the decoder.
_MOST_LAYERS = 7
_FEW = 32  # Output channels of transposed convolutions.


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
    few places of many channels as a product, up to three times as fast on a CPU."""
    channels, kernel = layer.in_channels, layer.kernel_size[0]
    height, width = ((size - kernel) // 2 + 1 for size in x.shape[-2:])
    few = height * width <= 9 and channels >= 48
    if x.device.type != "cpu" or not few or torch.is_autocast_enabled("cpu"):
        return layer(x)
    y = _ConvOfFewPlaces.apply(to_nhwc(x), layer.weight, layer.bias)
    return to_nchw(y.reshape(-1, height, width, layer.out_channels))


class _ConvOfFewPlaces(torch.autograd.Function):
    """x (N, H, W, C), weight (C', C, k, k), bias (C') -> (N*H'*W', C'), which is
    not a view, so that an activation may overwrite it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        outputs, _, kernel, _ = weight.shape
        patches = x.unfold(1, kernel, 2).unfold(2, kernel, 2)  # (N, H', W', C, k, k)
        places = patches.shape[:3]
        patches = patches.permute(0, 1, 2, 4, 5, 3).reshape(places.numel(), -1)
        matrix = weight.permute(0, 2, 3, 1).reshape(outputs, -1)  # (C', k*k*C)
        ctx.save_for_backward(patches, matrix)
        ctx.shapes = x.shape, places, kernel
        return product(patches, matrix, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # (N*H'*W', C')
        patches, matrix = ctx.saved_tensors
        shape, places, kernel = ctx.shapes
        by_x = grad.new_zeros(shape)
        parts = product(grad, matrix.t()).reshape(*places, kernel, kernel, -1)
        height, width = (2 * size - 1 for size in places[1:])
        for a in range(kernel):
            for b in range(kernel):
                by_x[:, a : a + height : 2, b : b + width : 2] += parts[..., a, b, :]
        by_weight = product(grad.t(), patches.t()).reshape(-1, kernel, kernel, shape[3])
        return by_x, by_weight.permute(0, 3, 1, 2), grad.sum(0)


def transposed_conv_of_1x1(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution to 1x1 images as a matrix product, several times
    as fast on a CPU: (N, C) -> (N, C', k, k), channels last in memory."""
    channels, outputs, height, width = layer.weight.shape
    matrix = layer.weight.permute(2, 3, 1, 0).reshape(-1, channels)  # (k*k*C', C)
    bias = layer.bias.repeat(height * width)
    return to_nchw(linear(x, matrix, bias).reshape(-1, height, width, outputs))


def transposed_conv(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """Apply a transposed convolution of stride 2, (N, C, H, W) -> (N, C', 2H+k-2,
    2W+k-2)."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return layer(x)
    return _TransposedConv.apply(x, layer.weight, layer.bias)


class _TransposedConv(torch.autograd.Function):
    """x (N, C, H, W), weight (C, C', k, k), bias (C') -> (N, C', 2H+k-2, 2W+k-2).

    For few output channels CPUs are up to four times as fast at the equivalent
    convolution that makes the 2x2 outputs of each place as 4 C' channels:

        out[2i + a] = sum over j of x[i - j] * weight[2j + a],  a in {0, 1}

    The gradients are those of the transposed convolution, but for the bias's, a sum
    that takes a sixth of its backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        channels, outputs, kernel = weight.shape[:3]
        if outputs > _FEW:
            return F.conv_transpose2d(x, weight, bias, stride=2)
        half, odd = (kernel + 1) // 2, kernel % 2  # An odd kernel gets a row of zeros.
        weight = F.pad(weight, (0, odd, 0, odd))
        weight = weight.reshape(channels, outputs, half, 2, half, 2).flip(2, 4)
        weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(-1, channels, half, half)
        weight = weight.contiguous(memory_format=torch.channels_last)  # (4 C', C, ...)
        y = F.conv2d(x, weight, bias.repeat(4), padding=half - 1)
        batch, _, height, width = y.shape
        size = batch, outputs, 2 * height - odd, 2 * width - odd
        out = torch.empty(size, dtype=y.dtype, memory_format=torch.channels_last)
        for i, part in enumerate(y.split(outputs, 1)):
            a, b = divmod(i, 2)
            out[..., a::2, b::2] = part[..., : height - a * odd, : width - b * odd]
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        by_x, by_weight, by_bias = ctx.needs_input_grad
        how = [2, 2], [0, 0], [1, 1], True, [0, 0], 1, [by_x, by_weight, False]
        found = torch.ops.aten.convolution_backward(grad, x, weight, None, *how)
        return *found[:2], grad.sum((0, 2, 3)) if by_bias else None


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
