"""Small parts: random agent, lambda-returns, schedules, stream norm, carried state."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.errors import UsageError
from dreamerv2.common.networks.noise import NoiseFn
from dreamerv2.common.torchutils import Module


class RandomAgent:
    """Uniformly random actions: one-hot, or within the bounds, else standard normal."""

    def __init__(self, act_space: Mapping[str, Any], seed: int = 0):
        self._space = act_space["action"]
        self._rng = np.random.default_rng(seed)

    def __call__(
        self, obs: Mapping[str, np.ndarray], state: Any = None, mode: str = "train"
    ) -> tuple[dict[str, np.ndarray], Any]:
        """obs of N environments -> {"action": (N, A) float32}, state."""
        count, size = len(obs["is_first"]), self._space.shape[0]
        if getattr(self._space, "discrete", False):
            action = np.eye(size)[self._rng.integers(size, size=count)]
        else:
            low, high = self._space.low, self._space.high
            bounded = np.isfinite(low) & np.isfinite(high)
            ends = np.where(bounded, low, 0), np.where(bounded, high, 1)
            uniform = self._rng.uniform(*ends, (count, size))
            normal = self._rng.standard_normal((count, size))
            action = np.where(bounded, uniform, np.clip(normal, low, high))
        return {"action": action.astype(np.float32)}, state

    def state_dict(self) -> dict:
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping) -> None:
        self._rng.bit_generator.state = state["rng"]


def lambda_return(
    reward: Tensor, value: Tensor, pcont: Tensor, bootstrap: Tensor, lambda_: float
) -> Tensor:
    """Compute lambda-returns (equation 4 of the paper), time first.

        R[t] = r[t] + d[t] * ((1 - lambda) * v[t+1] + lambda * R[t+1])

    with v[H] = R[H] = bootstrap, (...). r, v and d, the discount, and what is returned
    are of H steps, (H, ...); ValueError for other shapes."""
    if not reward.shape == value.shape == pcont.shape:
        shapes = [tuple(x.shape) for x in (reward, value, pcont)]
        raise ValueError(f"reward, value and pcont have several shapes, {shapes}.")
    if bootstrap.shape != reward.shape[1:]:
        raise ValueError(
            f"bootstrap must have the shape of one step, {tuple(reward.shape[1:])}, "
            f"but has {tuple(bootstrap.shape)}."
        )
    value_next = torch.cat([value[1:], bootstrap[None]], 0)  # (H, ...)
    inputs = reward + pcont * value_next * (1 - lambda_)
    returns = [bootstrap]
    for t in reversed(range(len(reward))):
        returns.append(inputs[t] + pcont[t] * lambda_ * returns[-1])
    return torch.stack(returns[:0:-1], 0)


_SCHEDULES = {"linear": 3, "warmup": 2, "exp": 3, "horizon": 3}  # And their numbers.


def schedule(text: str | float, step: Tensor) -> Tensor:
    """Return a number that may depend on the step (a float tensor, in policy steps).

    - ``0.001``: constant.
    - ``linear(a,b,n)``: from a to b over n steps.
    - ``warmup(n,v)``: from 0 to v over n steps.
    - ``exp(a,b,halflife)``: from a towards b, half the way every halflife steps.
    - ``horizon(a,b,n)``: 1 - 1/h with h linear from a to b over n steps."""
    name, numbers = parse_schedule(text)
    if name == "constant":
        return torch.full_like(step, numbers[0])
    if name == "warmup":
        duration, value = numbers
        return (step / duration).clamp(0, 1) * value
    initial, final, duration = numbers
    if name == "exp":
        return (initial - final) * 0.5 ** (step / duration) + final
    mix = (step / duration).clamp(0, 1)
    linear = (1 - mix) * initial + mix * final
    return linear if name == "linear" else 1 - 1 / linear


def parse_schedule(text: str | float) -> tuple[str, list[float]]:
    """``linear(1,0.1,1000)`` -> ("linear", [1.0, 0.1, 1000.0]); or UsageError."""
    with suppress(ValueError):
        return "constant", [float(text)]
    match = re.fullmatch(r"(\w+)\((.*)\)", str(text).replace(" ", ""))
    with suppress(TypeError, KeyError, ValueError):
        name, numbers = match[1], [float(x) for x in match[2].split(",")]
        if len(numbers) == _SCHEDULES[name]:
            return name, numbers
    raise UsageError(
        f"'{text}' is no schedule: expected a number, linear(a,b,n), warmup(n,v), "
        "exp(a,b,halflife) or horizon(a,b,n)."
    )


def action_noise(
    action: Tensor, amount: float, discrete: bool, noise: NoiseFn
) -> Tensor:
    """Make actions (..., A) noisier: discrete ones random with probability ``amount``,
    continuous ones by normal noise of that deviation, clipped to [-1, 1]."""
    if amount == 0:
        return action
    if discrete:
        probs = amount / action.shape[-1] + (1 - amount) * action
        draws = noise("action_noise", "gumbel", action.shape)
        best = (probs.log() + draws).argmax(-1, keepdim=True)
        return torch.zeros_like(action).scatter_(-1, best, 1.0)
    draws = noise("action_noise", "normal", action.shape)
    return (action + amount * draws).clamp(-1, 1)


class StreamNorm(Module):
    """Divides a stream of numbers by a running mean of their magnitude.

    magnitude = momentum * magnitude + (1 - momentum) * mean|x|, starting at 1;
    output = x / (magnitude + eps) * scale. Momentum 1 turns it off. The mean is over
    all ranks."""

    parts = ("mag",)

    def __init__(
        self,
        momentum: float,
        scale: float,
        eps: float,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        ranks: Ranks = ALONE,
    ):
        self._momentum, self._scale, self._eps = momentum, scale, eps
        self._ranks = ranks
        self.mag = torch.ones((), dtype=dtype, device=device)

    def __call__(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Take the inputs into account, normalize them, and return metrics of both."""
        self.update(inputs)
        outputs = self.transform(inputs)
        metrics = {}
        for prefix, x in (("", inputs.detach()), ("normed_", outputs.detach())):
            metrics[f"{prefix}mean"] = x.mean()
            metrics[f"{prefix}std"] = x.std(correction=0)
        return outputs, metrics

    @torch.no_grad()
    def update(self, inputs: Tensor) -> None:
        """Move the magnitude."""
        if self._momentum == 1:
            return
        mean = self._ranks.mean(inputs.abs().mean()).to(self.mag.dtype)
        new = self._momentum * self.mag + (1 - self._momentum) * mean
        # An input that is not finite would stay in the mean for ever.
        self.mag.copy_(torch.where(torch.isfinite(new), new, self.mag))

    def transform(self, inputs: Tensor) -> Tensor:
        """Divide by the magnitude."""
        return inputs / (self.mag + self._eps) * self._scale


