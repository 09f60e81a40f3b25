"""Profiles of updates, by torch's profiler."""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

WARMUP = 10  # Updates before the traced ones; in the first ones code is compiled.
ROWS = 15


class UpdateProfile:
    """Traces some updates of a run, each of them within it as a context.

    After ten updates, the next `count` are traced. Then the trace is in
    `folder`/profile, for TensorBoard (with torch-tb-profiler) or chrome://tracing, and
    a table of what costs the most is printed. With count 0 it does nothing.
    """

    def __init__(self, count: int, folder: Path):
        self._count = count
        self._folder = folder / "profile"
        self._seen = 0
        self._profile: torch.profiler.profile | None = None

    def __enter__(self) -> "UpdateProfile":
        if self._count and self._seen == WARMUP:
            kinds = torch.profiler.supported_activities()
            handler = torch.profiler.tensorboard_trace_handler(str(self._folder))
            self._profile = torch.profiler.profile(
                activities=kinds, on_trace_ready=handler
            )
            self._profile.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._seen += 1
        if self._profile is not None and (
            error is not None or self._seen == WARMUP + self._count
        ):
            self._finish()

    def _finish(self) -> None:
        cuda = torch.cuda.is_initialized()  # A run on the CPU leaves a GPU alone.
        if cuda:  # Not run without a GPU.
            torch.cuda.synchronize()  # So that the last kernels are in it.
        profile, self._profile = self._profile, None
        profile.stop()
        print(f"Traced {self._seen - WARMUP} updates to {self._folder}:", flush=True)
        for row in costs(profile.key_averages(), cuda, ROWS):
            print(format_cost(row))


def costs(averages: Any, cuda: bool, rows: int) -> list[dict[str, Any]]:
    """Return the operations that take the most time, without those that they call.

    Args:
      averages: of a profile, by key_averages.
      cuda: count the time on the GPU, rather than on the CPU: its kernels and copies,
        which is all that a replayed CUDA graph tells.

    Returns operation, calls, seconds, and share of the seconds of all operations.
    """
    if cuda:  # Operations of the host repeat the time of what they launched.
        cpu = torch.autograd.DeviceType.CPU
        averages = [
            event
            for event in averages
            if event.device_type != cpu and not event.is_user_annotation
        ]

    def micros(event: Any) -> float:
        return event.self_device_time_total if cuda else event.self_cpu_time_total

    total = sum(micros(event) for event in averages) or 1.0
    ordered = sorted(averages, key=micros, reverse=True)[:rows]
    return [
        {
            "operation": event.key,
            "calls": event.count,
            "seconds": micros(event) / 1e6,
            "share": micros(event) / total,
        }
        for event in ordered
    ]


def format_cost(row: dict[str, Any]) -> str:
    """Format a line of the table."""
    return (
        f"{row['share']:7.1%} {row['seconds']:9.4f} s {row['calls']:7} x  "
        f"{row['operation'][:100]}"  # The names of kernels may be much longer.
    )
