"""Distributions of latents, actions and predictions.

Rather than torch.distributions: samples take the noise as an argument, so that all
randomness comes from one place (noise.py); nothing waits for the device to validate
arguments; and they compute what TensorFlow Probability does, clipping included.

Each has a batch shape and an event shape, over which ``log_prob`` and ``entropy`` are
summed; ``noise_kind`` and ``noise_shape`` of what ``sample(noise)`` needs; and
``mean(noise)``, ``mode(noise)``, ``entropy(noise)``, whose noise function (see
noise.NoiseFn) only TanhNormalDist needs."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dreamerv2.common.networks.noise import NoiseFn

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _sum_event(x: Tensor, dims: int) -> Tensor:
    return x.flatten(-dims).sum(-1) if dims else x


class OneHotDist:
    """Categorical over one-hot vectors with straight-through gradients.

    logits: (..., C); with ``latents=True``, (..., S, C), where the S latents are one
    event. The sample is sample + probs - sg(probs) (Algorithm 1 of the paper)."""

    noise_kind = "gumbel"

    def __init__(self, logits: Tensor, latents: bool = False):
        self.logits = torch.log_softmax(logits, -1)
        self.noise_shape = logits.shape
        self._latents = latents

    @property
    def probs(self) -> Tensor:
        return self.logits.exp()

    def sample(self, noise: Tensor) -> Tensor:
        hard = _one_hot_argmax(self.logits.detach() + noise)
        if not self.logits.requires_grad:
            return hard
        probs = self.probs
        return hard + (probs - probs.detach())

    def mode(self, noise: NoiseFn | None = None) -> Tensor:
        return _one_hot_argmax(self.logits.detach())

    def mean(self, noise: NoiseFn | None = None) -> Tensor:
        return self.probs

    def log_prob(self, value: Tensor) -> Tensor:
        return self._sum((value * self.logits).sum(-1))

    def entropy(self, noise: NoiseFn | None = None) -> Tensor:
        return self._sum(-(self.probs * self.logits).sum(-1))

    def kl(self, other: "OneHotDist") -> Tensor:
        """Compute KL(self || other), of the batch shape."""
        return self._sum((self.probs * (self.logits - other.logits)).sum(-1))

    def _sum(self, x: Tensor) -> Tensor:
        return x.sum(-1) if self._latents else x


def _one_hot_argmax(x: Tensor) -> Tensor:
    """Put one at the highest entry of the last dimension, zero elsewhere."""
    index = x.argmax(-1, keepdim=True)
    return torch.zeros_like(x).scatter_(-1, index, 1.0)


class NormalDist:
    """Independent normals; the last ``event_dims`` dimensions are one event."""

    noise_kind = "normal"

    def __init__(self, mean: Tensor, std: Tensor, event_dims: int = 1):
        self.loc, self.std = mean, std
        self.noise_shape = mean.shape
        self._dims = event_dims

    def sample(self, noise: Tensor) -> Tensor:
        return self.loc + self.std * noise

    def mode(self, noise: NoiseFn | None = None) -> Tensor:
        return self.loc

    mean = mode

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.std
        return _sum_event(-0.5 * z * z - self.std.log() - HALF_LOG_2PI, self._dims)

    def entropy(self, noise: NoiseFn | None = None) -> Tensor:
        each = 0.5 + HALF_LOG_2PI + self.std.log().expand_as(self.loc)
        return _sum_event(each, self._dims)

    def kl(self, other: "NormalDist") -> Tensor:
        """Compute KL(self || other), of the batch shape."""
        ratio = self.std / other.std
        shift = (self.loc - other.loc) / other.std
        each = 0.5 * (ratio * ratio + shift * shift - 1.0) - ratio.log()
        return _sum_event(each, self._dims)


class MSEDist(NormalDist):
    """Normals of unit variance: the squared error as a log-likelihood."""

    def __init__(self, mean: Tensor, event_dims: int = 1):
        super().__init__(mean, mean.new_ones(()).expand_as(mean), event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        return _sum_event(-0.5 * (value - self.loc) ** 2 - HALF_LOG_2PI, self._dims)


class BinaryDist:
    """Bernoulli on logits. log_prob takes soft targets such as 0.999, too."""

    noise_kind = "uniform"

    def __init__(self, logits: Tensor, event_dims: int = 0):
        self.logits = logits
        self.noise_shape = logits.shape
        self._dims = event_dims

    def sample(self, noise: Tensor) -> Tensor:
        return (noise < torch.sigmoid(self.logits)).to(self.logits.dtype)

    def mode(self, noise: NoiseFn | None = None) -> Tensor:
        return (self.logits > 0).to(self.logits.dtype)

    def mean(self, noise: NoiseFn | None = None) -> Tensor:
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype).expand_as(self.logits)
        each = F.binary_cross_entropy_with_logits(self.logits, value, reduction="none")
        return _sum_event(-each, self._dims)

    def entropy(self, noise: NoiseFn | None = None) -> Tensor:
        each = F.softplus(self.logits) - self.logits * torch.sigmoid(self.logits)
        return _sum_event(each, self._dims)


class TruncNormalDist:
    """Normals truncated to [-1, 1]; the last dimension is the event.

    With a and b the standardised bounds and Z = Phi(b) - Phi(a), a sample is loc + std
    * Phi^-1(Phi(a) + u * Z) for uniform u, clipped to within CLIP of the bounds with
    the gradient of the unclipped one."""

    noise_kind = "uniform"

    LOW, HIGH, CLIP = -1.0, 1.0, 1e-6

    def __init__(self, loc: Tensor, std: Tensor):
        self.loc, self.std = loc, std
        self.noise_shape = loc.shape
        self._a = (self.LOW - loc) / std
        self._b = (self.HIGH - loc) / std
        self._cdf_a = torch.special.ndtr(self._a)
        self._z = torch.special.ndtr(self._b) - self._cdf_a

    def sample(self, noise: Tensor) -> Tensor:
        eps = torch.finfo(self.loc.dtype).eps
        # Phi^-1 of 0 or 1 would be infinite, and so would its gradient.
        quantile = (self._cdf_a + noise * self._z).clamp(eps, 1 - eps)
        event = self.loc + self.std * torch.special.ndtri(quantile)
        clipped = event.detach().clamp(self.LOW + self.CLIP, self.HIGH - self.CLIP)
        return event + (clipped - event.detach())

    def mode(self, noise: NoiseFn | None = None) -> Tensor:
        return self.loc.clamp(self.LOW, self.HIGH)

    def mean(self, noise: NoiseFn | None = None) -> Tensor:
        return self.loc + self.std * (_pdf(self._a) - _pdf(self._b)) / self._z

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.std
        each = -0.5 * z * z - HALF_LOG_2PI - self.std.log() - self._z.log()
        inside = (value >= self.LOW) & (value <= self.HIGH)
        return torch.where(inside, each, -torch.inf).sum(-1)

    def entropy(self, noise: NoiseFn | None = None) -> Tensor:
        edges = (self._a * _pdf(self._a) - self._b * _pdf(self._b)) / (2 * self._z)
        each = 0.5 + HALF_LOG_2PI + self.std.log() + self._z.log() + edges
        return each.sum(-1)


def _pdf(x: Tensor) -> Tensor:
    return torch.exp(-0.5 * x * x - HALF_LOG_2PI)


class TanhNormalDist:
    """tanh of a normal; the last dimension is the event. Mean, mode and entropy are
    estimated from ``samples`` draws; the mode is an element's most likely one."""

    noise_kind = "normal"

    # The float32 number next below 1, in every dtype, so that atanh is finite.
    EDGE = 1 - 2**-24

    def __init__(self, mean: Tensor, std: Tensor, samples: int = 100):
        self._base = NormalDist(mean, std, event_dims=1)
        self.noise_shape = mean.shape
        self._samples = samples

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self._base.sample(noise))

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.clamp(-self.EDGE, self.EDGE)
        return self._log_prob_before_tanh(torch.atanh(value))

    def _log_prob_before_tanh(self, x: Tensor) -> Tensor:
        # log(1 - tanh(x)^2), in a form that is stable for large |x|.
        log_det = 2.0 * (math.log(2.0) - x - F.softplus(-2.0 * x))
        return self._base.log_prob(x) - log_det.sum(-1)

    def _draws(self, noise: NoiseFn | None) -> Tensor:
        if noise is None:
            raise ValueError(
                "The mean, mode and entropy of a tanh_normal are estimated from "
                "samples and need a source of noise."
            )
        draws = noise("tanh_stats", "normal", (self._samples, *self.noise_shape))
        return self._base.sample(draws.to(self._base.loc.dtype))

    def mean(self, noise: NoiseFn | None = None) -> Tensor:
        return torch.tanh(self._draws(noise)).mean(0)

    def mode(self, noise: NoiseFn | None = None) -> Tensor:
        draws = self._draws(noise)
        best = self._log_prob_before_tanh(draws).argmax(0)
        index = best[None, ..., None].expand(1, *draws.shape[1:])
        return torch.tanh(draws.gather(0, index)[0])

    def entropy(self, noise: NoiseFn | None = None) -> Tensor:
        return -self._log_prob_before_tanh(self._draws(noise)).mean(0)


def stack(dists: "Sequence[Dist]") -> "Dist":
    """Join distributions that differ in numbers alone, along a new dimension."""
    joined = copy.copy(dists[0])
    for name, value in vars(joined).items():
        values = [getattr(dist, name) for dist in dists]
        if isinstance(value, Tensor):
            setattr(joined, name, torch.stack(values))
        elif isinstance(value, NormalDist):
            setattr(joined, name, stack(values))
    joined.noise_shape = torch.Size((len(dists), *dists[0].noise_shape))
    return joined


Dist = OneHotDist | NormalDist | MSEDist | BinaryDist | TruncNormalDist | TanhNormalDist
