"""Profiles of updates, by torch's profiler."""

from pathlib import Path
from typing import Any

import torch

WARMUP = 10  # Updates before the traced ones; in the first ones code is compiled.
ROWS = 15


class UpdateProfile:
    """Traces `count` updates after the first ten, each of them within it as a context,
    to `folder`/profile, for TensorBoard (with torch-tb-profiler) or chrome://tracing,
    and prints a table of what costs the most."""

    def __init__(self, count: int, folder: Path):
        self._count = count
        self._folder = folder / "profile"
        self._seen = 0
        self._profile: torch.profiler.profile | None = None

    def __enter__(self) -> "UpdateProfile":
        if self._count and self._seen == WARMUP:
            write = torch.profiler.tensorboard_trace_handler(str(self._folder))
            self._profile = torch.profiler.profile(on_trace_ready=write)
            self._profile.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
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
        order = f"self_{'device' if cuda else 'cpu'}_time_total"
        print(profile.key_averages().table(order, ROWS, max_name_column_width=60))
