"""What stands for a GPU in tests: graphs that are emulated, and a strict eye on ops."""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = set(
    """
    _local_scalar_dense item equal is_nonzero allclose
    nonzero nonzero_numpy argwhere masked_select unique _unique _unique2 unique_dim
    unique_consecutive unique_dim_consecutive bincount histc multinomial
    """.split()
)
"""Ops that ask the device for a number, or for the size of their result."""

FROM_HOST = {"lift", "lift_fresh", "lift_fresh_copy", "_pin_memory", "is_pinned"}
"""Ops on tensors that are made of numbers on the host."""

RANDOM = set(
    """
    rand randn randint randperm rand_like randn_like randint_like bernoulli bernoulli_
    normal normal_ uniform_ exponential_ random_ cauchy_ log_normal_ geometric_ poisson
    native_dropout dropout
    """.split()
)


class Forbidden(Exception):
    """An op that cannot be in a CUDA graph, or would be other numbers there."""


class Capturable(TorchDispatchMode):
    """Within it, an op that a CUDA graph cannot hold raises Forbidden.

    These are the ones that wait for the device, whose result's shape depends on its
    numbers, that bring numbers from the host or take some there, and random ones
    without a generator of their own.
    """

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        self.seen.add(name)
        if name in WAITING or name in FROM_HOST:
            raise Forbidden(str(func))
        if name in RANDOM and kwargs.get("generator") is None:
            raise Forbidden(f"{func} without a generator")
        if name == "repeat_interleave" and func._overloadname != "self_int":
            raise Forbidden(str(func))
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            for index in args[1]:
                if index is not None and index.dtype in (torch.bool, torch.uint8):
                    raise Forbidden(f"{func} with a mask")
        out = func(*args, **kwargs)
        moved = {x.device.type for x in tensors_in((args, kwargs, out))}
        if len(moved) > 1:
            raise Forbidden(f"{func} on {' and '.join(sorted(moved))}")
        return out


def tensors_in(tree):
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in tensors_in(part)]
    return []


class Emulated:
    """A backend that replays by calling the function again, on the same buffers.

    Like a graph it computes nothing while it captures, and writes what comes out to
    where it came out first.

    Args:
      state: gives the tensors that the function changes, nested.
      failing: whether captures fail, after they have drawn random numbers.
    """

    def __init__(self, state=dict, failing=False):
        self._state = state
        self._failing = failing
        self.asides = self.captures = self.replays = 0

    @contextmanager
    def aside(self):
        self.asides += 1
        yield

    def capture(self, run, generator):
        before = [(x, x.clone()) for x in tensors_in(self._state())]
        drawn = generator.get_state()
        outputs = run()
        for live, old in before:
            with torch.no_grad():
                live.copy_(old)
        if self._failing:
            raise RuntimeError("operation not permitted when stream is capturing.\n...")
        generator.set_state(drawn)
        for x in overwritten(outputs):
            x.fill_(1) if x.dtype == torch.bool else x.fill_(77)
        self.captures += 1

        def replay():
            self.replays += 1
            news = overwritten(run())
            for old, new in zip(overwritten(outputs), news, strict=True):
                old.copy_(new)

        return replay, outputs


def overwritten(outputs):
    """The tensors that a replay overwrites."""
    return [*outputs._arrays, *outputs._vectors.values()]


def live_state(agent):
    """The tensors that an update changes; the noise goes on by itself."""
    state = agent.state_dict()
    del state["noise"]
    return [state, agent._step]
