"""Encoder, decoder and heads; and, from their own files, the RSSM and its parts.

Shapes: B batch, T time, N any number of rows, E embed, F features, C channels."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamerv2.common import dists
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks import conv
from dreamerv2.common.networks.conv import Shapes
from dreamerv2.common.networks.layers import DistLayer, NormLayer, get_act
from dreamerv2.common.networks.layers import GRUCell as GRUCell
from dreamerv2.common.networks.onehot import Ones
from dreamerv2.common.networks.products import Linear, linear
from dreamerv2.common.networks.rssm import EnsembleRSSM as EnsembleRSSM
from dreamerv2.common.torchutils import at_least_float32, compiled

# Rows that go through dense layers together on a CPU: few enough for its cache.
CPU_ROWS = 800


def select_keys(shapes: Shapes, pattern: str, dims: int) -> list[str]:
    """Return the keys of rank `dims` whose name the pattern matches from the start."""
    return [k for k, s in shapes.items() if re.match(pattern, k) and len(s) == dims]


class _DenseStack(nn.Module):
    """Linear maps, each with a norm and an activation: a base class, so that they lie
    in the network by the reference's names, ``dense0``, ``norm0`` or ``densenorm0``."""

    norm_name = "norm"

    def _add_dense(self, inputs: int, sizes: Sequence[int], norm: str) -> int:
        """Add the layers; return the size of the last."""
        self._dense_layers = len(sizes)
        for i, size in enumerate(sizes):
            self.add_module(f"dense{i}", Linear(inputs, size))
            self.add_module(f"{self.norm_name}{i}", NormLayer(norm, size))
            inputs = size
        return inputs

    def _dense(self, x: Tensor, ones: Ones | None = None) -> Tensor:
        """(..., inputs) -> (..., units); ones: of latents that inputs begin with."""
        if not self._dense_layers:
            return x
        batch = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])  # (N, inputs), so that the maps give no views.
        rows = CPU_ROWS if x.device.type == "cpu" else max(len(x), 1)
        if ones is None:
            parts = [self._layers(self.dense0(part)) for part in x.split(rows)]
        else:
            latents, others = x.tensor_split([ones.width], -1)
            weight, rest = self.dense0.weight.tensor_split([ones.width], -1)
            bias = ones.product(latents, weight) + self.dense0.bias  # (N, units)
            pairs = zip(bias.split(rows), others.split(rows), strict=True)
            parts = [self._layers(linear(part, rest).add_(b)) for b, part in pairs]
        x = torch.cat(parts) if len(parts) > 1 else parts[0]  # (N, units)
        return x.reshape(*batch, -1)

    def _layers(self, x: Tensor) -> Tensor:
        """Go on from the first linear map."""
        for i in range(self._dense_layers):
            x = getattr(self, f"dense{i}")(x) if i else x
            x = self._act_(getattr(self, f"{self.norm_name}{i}")(x))
        return x


class _Coder(_DenseStack):
    """What encoder and decoder share."""

    norm_name = "densenorm"

    def _select(self, shapes: Shapes, cnn_keys: str, mlp_keys: str) -> None:
        """Choose the observations. Raises UsageError if there are none."""
        self.cnn_keys = select_keys(shapes, cnn_keys, 3)
        self.mlp_keys = select_keys(shapes, mlp_keys, 1)
        if not self.cnn_keys and not self.mlp_keys:
            name = type(self).__name__.lower()
            lack = "input" if name == "encoder" else "output"
            raise UsageError(
                f"The {name} has no {lack}: {name}.cnn_keys '{cnn_keys}' matches no "
                f"image and {name}.mlp_keys '{mlp_keys}' no vector among "
                f"{conv.list_shapes(shapes)}; choose patterns that match one."
            )

    def compile_parts(self) -> None:
        """Compile the convolutions."""
        self._cnn = compiled(self._cnn)


