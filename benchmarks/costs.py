"""What the operations of a profile cost."""

from typing import Any

import torch


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
