"""Device, precision, saved state and the optimizer (the reference's tfutils)."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.errors import UsageError, match_state

LOW_PRECISION = (torch.float16, torch.bfloat16)


def resolve_device(name: str) -> torch.device:
    """Return the device that a config names; UsageError for one that is not here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"(cpu|cuda)(:\d\d?)?", name):
        raise UsageError(
            f"Unknown device '{name}': expected auto, cpu, cuda or cuda:N."
        )
    device = torch.device(name)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UsageError(
            f"Device '{name}' was asked for, but PyTorch sees {count} CUDA GPUs: "
            "pass --device cpu, or install a CUDA build of PyTorch and its driver."
        )
    return device


class Precision:
    """The dtype that networks compute in; parameters, losses, distributions: float32.

    ``16`` means bfloat16 where a GPU computes in it, else float16 with loss scaling,
    and float32 on a CPU; ``float64`` puts everything into float64. With `cache`, 16-bit
    copies of weights are kept for a context, until another thread leaves one."""

    NAMES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    NAMES |= dict.fromkeys(("32", "float32"), torch.float32)
    NAMES |= dict.fromkeys(("64", "float64"), torch.float64)

    def __init__(self, name: str, device: torch.device, cache: bool = True):
        self._device, self._cache = device, cache
        if name == "16" and device.type == "cpu":
            name = "float32"
        elif name == "16":
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            name = "bfloat16" if bf16 else "float16"
        self.compute = self.NAMES[name]
        self.param = torch.float64 if name.endswith("64") else torch.float32

    @property
    def loss_scaling(self) -> bool:
        """True if gradients can underflow, so that losses are scaled up."""
        return self.compute == torch.float16

    def context(self) -> AbstractContextManager:
        """Return a context in which products and convolutions compute in 16 bits."""
        if self.compute not in LOW_PRECISION:
            return nullcontext()
        kind = self._device.type
        return torch.autocast(kind, self.compute, cache_enabled=self._cache)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in what losses are computed in: float32, or float64 if it was."""
    return x.float() if x.dtype in LOW_PRECISION else x


def compiled(fn: Callable) -> Callable:
    """Return fn through torch.compile, with static shapes."""
    return torch.compile(fn, dynamic=False)


def can_compile() -> bool:
    """Check that the compiler which torch.compile needs at run time is installed."""
    chosen = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return any(shutil.which(name) for name in chosen)


def init_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw Glorot-uniform kernels, with the fans of Keras: kernel area times the
    channels of either side; set biases to zero."""
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    for part in module.modules():
        if isinstance(part, kinds):
            nn.init.xavier_uniform_(part.weight, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class Module:
    """A plain class that owns networks, optimizers and counters; ``parts`` names the
    attributes of its state: tensors, or what has state_dict and load_state_dict."""

    parts: tuple[str, ...] = ()

    def state_dict(self) -> dict:
        """Return {part: its state}. Tensors are the live ones, not copies."""
        state = {}
        for name in self.parts:
            part = getattr(self, name)
            if part is None:  # As the optimizers of an agent that only acts.
                continue
            state[name] = part if isinstance(part, Tensor) else dict(part.state_dict())
        return state

    def load_state_dict(self, state: Mapping) -> None:
        """Copy a state into the parts; UsageError, and no change, if it misfits."""
        own, found = named_tensors(Module.state_dict(self)), named_tensors(state)
        match_state(own, found, type(self).__name__)
        for name in self.parts:
            part = getattr(self, name)
            if part is None:
                continue
            if isinstance(part, Tensor):
                part.copy_(state[name])
            else:
                part.load_state_dict(state[name])


def named_tensors(state: Mapping, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors in nested dicts, by dotted names."""
    found = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found.update(named_tensors(value, f"{prefix}{name}."))
        elif isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
    return found


def _bits(x: Tensor) -> Tensor:
    """View the memory as integers: times 0 or 1 these are exact, NaNs included."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().view(kinds[x.element_size()])


def zero_unless(keep: Tensor, x: Tensor) -> None:
    """Write zeros to x, whatever it is, unless keep, a 0-d bool, is true; the device is
    not asked."""
    _bits(x).mul_(keep)


def restore_unless(
    keep: Tensor, tensors: Sequence[Tensor], backups: Sequence[Tensor]
) -> None:
    """Write the backups, which are spoilt, to the tensors unless keep is true."""
    bits, backup_bits = ([_bits(x) for x in xs] for xs in (tensors, backups))
    torch._foreach_mul_(bits, keep.to(bits[0].dtype))
    torch._foreach_mul_(backup_bits, (~keep).to(bits[0].dtype))
    torch._foreach_add_(bits, backup_bits)


class Optimizer:
    """Clips, decays and steps the parameters of one loss, without waiting.

    In this order: mean of the gradients over all ranks; their global norm; clip by it;
    parameter *= 1 - wd where its name matches wd_pattern; the step. Adam is
    TensorFlow's, whose eps is not bias-corrected: with step size lr * sqrt(1 - b2^t) /
    (1 - b1^t), the update is m / (sqrt(v) + eps). The others follow torch.optim: nadam
    (momentum_decay 4e-3), adamax, sgd, momentum (0.9).

    With loss_scaling (float16), the loss is multiplied by a scale that halves after a
    step with non-finite gradients, which is skipped, decay included, and doubles after
    2000 finite ones. Without, such gradients count as zero."""

    BETAS = (0.9, 0.999)
    GROWTH_INTERVAL = 2000
    SLOTS = {"adam": ("m", "v"), "nadam": ("m", "v"), "adamax": ("m", "v")}
    SLOTS |= {"sgd": (), "momentum": ("m",)}

    def __init__(
        self,
        name: str,
        params: Mapping[str, nn.Parameter],
        lr: float,
        eps: float,
        clip: float,
        wd: float,
        opt: str,
        wd_pattern: str = ".*",
        loss_scaling: bool = False,
        ranks: Ranks = ALONE,
    ):
        self._name, self._ranks = name, ranks
        self._names = list(params)
        self.params = list(params.values())
        self._lr, self._eps, self._clip, self._wd, self._opt = lr, eps, clip, wd, opt
        self._decayed = [p for k, p in params.items() if re.match(wd_pattern, k)]
        first, size = self.params[0], sum(p.numel() for p in self.params)
        self._slots = {slot: first.new_zeros(size) for slot in self.SLOTS[opt]}
        self._grads = first.new_zeros(size)
        # Counters are tensors, so that a captured step can advance them. float64:
        # b2^t is wanted to float32's precision.
        one = torch.ones((), dtype=torch.float64, device=first.device)
        self._step = 0 * one
        self._mu_product = one.clone()
        self._scale = 2.0**15 * one if loss_scaling else None
        self._good_steps = 0 * one

    def _views(self, flat: Tensor) -> list[Tensor]:
        """View a flat buffer as the parameters lie in memory."""
        parts = flat.split([p.numel() for p in self.params])
        pairs = zip(parts, self.params, strict=True)
        return [x.as_strided(p.shape, p.stride()) for x, p in pairs]

    def gradients(self, loss: Tensor) -> list[Tensor]:
        """Return the loss's gradients in the parameters, loss scale undone."""
        if self._scale is not None:
            loss = loss * self._scale.to(loss.dtype)
        grads = torch.autograd.grad(loss, self.params, materialize_grads=True)
        if self._scale is not None:
            grads = torch._foreach_mul(grads, (1.0 / self._scale).to(loss.dtype))
        return list(grads)

    def __call__(self, loss: Tensor) -> dict[str, Tensor]:
        """Minimize a 0-d loss by one step. Returns 0-d metrics on the device."""
        metrics = {f"{self._name}_loss": loss.detach()}
        norm = self.apply(self.gradients(loss))
        metrics[f"{self._name}_grad_norm"] = norm
        if self._scale is not None:
            metrics[f"{self._name}_loss_scale"] = self._scale.clone()
            metrics[f"{self._name}_overflow"] = ~torch.isfinite(norm)
        return metrics

    @torch.no_grad()
    def apply(self, grads: Sequence[Tensor]) -> Tensor:
        """Step by the given gradients. Returns their global norm, unclipped."""
        torch._foreach_copy_(self._views(self._grads), list(grads))
        self._ranks.average(self._grads)
        norm = torch.linalg.vector_norm(self._grads)
        finite = torch.isfinite(norm)
        if self._clip:
            self._grads *= self._clip / torch.clamp(norm, min=self._clip)
        if self._scale is None:
            zero_unless(finite, self._grads)
            self._decay_and_step()
        else:
            self._step_if_finite(finite)
        return norm

    def _decay_and_step(self) -> None:
        if self._wd and self._decayed:
            torch._foreach_mul_(self._decayed, 1 - self._wd)
        self._step += 1
        getattr(self, f"_{self._opt}")(self._grads)

    def _step_if_finite(self, finite: Tensor) -> None:
        """Step, then take it back, on the device, if the gradients were not finite."""
        tensors = [*self.params, *self._slots.values()]
        counters = [self._step, self._mu_product]
        before = [x.clone() for x in counters]
        olds = [torch.empty_like(x) for x in tensors]
        torch._foreach_copy_(olds, tensors)
        self._decay_and_step()
        restore_unless(finite, tensors, olds)
        restore_unless(finite, counters, before)
        self._good_steps.copy_(torch.where(finite, self._good_steps + 1, 0))
        grow = self._good_steps >= self.GROWTH_INTERVAL
        factor = torch.where(grow, 2.0, torch.where(finite, 1.0, 0.5))
        self._scale.copy_((self._scale * factor).clamp(min=1.0))
        self._good_steps.copy_(torch.where(grow, 0, self._good_steps))

    def _descend(self, update: Tensor, size: Tensor | float) -> None:
        """Do parameter -= size * update; size may be a tensor on the device."""
        if isinstance(size, Tensor):
            size = size.to(update.dtype)
        torch._foreach_sub_(self.params, self._views(update * size))

    def _adam(self, grads: Tensor) -> None:
        b1, b2 = self.BETAS
        size = self._lr * (1 - b2**self._step).sqrt() / (1 - b1**self._step)
        # Torch's own step makes m / (sqrt(v) + eps), so late that it corrects no bias.
        more = {"weight_decay": 0.0, "amsgrad": False, "maximize": False}
        more.update(lr=-1.0, beta1=b1, beta2=b2, eps=self._eps)
        update, late = torch.zeros_like(grads), torch.full_like(self._step, 1e30)
        lists = [update], [grads], [self._slots["m"]], [self._slots["v"]], []
        torch._fused_adam_(*lists, [late.float()], **more)
        self._descend(update, size)

    def _nadam(self, grads: Tensor) -> None:
        b1, b2 = self.BETAS
        mu = b1 * (1 - 0.5 * 0.96 ** (self._step * 4e-3))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((self._step + 1) * 4e-3))
        self._mu_product *= mu
        m, v = self._slots["m"], self._slots["v"]
        m.lerp_(grads, 1 - b1)
        v.mul_(b2).addcmul_(grads, grads, value=1 - b2)
        correction = (1 - b2**self._step).sqrt().to(v.dtype)
        root = (v.sqrt() / correction).add_(self._eps)
        self._descend(grads / root, self._lr * (1 - mu) / (1 - self._mu_product))
        size = self._lr * mu_next / (1 - self._mu_product * mu_next)
        self._descend(m / root, size)

    def _adamax(self, grads: Tensor) -> None:
        b1, b2 = self.BETAS
        m, v = self._slots["m"], self._slots["v"]
        m.lerp_(grads, 1 - b1)
        torch.maximum(v.mul_(b2), grads.abs() + self._eps, out=v)
        self._descend(m / v, self._lr / (1 - b1**self._step))

    def _sgd(self, grads: Tensor) -> None:
        self._descend(grads, self._lr)

    def _momentum(self, grads: Tensor) -> None:
        self._descend(self._slots["m"].mul_(0.9).add_(grads), self._lr)

    def state_dict(self) -> dict:
        """Return the moments, by ``slot.parameter``, and the counters: live tensors."""
        state = {"step": self._step, "mu_product": self._mu_product}
        state["good_steps"] = self._good_steps
        for slot, flat in self._slots.items():
            names = [f"{slot}.{name}" for name in self._names]
            state |= zip(names, self._views(flat), strict=True)
        if self._scale is not None:
            state["scale"] = self._scale
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping) -> None:
        """Copy what state_dict returned. Raises UsageError where it does not fit."""
        own = self.state_dict()
        match_state(own, state, f"The {self._name} optimizer")
        for name, x in own.items():
            x.copy_(state[name])
