"""The networks: encoder, decoder, heads; and, from their own files, the RSSM."""

import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamerv2.common import dists
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.conv import decoder_kernels, encoder_kernels, made_by
from dreamerv2.common.networks.layers import DistLayer, NormLayer, get_act
from dreamerv2.common.networks.rssm import EnsembleRSSM, GRUCell
from dreamerv2.common.torchutils import compiled, full

__all__ = [
    "MLP",
    "Decoder",
    "DistLayer",
    "Encoder",
    "EnsembleRSSM",
    "GRUCell",
    "NormLayer",
]

# Rows that go through dense layers together on a CPU: few enough for its cache.
CPU_ROWS = 800

Shapes = Mapping[str, Sequence[int]]


def select_keys(shapes: Shapes, pattern: str, dims: int) -> list[str]:
    """Keys whose name the pattern matches from the start and whose rank is dims."""
    return [k for k, s in shapes.items() if re.match(pattern, k) and len(s) == dims]


class _DenseStack(nn.Module):
    """Linear maps, each followed by a norm and an activation.

    A base class, so that the maps lie in the network itself by the reference's
    names: ``dense0``, and ``norm0`` or ``densenorm0``.
    """

    norm_name = "norm"

    def _add_dense(self, inputs: int, sizes: Sequence[int], norm: str) -> int:
        """Adds the layers; returns the size of the last."""
        self._dense_layers = len(sizes)
        for i, size in enumerate(sizes):
            self.add_module(f"dense{i}", nn.Linear(inputs, size))
            self.add_module(f"{self.norm_name}{i}", NormLayer(norm, size))
            inputs = size
        return inputs

    def _dense(self, x: Tensor) -> Tensor:
        batch = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])  # So that the maps give no views.
        if x.device.type == "cpu" and len(x) > CPU_ROWS:
            x = torch.cat([self._layers(rows) for rows in x.split(CPU_ROWS)])
        else:
            x = self._layers(x)
        return x.reshape(*batch, -1)

    def _layers(self, x: Tensor) -> Tensor:
        for i in range(self._dense_layers):
            x = getattr(self, f"dense{i}")(x)
            x = self._act_(getattr(self, f"{self.norm_name}{i}")(x))
        return x


class Encoder(_DenseStack):
    """Images and vectors to one embedding.

    Images (H, W, C), joined on their channels, go through convolutions of stride 2
    without padding, of depth cnn_depth * 2^i, and are flattened in the order height,
    width, channel. Vectors, joined, go through the mlp_layers. Both outputs are
    joined.

    Args:
      shapes: key -> shape of the observation space.
      cnn_keys, mlp_keys: patterns; see select_keys.
    """

    norm_name = "densenorm"

    def __init__(
        self,
        shapes: Shapes,
        cnn_keys: str = ".*",
        mlp_keys: str = ".*",
        act: str = "elu",
        norm: str = "none",
        cnn_depth: int = 48,
        cnn_kernels: Sequence[int] = (4, 4, 4, 4),
        mlp_layers: Sequence[int] = (400, 400, 400, 400),
    ):
        super().__init__()
        self.cnn_keys = select_keys(shapes, cnn_keys, 3)
        self.mlp_keys = select_keys(shapes, mlp_keys, 1)
        if not self.cnn_keys and not self.mlp_keys:
            raise UsageError(
                f"The encoder has no input: encoder.cnn_keys '{cnn_keys}' matches no "
                f"image and encoder.mlp_keys '{mlp_keys}' no vector among "
                f"{describe(shapes)}; choose patterns that match one."
            )
        self._act_ = get_act(act, inplace=True)
        self.out_size = 0
        self._cnn_layers = len(cnn_kernels)
        if self.cnn_keys:
            self.out_size += self._add_conv(shapes, norm, cnn_depth, cnn_kernels)
        if self.mlp_keys:
            inputs = sum(shapes[key][0] for key in self.mlp_keys)
            self.out_size += self._add_dense(inputs, mlp_layers, norm)

    def _add_conv(
        self, shapes: Shapes, norm: str, depth: int, kernels: Sequence[int]
    ) -> int:
        height, width, channels = joined_image(shapes, self.cnn_keys)
        wanted = (height, width)
        for i, kernel in enumerate(kernels):
            if min(height, width) < kernel:
                raise UsageError(
                    f"encoder.cnn_kernels {list(kernels)} do not fit images of "
                    f"{wanted[0]}x{wanted[1]}: layer {i} sees {height}x{width} and "
                    f"has a kernel of {kernel}; use {fitting(*wanted)}."
                )
            size = depth * 2**i
            self.add_module(f"conv{i}", nn.Conv2d(channels, size, kernel, stride=2))
            self.add_module(f"convnorm{i}", NormLayer(norm, size))
            height, width = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1
            channels = size
        return height * width * channels

    def forward(self, data: Mapping[str, Tensor]) -> Tensor:
        """Preprocessed observations (..., *shape) -> embedding (..., E)."""
        outputs = []
        if self.cnn_keys:
            images = torch.cat([data[key] for key in self.cnn_keys], -1)
            outputs.append(self._cnn(images))
        if self.mlp_keys:
            vectors = torch.cat([data[key] for key in self.mlp_keys], -1)
            outputs.append(self._dense(vectors))
        return torch.cat([x.to(outputs[0].dtype) for x in outputs], -1)

    def compile_parts(self) -> None:
        self._cnn = compiled(self._cnn)

    def _cnn(self, images: Tensor) -> Tensor:
        batch = images.shape[:-3]
        x = to_nchw(images.reshape(-1, *images.shape[-3:]))
        for i in range(self._cnn_layers):
            x = getattr(self, f"conv{i}")(x)
            x = norm_act(x, getattr(self, f"convnorm{i}"), self._act_)
        return to_nhwc(x).reshape(*batch, -1)


