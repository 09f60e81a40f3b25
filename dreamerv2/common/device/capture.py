"""Functions of tensors that are captured once, as CUDA graphs, and then replayed.

An update of the agent is thousands of small kernels, and launching them one by one
takes the host longer than running them takes the GPU. A replay launches them all at
once. The rules of CUDA graphs, which make up this file:

- A graph holds addresses. What goes in is copied to buffers that stay, what comes out
  from buffers that the next replay overwrites. All else is changed in place alone.
- While a graph is captured nothing is computed, and nothing may wait for the device.
- A generator of random numbers is registered with the graph: its replays draw what
  the same calls would draw without one.
- Before a capture everything has run a few times on its stream, so that what is made
  at the first call (compiled code, handles and workspaces of libraries) is there.
"""

import contextlib
import gc
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from dreamerv2.common.networks.noise import Noise

WARMUP = 3  # Calls that run as they are, before the one that captures.
MOST = 8  # Graphs of one function.

Tree = Any
"""Tensors (or arrays, where they go in) and None in nested mappings and tuples."""

T = TypeVar("T")

# PyTorch captures one graph at a time in a process, whatever the threads.
_ONE_AT_A_TIME = threading.Lock()


class CudaGraphs:
    """CUDA graphs, on a stream of their own, so that no other graph that is replayed
    at the same time shares its libraries' workspaces. Not run without a GPU."""

    def __init__(self, device: torch.device):
        self._stream = torch.cuda.Stream(device)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within it are the calls that come before a capture."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def capture(
        self, run: Callable[[], T], generator: torch.Generator
    ) -> tuple[Callable[[], None], T]:
        """Capture run(), which changes no number; return a function that does it again,
        drawing from the generator, and what run returned, which replays overwrite."""
        gc.collect()  # An old graph that is collected meanwhile would be an error.
        with _ONE_AT_A_TIME, self.aside():
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            pool = torch.cuda.graph_pool_handle()
            # Other threads may copy and compute meanwhile: only this one may not wait.
            mode = "thread_local"
            try:
                with torch.cuda.graph(graph, pool, self._stream, mode):
                    outputs = run()
            except BaseException:
                self._forget(pool)
                raise
        return graph.replay, outputs

    def _forget(self, pool: tuple[int, int]) -> None:
        """Tell the allocator of memory that a failed capture has ended."""
        device = self._stream.device_index
        names = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"
        end = next(getattr(torch._C, x) for x in names if hasattr(torch._C, x))
        with contextlib.suppress(RuntimeError):
            end(device, pool)  # Raises if it knows. PyTorch 2.6 has the second name.
            torch._C._cuda_releasePool(device, pool)


def backend_for(device: torch.device, jit: bool) -> CudaGraphs | None:
    """Return CUDA graphs on a GPU; None, to run as it is, elsewhere or without jit."""
    return CudaGraphs(device) if jit and device.type == "cuda" else None


class Captured:
    """A function that is called as it is at first, then captured and replayed.

    ``captured(inputs, noise, *fixed)`` does what ``fn(inputs, noise, *fixed)`` does, on
    the device. There is one graph for each generator of the noise, each ``fixed``, and
    the inputs' names, shapes and types, at most `most`. Further ones run as they are,
    as do all where a capture fails, without a backend, or with noise that is no Noise.
    Calls must come one after another, and on streams that are ordered.

    fn takes tensors on the device, a source of noise and hashable values, and returns
    new tensors, with no gradient. It does the same at each call, asks the device for
    nothing, and changes tensors in place alone."""

    def __init__(
        self,
        fn: Callable[..., Tree],
        device: torch.device,
        backend: CudaGraphs | None,
        what: str,
        warmup: int = WARMUP,
        most: int = MOST,
    ):
        self._fn, self._device, self._backend = fn, device, backend
        self._what, self._warmup, self._most = what, warmup, most
        self._graphs: dict[Hashable, _Graph] = {}
        self._said = False

    def __call__(self, inputs: Tree, noise: Any, *fixed: Hashable) -> Tree:
        graph = None
        if self._backend is not None and isinstance(noise, Noise):
            inputs = sort_keys(map_tree(torch.as_tensor, inputs))
            graph = self._graph_for(inputs, (noise.generator, *fixed))
        if graph is None:
            return self._fn(self._to_device(inputs), noise, *fixed)
        if not graph.captured and graph.is_warm(self._warmup):
            self._capture(graph, noise, fixed)
        if graph.captured:
            return graph.replay(inputs)
        if self._backend is None:  # The capture failed.
            return self._fn(self._to_device(inputs), noise, *fixed)
        with self._backend.aside():
            # All that a capture does is done here, too.
            return _Outputs(self._fn(graph.take(inputs), noise, *fixed)).copies()

    def _to_device(self, inputs: Tree) -> Tree:
        return map_tree(
            lambda x: torch.as_tensor(x).to(self._device, non_blocking=True), inputs
        )

    def _graph_for(self, inputs: Tree, more: tuple) -> "_Graph | None":
        """Return the graph for such inputs, None if there are too many."""
        key = (*more, _signature(inputs))
        if key not in self._graphs:
            if len(self._graphs) >= self._most:
                if not self._said:
                    print(
                        f"{self._what.capitalize()} has more than {self._most} kinds "
                        "of inputs: further ones run without a CUDA graph."
                    )
                self._said = True
                return None
            self._graphs[key] = _Graph(inputs, self._device)
        return self._graphs[key]

    def _capture(self, graph: "_Graph", noise: Noise, fixed: tuple) -> None:
        """Capture; if that fails, leave everything as before but for the graphs."""
        state = noise.state_dict()

        def run() -> _Outputs:
            return _Outputs(self._fn(graph.inputs, noise, *fixed))

        try:
            graph.captured = self._backend.capture(run, noise.generator)
        except Exception as error:  # Whatever it is: there is another way to go on.
            self._backend = None
            self._graphs.clear()
            noise.renew(state)
            print(
                f"Capturing {self._what} as a CUDA graph failed ({cause(error)}), so "
                "it goes on without one, slower but with the same numbers."
            )


