"""Metrics: gathered without waiting for the device, written out now and then.

An output is any callable that takes a list of `(step, name, value)`, where a value is
an array: of shape () a scalar, (N,) the samples of a histogram, (H, W, C) an image, and
(T, H, W, C) a video, the last two uint8 with C 1 or 3."""

import contextlib
import json
import math
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import torch

from dreamerv2.common.files import cannot_write, write_atomically, writing
from dreamerv2.common.outputs.pictures import as_image, as_video, check_picture
from dreamerv2.common.outputs.services import Output as Output
from dreamerv2.common.outputs.services import Summary as Summary
from dreamerv2.common.outputs.services import TensorBoardOutput as TensorBoardOutput
from dreamerv2.common.outputs.services import WandBOutput as WandBOutput

VIDEO_STEPS = 1000  # A longer GIF is slow to open and shows no more.


class Logger:
    """Gathers metrics for its outputs, by frames: `step` times `multiplier`."""

    def __init__(
        self, step: SupportsInt, outputs: Iterable[Output], multiplier: int = 1
    ):
        self._step, self._multiplier = step, multiplier
        self._outputs = list(outputs)
        self._scalars: dict[str, list[Any]] = defaultdict(list)
        self._latest: dict[str, tuple[Callable[[Any], np.ndarray], Any]] = {}
        self.restart_clock()

    @property
    def frames(self) -> int:
        """Return the step count in environment frames."""
        return int(self._step) * self._multiplier

    def add(self, mapping: Mapping[str, Any], prefix: str | None = None) -> None:
        """Add scalars, images and videos, told by their dimensions; or ValueError."""
        image, video = self.image, self.video
        kinds = {0: self.scalar, 2: image, 3: image, 4: video, 5: video}
        for name, value in mapping.items():
            name = f"{prefix}_{name}" if prefix else name
            shape = tuple(np.shape(value))
            if len(shape) not in kinds:
                raise ValueError(
                    f"Metric {name!r} has shape {shape}, which is neither a "
                    "scalar nor an image nor a video."
                )
            kinds[len(shape)](name, value)

    def scalar(self, name: str, value: Any) -> None:
        """Add a number, or an array or tensor () that must not be overwritten before
        `write`; several of one name are averaged. ValueError otherwise."""
        is_tensor = isinstance(value, torch.Tensor)
        shape = tuple(np.shape(value))
        if shape or not (is_tensor or np.asarray(value).dtype.kind in "biuf"):
            raise ValueError(
                f"Metric {name!r} must be one number, not {type(value).__name__} of "
                f"shape {shape}."
            )
        self._scalars[name].append(value.detach() if is_tensor else value)

    def histogram(self, name: str, value: Any) -> None:
        """Add numbers, of any shape, copied to the host; the last are written."""
        if isinstance(value, torch.Tensor):
            value = value.detach().float().cpu().numpy()
        self._latest[name] = np.ravel, np.array(value)

    def image(self, name: str, value: Any) -> None:
        """Add an image for `as_image`, or raise ValueError; the last is written."""
        check_picture(name, value, "image")
        self._latest[name] = as_image, value

    def video(self, name: str, value: Any) -> None:
        """Add a video for `as_video`, or raise ValueError; the last is written."""
        check_picture(name, value, "video")
        self._latest[name] = as_video, value

    def write(self, fps: bool = False) -> None:
        """Give all since the last call to the outputs, with `fps` also their rate."""
        if fps:
            elapsed = max(time.monotonic() - self._last_time, 1e-9)
            self.scalar("fps", (self.frames - self._last_frames) / elapsed)
            self.restart_clock()
        step = self.frames
        scalars, self._scalars = self._scalars, defaultdict(list)
        latest, self._latest = self._latest, {}
        summaries = [(step, name, value) for name, value in _means(scalars).items()]
        summaries += [(step, k, convert(x)) for k, (convert, x) in latest.items()]
        if summaries:
            for output in self._outputs:
                output(summaries)

    def restart_clock(self) -> None:
        """Measure `fps` from here: after loading a step count, or after a pause."""
        self._last_time = time.monotonic()
        self._last_frames = self.frames


def is_logged(key: str, config: Mapping[str, Any], video: bool) -> bool:
    """Tell whether `add_episode` looks at a key, with videos or without."""
    patterns = [config[f"log_keys_{kind}"] for kind in ("sum", "mean", "max")]
    shown = video and key in config["log_keys_video"]
    return shown or any(re.match(x, key) for x in ("reward$", *patterns))