class RunningMeans:
    """Means of metrics over many updates, on their device: one vector of sums, since
    thousands of tiny tensors would keep memory from being reused. means() waits."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add one update's metrics, 0-d tensors; every time of the same names."""
        names = list(metrics)
        if self._sums is None:
            self._names, self._count = names, 0
        elif names != self._names:
            raise ValueError(f"The metrics were {self._names} and are {names} now.")
        values = torch.stack([metrics[name].float() for name in names])
        self._sums = values if self._sums is None else self._sums + values
        self._count += 1

    def means(self) -> dict[str, float]:
        """Return the means since the last call, on the host; then anew. Waits."""
        if self._sums is None:
            return {}
        means = (self._sums / self._count).tolist()
        self._sums = None
        return dict(zip(self._names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {"names": self._names, "sums": self._sums, "count": self._count}

    def load_state_dict(self, state: Mapping) -> None:
        self._names, self._count = list(state["names"]), state["count"]
        self._sums = state["sums"]


class Timer:
    """Shares of time spent in parts of a loop: `with timer("update"): ...`."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._spent: dict[str, float] = {}
        self._start = clock()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._spent[name] = self._spent.get(name, 0.0) + self._clock() - start

    def shares(self) -> dict[str, float]:
        """Return each part's share (0 to 1) since the last call; then begin anew."""
        now = self._clock()
        passed = max(now - self._start, 1e-9)
        shares = {name: spent / passed for name, spent in self._spent.items()}
        self._spent, self._start = {}, now
        return shares
