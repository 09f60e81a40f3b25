"""What is asked of torch.cuda to capture and replay, where there is no GPU to ask."""

import inspect
from contextlib import contextmanager

import pytest
import torch

from dreamerv2.common.device.capture import CudaGraphs

POOL_CALLS = "_cuda_endAllocateToPool", "_cuda_releasePool"
REAL = inspect.signature(torch.cuda.graph)


class Stream:
    device_index = 1

    def __init__(self, name, log):
        self.name, self.log = name, log
        self.device = torch.device("cuda", 1)

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")


class Cuda:
    """Stands for torch.cuda, and writes down what it is told."""

    def __init__(self, monkeypatch, endable=True, pool_calls=POOL_CALLS):
        self.log = []
        self.now = self.main = Stream("main", self.log)
        self.endable = endable
        for name in ("Stream", "CUDAGraph", "current_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (7, 0))
        for name in POOL_CALLS:
            monkeypatch.delattr(torch._C, name, raising=False)
        for name in pool_calls:
            told = self.pool_call(name)
            monkeypatch.setattr(torch._C, name, told, raising=False)

    def pool_call(self, name):
        def told(device, pool):
            if "_end" in name and not self.endable:
                raise RuntimeError("not currently recording to mempool_id")
            self.log.append(f"{name} {device} {pool}")

        return told

    def Stream(self, device):
        return Stream("side", self.log)

    def current_stream(self, device):
        assert device == torch.device("cuda", 1)
        return self.now

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def CUDAGraph(self):
        log = self.log

        class Graph:
            def register_generator_state(self, generator):
                log.append(f"registers {generator}")

            def replay(self):
                log.append("replays")

        return Graph()

    @contextmanager
    def graph(self, *args):
        given = REAL.bind(*args).arguments
        assert given["pool"] == (7, 0) and given["stream"] is self.now
        assert given["capture_error_mode"] == "thread_local"
        self.log.append("begins")
        try:
            yield
        finally:
            self.log.append("ends")


BEGUN = ["side waits for main", "registers a generator", "begins"]


def test_a_capture_is_made_on_the_side_and_replayed_where_it_is_asked_for(monkeypatch):
    cuda = Cuda(monkeypatch)
    graphs = CudaGraphs(torch.device("cuda", 1))

    def run():
        cuda.log.append(f"runs on {cuda.now.name}")
        return "outputs"

    with graphs.aside():
        run()
    assert cuda.log == ["side waits for main", "runs on side", "main waits for side"]
    cuda.log.clear()
    replay, outputs = graphs.capture(run, "a generator")
    assert outputs == "outputs" and cuda.now is cuda.main
    assert cuda.log == [*BEGUN, "runs on side", "ends", "main waits for side"]
    cuda.log.clear()
    replay()
    assert cuda.log == ["replays"]


@pytest.mark.parametrize("endable", [True, False])
def test_a_capture_that_fails_is_ended_for_the_allocator_too(monkeypatch, endable):
    cuda = Cuda(monkeypatch, endable)
    graphs = CudaGraphs(torch.device("cuda", 1))

    def run():
        raise ValueError("item()")

    with pytest.raises(ValueError, match="item()"):
        graphs.capture(run, "a generator")
    assert cuda.now is cuda.main
    # Where PyTorch itself has ended it, nothing may be released a second time.
    told = ["_cuda_endAllocateToPool 1 (7, 0)", "_cuda_releasePool 1 (7, 0)"]
    ended = ["ends", *(told if endable else []), "main waits for side"]
    assert cuda.log == [*BEGUN, *ended]
    with pytest.raises(ValueError):  # The lock is free again.
        graphs.capture(run, "a generator")


def test_a_failed_capture_is_ended_by_the_name_that_pytorch_2_6_has_for_it(monkeypatch):
    ends = "_cuda_endAllocateCurrentStreamToPool"
    cuda = Cuda(monkeypatch, pool_calls=(ends, "_cuda_releasePool"))
    graphs = CudaGraphs(torch.device("cuda", 1))
    with pytest.raises(ZeroDivisionError):
        graphs.capture(lambda: 1 / 0, "a generator")
    told = [f"{ends} 1 (7, 0)", "_cuda_releasePool 1 (7, 0)"]
    assert cuda.log == [*BEGUN, "ends", *told, "main waits for side"]