class _Graph:
    """The buffers of one graph's inputs, and the graph once it is captured."""

    def __init__(self, inputs: Tree, device: torch.device):
        self.inputs = map_tree(
            lambda x: torch.empty(x.shape, dtype=x.dtype, device=device), inputs
        )
        self.captured: tuple[Callable[[], None], _Outputs] | None = None
        self._buffers = leaves(self.inputs)
        self._calls = 0
        self._thread = 0

    def is_warm(self, calls: int) -> bool:
        """Check that its thread, which has handles of libraries, made enough calls."""
        if self._thread != threading.get_ident():
            self._thread, self._calls = threading.get_ident(), 0
        self._calls += 1
        return self._calls > calls

    def take(self, inputs: Tree) -> Tree:
        """Copy the inputs to their buffers, and return these."""
        for buffer, value in zip(self._buffers, leaves(inputs), strict=True):
            buffer.copy_(value, non_blocking=True)
        return self.inputs

    def replay(self, inputs: Tree) -> Tree:
        """Replay the graph on these inputs."""
        replay, outputs = self.captured
        self.take(inputs)
        replay()
        return outputs.copies()


class _Outputs:
    """What a captured function returned, in a form that few kernels copy: all numbers
    of one type, such as the metrics, are in one vector."""

    def __init__(self, tree: Tree):
        numbers: dict[torch.dtype, list[Tensor]] = {}
        for leaf in leaves(tree):
            if leaf.dim() == 0:
                numbers.setdefault(leaf.dtype, []).append(leaf)
        self._tree = tree
        self._arrays = [leaf for leaf in leaves(tree) if leaf.dim()]
        self._vectors = {dtype: torch.stack(xs) for dtype, xs in numbers.items()}

    def copies(self) -> Tree:
        """Return the outputs, in memory of their own."""
        arrays = iter([array.clone() for array in self._arrays])
        numbers = {k: iter(x.clone().unbind()) for k, x in self._vectors.items()}
        return map_tree(
            lambda x: next(arrays if x.dim() else numbers[x.dtype]), self._tree
        )


def map_tree(fn: Callable[[Any], Any], tree: Tree) -> Tree:
    """Return the tree with fn of each leaf in its place, in order; None stays."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return {key: map_tree(fn, value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(map_tree(fn, value) for value in tree)
    return fn(tree)


def sort_keys(tree: Tree) -> Tree:
    """Return the tree with its mappings in the order of their keys."""
    if isinstance(tree, Mapping):
        return {key: sort_keys(tree[key]) for key in sorted(tree)}
    return tuple(map(sort_keys, tree)) if isinstance(tree, tuple) else tree


def leaves(tree: Tree) -> list[Any]:
    """Return all leaves of a tree, in order."""
    found: list[Any] = []
    map_tree(found.append, tree)
    return found


def _signature(tree: Tree) -> Hashable:
    """Return what a graph is made for: names, shapes and types."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        return tuple((key, _signature(value)) for key, value in tree.items())
    if isinstance(tree, tuple):
        return tuple(_signature(value) for value in tree)
    return tree.dtype, tuple(tree.shape)


def cause(error: BaseException) -> str:
    """Return the first line of the first error, which led to those after it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else repr(error)