def add_episode(
    logger: Logger,
    ep: Mapping[str, np.ndarray],
    mode: str,
    config: Mapping[str, Any],
    video: bool,
) -> None:
    """Log the returns and log_keys_* of an episode, arrays (T, ...), and videos."""
    logger.scalar(f"{mode}_return", float(ep["reward"].astype("f8").sum()))
    logger.scalar(f"{mode}_length", len(ep["reward"]) - 1)
    for kind, reduce in (("sum", np.sum), ("mean", np.mean), ("max", np.max)):
        for key in ep:
            if re.match(config[f"log_keys_{kind}"], key):
                value = reduce(ep[key].astype("f8"), 0).mean()
                logger.scalar(f"{kind}_{mode}_{key}", value)
    for key in config["log_keys_video"] if video else ():
        if key in ep and ep[key].ndim == 4:
            logger.video(f"{mode}_policy_{key}", ep[key][:VIDEO_STEPS])


class TerminalOutput:
    """Gives the scalars to `write` as a line, `[ 10000] actor_ent 1.79 / fps 812`."""

    def __init__(self, write: Callable[[str], None] | None = None):
        self._write = write or (lambda line: print(line, flush=True))

    def __call__(self, summaries: list[Summary]) -> None:
        step, scalars = _scalars(summaries)
        if scalars:
            # Values have one width, so that the columns of successive lines align.
            cells = [f"{k} {format_number(v):<8}" for k, v in sorted(scalars.items())]
            self._write(f"[{step:>9}] {' / '.join(cells)}".rstrip())


class JSONLOutput:
    """Appends the scalars to `metrics.jsonl`, a JSON object per line; NaN becomes null.
    Opening it repairs a last line that was cut, of which `warn` takes a sentence."""

    def __init__(
        self, logdir: str | os.PathLike, warn: Callable[[str], None] | None = None
    ):
        self.path = Path(logdir) / "metrics.jsonl"
        self._warn = warn or (lambda line: print(line, flush=True))
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            self._repair()

    def __call__(self, summaries: list[Summary]) -> None:
        step, scalars = _scalars(summaries)
        if not scalars:
            return
        values = {k: v if math.isfinite(v) else None for k, v in scalars.items()}
        line = json.dumps({"step": step, **values}, allow_nan=False)
        try:
            with self.path.open("ab") as file:
                file.write(line.encode() + b"\n")
        except OSError as error:
            with contextlib.suppress(OSError):  # or else the next line joins this one
                self._repair()
            raise cannot_write(self.path, error) from error

    def state_dict(self) -> dict[str, int]:
        return {"size": self.path.stat().st_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Drop the lines that were written after state_dict."""
        self.truncate_after(sys.maxsize, state["size"])

    def truncate_after(self, step: int, size: int | None = None) -> int:
        """Drop the lines of later steps (in frames), of no JSON, and beyond the `size`
        that the file had at the checkpoint; return how many."""
        content = self.path.read_bytes()
        if size is None or size and content[size - 1 : size] != b"\n":
            size = len(content)
        lines = content[:size].splitlines(keepends=True)
        steps = [_step_of(line) for line in lines]
        kept = [x for x, at in zip(lines, steps, strict=True) if at <= step]
        dropped = len(lines) - len(kept) + content[size:].count(b"\n")
        if dropped:
            write_atomically(self.path, lambda file: file.write(b"".join(kept)))
        if unreadable := steps.count(math.inf):
            self._warn(f"Removed {unreadable} unreadable lines from {self.path}.")
        return dropped

    def _repair(self) -> None:
        with self.path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                self._warn(f"Removed a line that was cut short from {self.path}.")


def format_number(value: float) -> str:
    """Format in at most 8 characters: 1203, 0.0123, 3.142, 1.2e-05, nan."""
    if value == 0 or 1000 <= abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.4g}" if 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def _means(scalars: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
    """Average the values of each name on the host, in float64."""
    host = {name: np.empty(len(values)) for name, values in scalars.items()}
    groups: dict[tuple, list[tuple[torch.Tensor, str, int]]] = defaultdict(list)
    for name, values in scalars.items():
        for i, value in enumerate(values):
            if isinstance(value, torch.Tensor):
                groups[value.device, value.dtype].append((value, name, i))
            else:
                host[name][i] = value
    for group in groups.values():
        # One wait for the device, not many.
        moved = torch.stack([value for value, _, _ in group]).cpu().double().numpy()
        for (_, name, i), number in zip(group, moved, strict=True):
            host[name][i] = number
    with np.errstate(invalid="ignore"):  # inf - inf is nan, and shall be seen
        return {name: np.asarray(values.mean()) for name, values in host.items()}


def _scalars(summaries: list[Summary]) -> tuple[int, dict[str, float]]:
    """Return the latest step, and the scalars among the summaries."""
    scalars = {name: float(x) for _, name, x in summaries if np.ndim(x) == 0}
    return max((step for step, _, _ in summaries), default=0), scalars


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