class Encoder(_Coder):
    """Images and vectors to one embedding.

    Images (H, W, C), joined on their channels, go through convolutions of stride 2
    without padding, of depth cnn_depth * 2^i, and are flattened as (height, width,
    channel). Vectors, joined, go through the mlp_layers. The keys are patterns."""

    def __init__(
        self,
        shapes: Shapes,
        cnn_keys: str,
        mlp_keys: str,
        act: str,
        norm: str,
        cnn_depth: int,
        cnn_kernels: Sequence[int],
        mlp_layers: Sequence[int],
    ):
        super().__init__()
        self._select(shapes, cnn_keys, mlp_keys)
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
        """Add the convolutions; return the size of what they make, flattened."""
        height, width, channels = conv.joined_image(shapes, self.cnn_keys)
        image = (height, width)
        for i, kernel in enumerate(kernels):
            if min(height, width) < kernel:
                raise UsageError(
                    f"encoder.cnn_kernels {list(kernels)} do not fit images of "
                    f"{image[0]}x{image[1]}: layer {i} sees {height}x{width} and "
                    f"has a kernel of {kernel}; use {conv.kernel_flags(*image)}."
                )
            before, channels = channels, depth * 2**i
            self.add_module(f"conv{i}", nn.Conv2d(before, channels, kernel, stride=2))
            self.add_module(f"convnorm{i}", NormLayer(norm, channels))
            height, width = (height - kernel) // 2 + 1, (width - kernel) // 2 + 1
        return height * width * channels

    def forward(self, data: dict[str, Tensor]) -> Tensor:
        """Preprocessed observations (..., *shape) -> embedding (..., E)."""
        outputs = []
        if self.cnn_keys:
            images = torch.cat([data[key] for key in self.cnn_keys], -1)
            outputs.append(self._cnn(images))
        if self.mlp_keys:
            vectors = torch.cat([data[key] for key in self.mlp_keys], -1)
            outputs.append(self._dense(vectors))
        return torch.cat([x.to(outputs[0].dtype) for x in outputs], -1)

    def _cnn(self, images: Tensor) -> Tensor:
        """(..., H, W, C) -> (..., E)."""
        x = conv.to_nchw(images.reshape(-1, *images.shape[-3:]))  # (N, C, H, W)
        for i in range(self._cnn_layers):
            x = conv.conv(getattr(self, f"conv{i}"), x)
            x = conv.norm_act(x, getattr(self, f"convnorm{i}"), self._act_)
        return conv.to_nhwc(x).reshape(*images.shape[:-3], -1)


class Decoder(_Coder):
    """Features to distributions of images and vectors, each of unit variance.

    For images, a linear map to 32 * cnn_depth, then transposed convolutions of stride 2
    from 1x1, of depth cnn_depth * 2^(n-i-2), the last, of all images' channels, without
    norm or activation. For vectors, the mlp_layers, then a linear map per key."""

    def __init__(
        self,
        shapes: Shapes,
        inputs: int,
        cnn_keys: str,
        mlp_keys: str,
        act: str,
        norm: str,
        cnn_depth: int,
        cnn_kernels: Sequence[int],
        mlp_layers: Sequence[int],
    ):
        super().__init__()
        self._select(shapes, cnn_keys, mlp_keys)
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
        height, width, channels = conv.joined_image(self._shapes, self.cnn_keys)
        made = conv.decoded_size(kernels)
        if (height, width) != (made, made):
            raise UsageError(
                f"decoder.cnn_kernels {list(kernels)} make images of {made}x{made}, "
                f"but {self.cnn_keys} are {height}x{width}: use "
                f"{conv.kernel_flags(height, width)}."
            )
        before = 32 * depth
        self.convin = Linear(inputs, before)
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            size = channels if last else depth * 2 ** (len(kernels) - i - 2)
            layer = nn.ConvTranspose2d(before, size, kernel, stride=2)
            self.add_module(f"conv{i}", layer)
            if not last:
                self.add_module(f"convnorm{i}", NormLayer(norm, size))
            before = size

    def forward(self, features: Tensor) -> dict[str, dists.Dist]:
        """Features (..., F) -> key -> distribution with batch shape (...)."""
        outputs = self._images(features) if self.cnn_keys else {}
        x = self._dense(features) if self.mlp_keys else None
        outputs.update((key, getattr(self, f"dense_{key}")(x)) for key in self.mlp_keys)
        return outputs

    def _images(self, features: Tensor) -> dict[str, dists.Dist]:
        means = self._cnn(features.reshape(-1, features.shape[-1]))  # (N, H, W, C)
        means = at_least_float32(means).reshape(*features.shape[:-1], *means.shape[1:])
        means = means.split([self._shapes[key][-1] for key in self.cnn_keys], -1)
        pairs = zip(self.cnn_keys, means, strict=True)
        return {key: dists.MSEDist(mean, 3) for key, mean in pairs}

    def _cnn(self, features: Tensor) -> Tensor:
        """(N, F) -> the joined images (N, H, W, C)."""
        x = conv.transposed_conv_of_1x1(self.conv0, self.convin(features))
        for i in range(self._cnn_layers - 1):
            act = self._act_ if i else self._act  # The first x is a view.
            x = conv.norm_act(x, getattr(self, f"convnorm{i}"), act)
            x = conv.transposed_conv(getattr(self, f"conv{i + 1}"), x)
        return conv.to_nhwc(x)


class MLP(_DenseStack):
    """``layers`` x (linear, norm, activation), then a distribution of event `shape`."""

    def __init__(
        self,
        inputs: int,
        shape: Sequence[int] | int,
        layers: int,
        units: int,
        act: str,
        norm: str,
        dist: str,
        min_std: float = 0.1,
    ):
        super().__init__()
        self._act_ = get_act(act, inplace=True)
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        size = self._add_dense(inputs, [units] * layers, norm)
        self.out = DistLayer(size, shape, dist, min_std)

    def forward(self, features: Tensor, ones: Ones | None = None) -> dists.Dist:
        """Features (..., inputs) -> distribution (...); `ones`: see onehot.py."""
        return self.out(self._dense(features, ones))
