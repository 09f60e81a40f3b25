"""Our curves over the published ones, drawn by plot.py's machinery."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamerv2.common import plot
from dreamerv2.common.plots import options
from dreamerv2.common.plots.curves import LoggedRun
from replication.plan import Job
from replication.state import BIN, JobState


def draw(runs: Sequence[tuple[Job, JobState]], out: Path, dpi: int = 120) -> list[Path]:
    """Write curves.png, curves.pdf and curves.json; return their paths.

    A point of a line is the mean over seeds at the end of a million frames, as in the
    table; dots are single evaluations. Bins that a run is still in are left out. Where
    all runs are shorter than a bin, bins are narrower, and no published curve is near.

    Nothing is drawn where nothing has been evaluated yet.
    """
    curves = [
        LoggedRun(job.task, job.method, job.seed, job.folder, state.x, state.y)
        for job, state in runs
        if len(state.x)
    ]
    if not curves:
        return []
    os.environ.setdefault("MPLBACKEND", "agg")
    whole = [_whole_bins(run) for run in curves]
    whole = [run for run in whole if len(run.x)]
    flags = "--subdir False --baselines dreamerv2 --band range --stats none --cols 4"
    width = str(BIN) if whole else "-1"
    args = options.parse(
        [
            *("--indir", str(out), "--outdir", str(out), "--bins", width),
            *("--dpi", str(dpi), *flags.split()),
        ]
    )
    data = plot.summarize(whole or curves, args)
    for run in curves:
        method = data["tasks"].get(run.task, {}).get("methods", {}).get(run.method)
        if method:
            points = method.setdefault("points", {})
            points[run.seed] = np.stack([run.x, run.y])
    return plot.save(data, args, out)


def _whole_bins(run: LoggedRun) -> LoggedRun:
    """Without the points after the last million frames that are whole."""
    end = BIN * (run.x[-1] // BIN)
    kept = run.x <= end
    return replace(run, x=run.x[kept], y=run.y[kept])