class Decoder(_DenseStack):
    """Features to distributions of images and vectors, each of unit variance.

    For images, a linear map to 32 * cnn_depth, then transposed convolutions of
    stride 2 from 1x1, of depth cnn_depth * 2^(n-i-2), the last with the channels of
    all images and neither norm nor activation. For vectors, the mlp_layers, then a
    linear map per key.
    """

    norm_name = "densenorm"

    def __init__(
        self,
        shapes: Shapes,
        inputs: int,
        cnn_keys: str = ".*",
        mlp_keys: str = ".*",
        act: str = "elu",
        norm: str = "none",
        cnn_depth: int = 48,
        cnn_kernels: Sequence[int] = (5, 5, 6, 6),
        mlp_layers: Sequence[int] = (400, 400, 400, 400),
    ):
        super().__init__()
        self.cnn_keys = select_keys(shapes, cnn_keys, 3)
        self.mlp_keys = select_keys(shapes, mlp_keys, 1)
        if not self.cnn_keys and not self.mlp_keys:
            raise UsageError(
                f"The decoder has no output: decoder.cnn_keys '{cnn_keys}' matches no "
                f"image and decoder.mlp_keys '{mlp_keys}' no vector among "
                f"{describe(shapes)}; choose patterns that match one."
            )
        self._shapes = {k: tuple(shapes[k]) for k in (*self.cnn_keys, *self.mlp_keys)}
        self._act = get_act(act)
        self._act_ = get_act(act, inplace=True)
        self._cnn_layers = len(cnn_kernels)
        if self.cnn_keys:
            self._add_conv(inputs, norm, cnn_depth, cnn_kernels)
        if self.mlp_keys:
            size = self._add_dense(inputs, mlp_layers, norm)
            for key in self.mlp_keys:
                self.add_module(f"dense_{key}", DistLayer(size, self._shapes[key]))

    def _add_conv(
        self, inputs: int, norm: str, depth: int, kernels: Sequence[int]
    ) -> None:
        height, width, channels = joined_image(self._shapes, self.cnn_keys)
        made = made_by(kernels)
        if (height, width) != (made, made):
            raise UsageError(
                f"decoder.cnn_kernels {list(kernels)} make images of {made}x{made}, "
                f"but {self.cnn_keys} are {height}x{width}: use "
                f"{fitting(height, width)}, or others that lead there by size = "
                "2 * (size - 1) + k, starting from 1."
            )
        self.convin = nn.Linear(inputs, 32 * depth)
        before = 32 * depth
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            size = channels if last else depth * 2 ** (len(kernels) - i - 2)
            self.add_module(
                f"conv{i}", nn.ConvTranspose2d(before, size, kernel, stride=2)
            )
            if not last:
                self.add_module(f"convnorm{i}", NormLayer(norm, size))
            before = size

    def forward(self, features: Tensor) -> dict[str, dists.Dist]:
        """Features (..., F) -> key -> distribution with batch shape (...)."""
        outputs = {}
        if self.cnn_keys:
            outputs.update(self._images(features))
        if self.mlp_keys:
            x = self._dense(features)
            for key in self.mlp_keys:
                outputs[key] = getattr(self, f"dense_{key}")(x)
        return outputs

    def compile_parts(self) -> None:
        self._cnn = compiled(self._cnn)

    def _images(self, features: Tensor) -> dict[str, dists.Dist]:
        means = full(self._cnn(features.reshape(-1, features.shape[-1])))
        means = means.reshape(*features.shape[:-1], *means.shape[1:])
        means = means.split([self._shapes[key][-1] for key in self.cnn_keys], -1)
        return {
            key: dists.MSEDist(mean, 3)
            for key, mean in zip(self.cnn_keys, means, strict=True)
        }

    def _cnn(self, features: Tensor) -> Tensor:
        """Features (N, F) -> the joined images (N, H, W, C)."""
        x = from_1x1(self.conv0, self.convin(features))
        for i in range(self._cnn_layers - 1):
            act = self._act_ if i else self._act  # The first x is a view.
            x = norm_act(x, getattr(self, f"convnorm{i}"), act)
            x = upsample(getattr(self, f"conv{i + 1}"), x)
        return to_nhwc(x)


