"""Stills of what the world model dreams, for the folder `report` of a run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from dreamerv2.common.files import write_atomically
from dreamerv2.common.outputs.pictures import as_video, encode_png

OBSERVED = 5  # Steps that the model sees before it dreams, as in WorldModel.open_loop.
_STRIP, _GAP = 14, 2  # Pixels: the strip of times, and between frames.
_SEEN, _DREAMT = "#4c72b0", "#dd8452"


def save_stills(
    folder: str | os.PathLike,
    frames: int,
    videos: Mapping[str, np.ndarray],
    vectors: Mapping[str, tuple[np.ndarray, np.ndarray]],
    count: int,
    series: tuple[np.ndarray, Mapping[str, np.ndarray]] | None = None,
) -> list[Path]:
    """Write `NAME_STEP.png` for the videos of Agent.report, the vectors, truth and
    model (count, T, D), of its report_vectors, and the series of SinceReset; return the
    paths. UsageError if they cannot be written."""
    images = {name: video_still(video, count) for name, video in videos.items()}
    images.update((f"openl_{k}", vector_plot(k, *pair)) for k, pair in vectors.items())
    if series and series[1]:
        images["since_reset"] = series_plot(*series)
    paths = []
    for name, image in images.items():
        path = Path(folder) / f"{name}_{frames:010d}.png"
        data = encode_png(image)
        write_atomically(path, lambda file, data=data: file.write(data))
        paths.append(path)
    return paths


def chosen_times(length: int) -> list[int]:
    """Return ten indexes of time: first and last seen, then evenly to the end."""
    observed = min(OBSERVED, length - 1)
    seen = [0, observed - 1] if observed > 1 else [0]
    dreamt = np.linspace(observed, length - 1, 10 - len(seen)).round().astype(int)
    return list(dict.fromkeys([*seen, *dreamt.tolist()]))


def video_still(video: np.ndarray, count: int, rows: int = 3) -> np.ndarray:
    """Frames of a video of Agent.report, time from left to right -> (h, w, 3) uint8. Of
    the first `rows` of its `count` sequences truth, model, and error; above, the times:
    blue while the model sees, orange while it dreams."""
    video = as_video(video)
    video = np.repeat(video, 3, -1) if video.shape[-1] == 1 else video
    length, height, width = video.shape[0], video.shape[1], video.shape[2] // count
    times, rows = chosen_times(length), min(rows, count)
    size = len(times) * (width + _GAP) - _GAP, _STRIP + rows * (height + _GAP)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for column, time in enumerate(times):
        left = column * (width + _GAP)
        color = _SEEN if time < min(OBSERVED, length - 1) else _DREAMT
        draw.rectangle((left, 0, left + width - 1, _STRIP - 3), fill=color)
        draw.text((left + 3, 0), str(time), fill="white")
        for row in range(rows):
            frame = video[time, :, row * width : (row + 1) * width]
            place = (left, _STRIP + row * (height + _GAP))
            image.paste(Image.fromarray(np.ascontiguousarray(frame)), place)
    return np.asarray(image)


def set_apart(videos: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Draw white lines between the pictures of Agent.report's videos, copied."""
    apart = {key: video.copy() for key, video in videos.items()}
    for video in apart.values():
        for at in (video.shape[1] // 3, 2 * video.shape[1] // 3):
            video[:, at - 1 : at + 1] = 1
        for at in range(1, count):
            middle = at * (video.shape[2] // count)
            video[:, :, middle - 1 : middle + 1] = 1
    return apart


def vector_plot(
    key: str, truth: np.ndarray, model: np.ndarray, dimensions: int = 12
) -> np.ndarray:
    """Truth and prediction (B, T, D) over time, for three sequences -> (h, w, 3)."""
    size = truth.shape[-1]
    rows, columns = min(size, dimensions), min(len(truth), 3)
    figure, axes = _figure(rows, columns)
    start = min(OBSERVED, truth.shape[1] - 1) - 0.5
    for (row, column), axis in np.ndenumerate(axes):
        axis.plot(truth[column, :, row], color="#333333", lw=1.2, label="truth")
        axis.plot(model[column, :, row], color=_DREAMT, lw=1.2, label="model")
        axis.axvline(start, color="#999999", lw=0.8, ls=":")
        axis.set_ylabel("" if column else f"[{row}]", fontsize=8)
        axis.set_xlabel("step" if row == rows - 1 else "", fontsize=8)
    shown = f", the first {rows} of {size} dimensions" if rows < size else ""
    title = f"{key}{shown}: truth, and the model that dreams from the line on"
    axes[0, 0].legend(fontsize=7, loc="best", framealpha=0.5)
    return _drawn(figure, title)


def series_plot(steps: np.ndarray, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What was measured at steps since a reset, (N,) each -> (h, w, 3) uint8."""
    figure, axes = _figure(len(values), 1, width=5)
    edges = np.unique(np.geomspace(1, steps.max() + 1, 12).astype(int))
    bins = np.digitize(steps, edges)
    for axis, (name, value) in zip(axes[:, 0], values.items(), strict=True):
        axis.set_ylabel(name, fontsize=8)
        axis.plot(steps, value, ".", color=_SEEN, ms=2)
        means = [(x[bins == b].mean() for x in (steps, value)) for b in np.unique(bins)]
        axis.plot(*zip(*means, strict=True), color=_DREAMT)
    axes[-1, 0].set_xlabel("steps since the reset", fontsize=8)
    return _drawn(figure, "How far off the model is: single steps, and their means")


def _figure(rows: int, columns: int, width: float = 2.6) -> tuple[Any, Any]:
    # Slow to import, and needed at evaluations only.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((width * columns + 0.6, 1.1 * rows + 0.9), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, sharex=True, sharey="row", squeeze=False)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
    return figure, axes


def _drawn(figure: Any, title: str) -> np.ndarray:
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
