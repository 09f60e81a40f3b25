"""The processes that share one run, as torchrun starts them: ranks 0, 1, .. of a count.

All make the same updates in the same order, each on its share of the batch, so what is
not linear in the batch asks here for its mean over all: by NCCL on a GPU, inside the
graph of an update, by gloo between hosts. Not run on a GPU."""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dreamerv2.common.errors import RunFailed, summary

# Another rank may play an evaluation meanwhile. One that died closes its connection.
PATIENCE = timedelta(days=7)


class RankLost(RunFailed):
    """Another rank has failed or is gone, so that this one cannot go on either."""


class Ranks:
    """This process, `rank` of `count`, among the others; alone, nothing here costs
    anything. Rank 0 logs, evaluates and writes; `local` is the number of the GPU."""

    def __init__(
        self, rank: int = 0, count: int = 1, local: int = 0, store: Any = None
    ):
        self.rank, self.count, self.local = rank, count, local
        self._store = store

    def folder(self, logdir: Path) -> Path:
        """Return where this rank's own files are: episodes, errors, output."""
        return logdir / f"rank{self.rank}" if self.rank else logdir

    def sum(self, *numbers: int) -> list[int]:
        """Return the sums of whole numbers over all ranks."""
        if self.count == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.int64)
        self._call(dist.all_reduce, sums)
        return sums.tolist()

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, which can be pickled. No rank is ahead of it."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        self._call(dist.all_gather_object, values, value)
        return values

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        for tensor in tensors if self.count > 1 else ():
            value = tensor.detach().contiguous()
            self._call(dist.broadcast, value, 0)
            tensor.detach().copy_(value)

    def average(self, flat: Tensor) -> None:
        """Overwrite a dense tensor by its mean over all ranks."""
        if self.count > 1:
            self._call(dist.all_reduce, flat)
            flat /= self.count

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a 0-d tensor over all ranks, with this one's gradient."""
        if self.count == 1:
            return value
        mean = value.detach().clone()
        self.average(mean)
        return mean + (value - value.detach())

    def is_first_to_end(self) -> bool:
        """Note that this rank ends; True at the first that does, which says why."""
        try:
            return self.count == 1 or self._store.add("ended", 1) == 1
        except RuntimeError:  # The launcher that keeps the count is gone.
            return True

    def close(self) -> None:
        """Part from the others, at the end that all have reached."""
        if self.count > 1:
            dist.destroy_process_group()

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLost(
                f"Process {self.rank} of {self.count} cannot reach the others any more "
                f"({summary(error)}), so the run ends: start the same command again."
            ) from error


ALONE = Ranks()


def join_ranks() -> Ranks:
    """Meet the other processes that torchrun started; without it, be alone."""
    if not dist.is_torchelastic_launched() or os.environ.get("WORLD_SIZE") == "1":
        return ALONE
    store, rank, count = next(dist.rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("group", store),
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )
    return Ranks(rank, count, int(os.environ["LOCAL_RANK"]), store)
