"""What is in a run's folder at one moment, to be compared with a later one."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.running.logdir import CHECKPOINT
from dreamerv2.running.statefile import load_checkpoint
from fault_trials.runs import REPEAT

METRICS = "metrics.jsonl"
EPISODE = re.compile(
    r"(train|eval)_episodes/\d{8}T\d{6}(?:\d{6})?-[0-9a-f]{32}-(\d+)\.npz"
)


@dataclass(frozen=True)
class Snapshot:
    """A logdir at one moment.

    files: path relative to the logdir -> SHA-256 of the content; temporary files, too.
    metrics: whole lines of metrics.jsonl, without their ends.
    step: of the checkpoint; None if there is none or it cannot be loaded.
    problem: why it cannot be loaded; empty if it can.
    """

    files: dict[str, str]
    metrics: list[bytes]
    step: int | None
    problem: str = ""

    @classmethod
    def of(cls, logdir: Path) -> "Snapshot":
        files = {name: digest(logdir / name) for name in list_files(logdir)}
        path = logdir / METRICS
        content = path.read_bytes() if path.exists() else b""
        step, problem = None, ""
        if CHECKPOINT in files:
            try:
                step = load_checkpoint(logdir / CHECKPOINT)["step"]["value"]
            except UsageError as error:
                problem = str(error)
        return cls(files, content.split(b"\n")[:-1], step, problem)

    @property
    def episodes(self) -> dict[str, str]:
        """Those of the files that bear an episode's name."""
        return {k: v for k, v in self.files.items() if EPISODE.fullmatch(k)}

    def training(self) -> tuple[int, int]:
        """Number and steps of the training episodes."""
        matches = [EPISODE.fullmatch(name) for name in self.episodes]
        steps = [int(m[2]) for m in matches if m[1] == "train"]
        return len(steps), sum(steps)

    @property
    def frames(self) -> int:
        """The last step, as in metrics.jsonl, of which the run is to know."""
        step = self.training()[1] if self.step is None else self.step
        return step * REPEAT


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_files(logdir: Path) -> list[str]:
    """All files below a logdir, by their path in it."""
    return sorted(
        path.relative_to(logdir).as_posix()
        for path in logdir.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def list_episodes(logdir: Path) -> set[str]:
    """The files that bear an episode's name, by their path in the logdir."""
    return {
        name
        for folder in ("train_episodes", "eval_episodes")
        for path in (logdir / folder).glob("*.npz")
        if EPISODE.fullmatch(name := f"{folder}/{path.name}")
    }


def parse_line(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl; None if it is none, or has no step."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    if not isinstance(value, dict) or type(value.get("step")) not in (int, float):
        return None
    return value


def last_frame(lines: Sequence[bytes]) -> float:
    """The latest step, in frames, in lines of metrics.jsonl; 0 if there is none."""
    return max((x["step"] for line in lines if (x := parse_line(line))), default=0)


def read_episode(content: bytes) -> dict[str, np.ndarray] | None:
    """An episode's arrays, with their checksums verified; None if it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if archive.testzip() is not None:
                return None
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception:  # Damaged bytes raise nearly anything.
        return None


def fault_of_episode(path: Path) -> str:
    """Return what is wrong with an episode file, in words; empty if nothing is."""
    arrays = read_episode(path.read_bytes())
    if arrays is None:
        return "cannot be read"
    steps = int(EPISODE.fullmatch(f"{path.parent.name}/{path.name}")[2])
    if {len(value) for value in arrays.values()} != {steps + 1}:
        return "has another length than its name says"
    if not arrays["is_first"][0] or arrays["is_first"][1:].any():
        return "is joined from two episodes"
    if not arrays["is_last"][-1] or arrays["is_last"][:-1].any():
        return "is not one whole episode"
    for key, value in arrays.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"has a {key} that is not finite"
    return ""
