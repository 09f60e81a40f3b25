"""Our returns against the published ones: rows, a table, and everything as JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamerv2.common.plots.figure import task_title
from dreamerv2.common.plots.scores import load_published
from replication.plan import Job
from replication.state import JobState

PROTOCOL = (
    "A run's figure at some frames is the mean return of its evaluations in the million"
    " frames that end there, an episode each, about ten in a million; of shorter runs,"
    " of all that there are. The published figures are of the same kind: the lowest"
    " and highest seeds among them are tenths of whole scores. Ours is the mean over"
    " seeds; it is inside if it lies between the published lowest and highest seed."
)


@dataclass(frozen=True)
class Comparison:
    """One game and method after some frames.

    Attributes:
      scores: Seed -> our score, of the seeds that have got there.
      seeds: How many there are to be.
      published: mean, std, min, max, seeds; None if there is no figure.
    """

    task: str
    method: str
    frames: int
    scores: Mapping[str, float]
    seeds: int
    published: Mapping[str, float] | None

    @property
    def mean(self) -> float:
        """Over seeds; NaN if none has got there."""
        return float(np.mean(list(self.scores.values()))) if self.scores else math.nan

    @property
    def verdict(self) -> str:
        """inside, below, above, no published figure, or not reached."""
        if not self.scores:
            return "not reached"
        if not self.published:
            return "no published figure"
        # The published figures have one or two digits behind the point.
        mean = round(self.mean, 2)
        if mean < self.published["min"]:
            return "below"
        return "above" if mean > self.published["max"] else "inside"


def compare(runs: Sequence[tuple[Job, JobState]]) -> list[Comparison]:
    """A row for each game, method, and number of frames at which there is a published
    figure and some seed of ours, and one at the end."""
    published, rows = load_published(), []
    groups = dict.fromkeys((job.task, job.method) for job, _ in runs)
    for task, method in sorted(groups, key=lambda group: group[0]):
        some = [(j, s) for j, s in runs if (j.task, j.method) == (task, method)]
        curve = published.get(task, {}).get("dreamerv2")
        known = [] if curve is None else curve["x"].astype(int).tolist()
        last = max(job.frames for job, _ in some)
        for frames in sorted({*(x for x in known if x < last), last}):
            reached = {job.seed: state.score(frames) for job, state in some if job.seed}
            scores = {k: v for k, v in reached.items() if math.isfinite(v)}
            if not scores and frames != last:
                continue
            figures = None
            if frames in known:
                names = ("mean", "std", "min", "max", "seeds")
                index = known.index(frames)
                figures = {name: float(curve[name][index]) for name in names}
            rows.append(Comparison(task, method, frames, scores, len(some), figures))
    return rows


def table(rows: Sequence[Comparison]) -> str:
    """The rows in Markdown that can be read as it is."""
    cells = [
        [
            task_title(row.task),
            row.method,
            f"{row.frames:,}",
            f"{len(row.scores)} of {row.seeds}",
            _number(row.mean),
            _range(row.scores.values()) if len(row.scores) > 1 else "",
            _number(row.published["mean"]) if row.published else "",
            _range(row.published[k] for k in ("min", "max")) if row.published else "",
            row.verdict,
        ]
        for row in rows
    ]
    head = "game|settings|frames|seeds|ours|our range|published|range|ours is"
    return markdown([head.split("|"), *cells])


def run_table(runs: Sequence[tuple[Job, JobState]]) -> str:
    """Each run: how far it is, in which time, on what."""
    cells = []
    for job, state in runs:
        machines = dict.fromkeys(x.get("hardware", "") for x in state.sessions)
        at_once = dict.fromkeys(str(x["at_once"]) for x in state.sessions)
        cells.append(
            [
                job.name,
                state.word(job.frames),
                f"{min(state.reached, job.frames):,} of {job.frames:,}",
                f"{job.frames_per_update:g}",
                f"{state.hours:.3g}" if state.sessions else "",
                ", ".join(at_once),
                "; ".join(machines),
            ]
        )
    head = "run|is|frames|frames per update|hours|runs at once|hardware".split("|")
    return markdown([head, *cells])


def report(runs: Sequence[tuple[Job, JobState]], rows: Sequence[Comparison]) -> str:
    """What is printed and written to table.md."""
    missing = [job.name for job, state in runs if not state.has(job.frames)]
    parts = [table(rows), PROTOCOL, run_table(runs)]
    if missing:
        parts.append(f"Not run to their end: {', '.join(missing)}.")
    return "\n\n".join(parts) + "\n"


def as_json(
    runs: Sequence[tuple[Job, JobState]], rows: Sequence[Comparison]
) -> dict[str, Any]:
    """Everything that the table says and how it was made."""
    sessions = [session for _, state in runs for session in state.sessions]

    def distinct(key: str) -> list[Any]:
        values = [session[key] for session in sessions if session.get(key)]
        return [x for i, x in enumerate(values) if x not in values[:i]]

    return {
        "commands": distinct("command"),
        "hardware": distinct("hardware"),
        "versions": distinct("versions"),
        "protocol": PROTOCOL,
        "games": list(dict.fromkeys(job.task for job, _ in runs)),
        "seeds": list(dict.fromkeys(job.seed for job, _ in runs)),
        "frames": max(job.frames for job, _ in runs),
        "hours": round(sum(state.hours for _, state in runs), 3),
        "methods": {
            job.method: {
                "frames_per_update": job.frames_per_update,
                "train_every": job.config.train_every,
                "action_repeat": job.config.action_repeat,
                "batch": list(job.config.dataset.to_dict().values()),
            }
            for job, _ in runs
        },
        "runs": [
            {
                "task": job.task,
                "method": job.method,
                "seed": job.seed,
                "state": state.word(job.frames),
                "frames": state.reached,
                "of_frames": job.frames,
                "frames_per_update": job.frames_per_update,
                "hours": round(state.hours, 3),
                "evaluations": len(state.x),
                "sessions": state.sessions,
            }
            for job, state in runs
        ],
        "table": [
            {
                "task": row.task,
                "method": row.method,
                "frames": row.frames,
                "ours": row.mean if row.scores else None,
                "scores": dict(row.scores),
                "seeds": row.seeds,
                "published": row.published,
                "verdict": row.verdict,
            }
            for row in rows
        ],
    }


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table with columns as wide as their widest cell; the first line is the head."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        f"| {' | '.join(map(str.ljust, line, widths))} |"
        for line in [lines[0], rule, *lines[1:]]
    )


def _number(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _range(values: Any) -> str:
    values = list(values)
    return f"{_number(min(values))} to {_number(max(values))}" if values else ""