class MLP(_DenseStack):
    """``layers`` x (linear, norm, activation), then a distribution (DistLayer).

    Args:
      inputs: size of the features.
      shape: event shape of the distribution, () for a scalar.
      dist, min_std, init_std: see DistLayer.
    """

    def __init__(
        self,
        inputs: int,
        shape: Sequence[int] | int,
        layers: int,
        units: int,
        act: str = "elu",
        norm: str = "none",
        dist: str = "mse",
        min_std: float = 0.1,
        init_std: float = 0.0,
    ):
        super().__init__()
        self._act_ = get_act(act, inplace=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = self._add_dense(inputs, [units] * layers, norm)
        self.out = DistLayer(size, shape, dist, min_std, init_std)

    def forward(self, features: Tensor) -> dists.Dist:
        """Features (..., inputs) -> distribution with batch shape (...)."""
        return self.out(self._dense(features))


def norm_act(x: Tensor, norm: nn.Module, act: Callable[[Tensor], Tensor]) -> Tensor:
    """Norm over the channels and activation of (N, C, H, W), channels last in memory.

    Without a norm, `act` gets x itself, which it may overwrite.
    """
    if isinstance(norm, nn.Identity):
        return act(x)
    return to_nchw(act(norm(to_nhwc(x))))


def from_1x1(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of a 1x1 image, as the matrix product that it is.

    x (N, inputs) -> (N, outputs, k, k), channels last in memory. On two CPU cores
    this is several times faster than the convolution.
    """
    weight = layer.weight  # (inputs, outputs, k, k)
    inputs, outputs, height, width = weight.shape
    matrix = weight.permute(2, 3, 1, 0).reshape(height * width * outputs, inputs)
    bias = layer.bias.repeat(height * width)
    return to_nchw(F.linear(x, matrix, bias).reshape(-1, height, width, outputs))


def upsample(layer: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of stride 2, (N, C, H, W) -> (N, C', 2H+k-2, 2W+k-2).

    For few output channels, as in an image, CPUs are twice as fast at the equivalent
    convolution that makes the 2x2 outputs of each place as 4 C' channels:

        out[2i + a] = sum over j of x[i - j] * weight[2j + a],  a in {0, 1}
    """
    if x.device.type != "cpu" or layer.out_channels > 4:
        return layer(x)
    weight, kernel = layer.weight, layer.weight.shape[-1]  # (inputs, outputs, k, k)
    inputs, outputs = weight.shape[:2]
    weight = F.pad(weight, (0, kernel % 2, 0, kernel % 2))
    half = (kernel + 1) // 2
    weight = weight.reshape(inputs, outputs, half, 2, half, 2).flip(2, 4)
    weight = weight.permute(3, 5, 1, 0, 2, 4).reshape(4 * outputs, inputs, half, half)
    weight = weight.contiguous(memory_format=torch.channels_last)
    y = to_nhwc(F.conv2d(x, weight, padding=half - 1))
    batch, height, width = y.shape[:3]
    y = y.reshape(batch, height, width, 2, 2, outputs).permute(0, 1, 3, 2, 4, 5)
    y = y.reshape(batch, 2 * height, 2 * width, outputs) + layer.bias
    # An odd kernel was padded to an even one: its last row and column are zero.
    return to_nchw(y[:, : 2 * height - kernel % 2, : 2 * width - kernel % 2])


def to_nchw(x: Tensor) -> Tensor:
    """A view (N, H, W, C) -> (N, C, H, W); no copy if it stays channels last."""
    return x.permute(0, 3, 1, 2)


def to_nhwc(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def joined_image(shapes: Shapes, keys: Sequence[str]) -> tuple[int, int, int]:
    """Height, width and channels of the images of these keys, joined.

    Raises UsageError if they differ in height or width.
    """
    sizes = {tuple(shapes[key][:2]) for key in keys}
    if len(sizes) > 1:
        raise UsageError(
            "Images that are encoded together must have one size, but there are "
            f"{describe({key: shapes[key] for key in keys})}: choose among them by "
            "encoder.cnn_keys and decoder.cnn_keys."
        )
    height, width = sizes.pop()
    return height, width, sum(shapes[key][-1] for key in keys)


def fitting(height: int, width: int) -> str:
    """Flags with kernels for images of this size, for errors."""
    kernels = decoder_kernels(height)
    if height != width or kernels is None:
        return "square images of at least 3x3, as by --render_size 64 64"
    flags = " ".join(map(str, encoder_kernels(height)))
    made = " ".join(map(str, kernels))
    return f"--encoder.cnn_kernels {flags} --decoder.cnn_kernels {made}"


def describe(shapes: Shapes) -> str:
    """``image (64, 64, 1), position (3,)``."""
    return ", ".join(f"{key} {tuple(shape)}" for key, shape in shapes.items())
