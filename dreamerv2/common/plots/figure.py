"""Draws what plot.py has gathered: a panel per task and per aggregate over tasks."""

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import is_color_like, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from dreamerv2.common.errors import UsageError

CONTRAST = (
    "#0022ff #ff3300 #009e3d #9933cc #ff9900 #00a5b5 "
    "#8c5a2b #e0529c #5b6b00 #555555 #70b0ff #ffa08c"
).split()
PUBLISHED = {"dreamerv2": "DreamerV2 (published)", "reference": "reference (TF2)"}
STAT_TITLES = {  # Beside those that are their own: Gamer median.
    "clip_record_mean": "Clipped record mean",
    "mean": "Mean over tasks",
    "median": "Median over tasks",
}
_STYLES = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (7, 3)))


def draw(data: Mapping[str, Any], args: argparse.Namespace) -> Figure:
    """Draw what `plot.summarize` returns, and `points` (2, N) of seeds as dots."""
    panels = [*data["tasks"].values(), *data["stats"].values()]
    titles = [task_title(task) for task in data["tasks"]]
    for stat in data["stats"]:
        titles.append(STAT_TITLES.get(stat, stat.replace("_", " ").capitalize()))
    cols = min(args.cols, len(panels))
    rows = -(-len(panels) // cols)
    methods = list(dict.fromkeys(m for panel in panels for m in panel["methods"]))
    colors = choose_colors(methods, args.palette, args.colors)
    baselines = dict.fromkeys(b for panel in panels for b in panel["baselines"])
    styles = dict(zip(baselines, itertools.cycle(_STYLES)))  # noqa: B905
    width, height = args.size[0] * cols, args.size[1] * rows
    figure = Figure((width, height + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, cols, squeeze=False).ravel()
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    for index, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        axis = grid[index]
        is_task = index < len(data["tasks"])
        # Where the methods end: what is behind does not stretch a panel.
        ends = [curve["x"][-1] for curve in panel["methods"].values()]
        for curve in panel["methods"].values():
            ends += [points[0][-1] for points in curve.get("points", {}).values()]
        right = args.xlim[1] if args.xlim else max(ends)
        for name, value in panel["baselines"].items():
            label, style = name.replace("_", " "), {"lw": 0.9, "ls": styles[name]}
            axis.axhline(value, label=label, color="#888888", zorder=1, **style)
        for name, curve in panel["published"].items():
            _draw_published(axis, PUBLISHED.get(name, name), curve, right, args.band)
        for method, curve in panel["methods"].items():
            _draw_curve(axis, method, curve, colors[method], data["agg"])
        axis.set_title(title, fontsize=10)
        _set_axes(axis, args, right, is_task)
        if index + cols >= len(panels):
            axis.set_xlabel(data["xaxis"], fontsize=8)
        if is_task and index % cols == 0:
            axis.set_ylabel(data["yaxis"], fontsize=8)
    _draw_legend(figure, grid[: len(panels)], args.legendcols)
    return figure


def task_title(task: str) -> str:
    """Write atari_space_invaders as Space Invaders; of other suites, the whole name."""
    name = task.removeprefix("atari_")
    return name.replace("_", " ").title() if name != task else task


def choose_colors(
    methods: Sequence[str], palette: Sequence[str], chosen: Mapping[str, str]
) -> dict[str, str]:
    """Return each method's color, chosen or the palette's next; or UsageError."""
    for method, color in chosen.items():
        if method not in methods:
            known = ", ".join(methods)
            raise UsageError(
                f"--colors gives {method!r} a color, but the methods are {known}."
            )
        if not is_color_like(color):
            raise UsageError(
                f"--colors has {color!r}, which is no color: write a name such as red, "
                "or #ff0000."
            )
    if all(map(is_color_like, palette)):
        colors = palette
    elif list(palette) == ["contrast"]:
        colors = CONTRAST
    elif len(palette) == 1 and palette[0] in matplotlib.colormaps:
        table = matplotlib.colormaps[palette[0]]
        gradient = table.N > 20  # Rather than a list of colors.
        points = np.linspace(0.1, 0.9, max(2, len(methods)))
        colors = [to_hex(table(x)) for x in (points if gradient else range(table.N))]
    else:
        raise UsageError(
            f"Unknown --palette {' '.join(palette)}: expected contrast, a colormap of "
            "matplotlib such as tab10 or viridis, or colors such as red '#0000ff'."
        )
    pairs = zip(methods, itertools.cycle(colors))  # noqa: B905
    return {method: chosen.get(method, color) for method, color in pairs}


def format_tick(value: float, position: int | None = None) -> str:
    """Write 2500 as 2.5K, 2e8 as 200M, 0.25 as 0.25."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


def _draw_published(
    axis: Axes, label: str, curve: Mapping[str, Any], right: float, kind: str
) -> None:
    shown = curve["x"] <= right * (1 + 1e-9)
    if not shown.any():
        return
    curve = {key: values[shown] for key, values in curve.items() if key != "tasks"}
    x, y = curve["x"], curve["mean" if "mean" in curve else "y"]
    axis.plot(x, y, label=label, color="#777777", lw=1.6, zorder=2, **_markers(x))
    if "std" not in curve:
        return
    low, high = y - curve["std"], y + curve["std"]
    band = {"color": "#777777", "alpha": 0.18, "lw": 0, "zorder": 1}
    if kind == "range":
        low, high = curve["min"], curve["max"]
        band["label"] = "published: lowest to highest seed"
    if len(x) == 1:  # Between one point and none there is nothing to fill.
        axis.vlines(x, low, high, **{**band, "lw": 8})
    else:
        axis.fill_between(x, low, high, **band)


def _markers(x: np.ndarray) -> dict[str, Any]:
    """Return the style of a line that has too few points to be seen as one."""
    return {"marker": "o" if len(x) < 4 else None, "ms": 3}


def _draw_curve(
    axis: Axes, method: str, curve: Mapping[str, Any], color: str, agg: str
) -> None:
    """Draw a method: solid where all its seeds have values, dotted where some ended."""
    x = curve["x"]
    style = {"color": color, **_markers(x)}
    for points in curve.get("points", {}).values():
        axis.plot(*points, ".", color=color, ms=2.5, alpha=0.45, zorder=3)
    if "y" in curve:  # An aggregate over tasks.
        axis.plot(x, curve["y"], lw=1.6, label=method, zorder=4, **style)
    elif agg == "none":
        for i, values in enumerate(curve["runs"].values()):
            label = method if i == 0 else None
            axis.plot(x, values, lw=1.1, label=label, zorder=4, **style)
    else:
        whole = curve["seeds"] == curve["seeds"].max()
        solid = np.where(whole, curve["middle"], np.nan)
        axis.plot(x, curve["middle"], lw=1.0, ls=":", zorder=3, **style)
        axis.plot(x, solid, lw=1.6, label=method, zorder=4, **style)
        band = {"color": color, "alpha": 0.18, "lw": 0, "zorder": 2}
        axis.fill_between(x, curve["low"], curve["high"], **band)


def _set_axes(
    axis: Axes, args: argparse.Namespace, right: float, is_task: bool
) -> None:
    left = min([0.0, *(line.get_xdata()[0] for line in axis.lines)])
    axis.set_xlim(args.xlim or (left, right if right > left else left + 1))
    if args.ylim and is_task:
        axis.set_ylim(args.ylim)
    horizontal = axis.xaxis, args.xticks, args.xlimticks
    for one, count, at_ends in (horizontal, (axis.yaxis, args.yticks, args.ylimticks)):
        one.set_major_formatter(FuncFormatter(format_tick))
        if at_ends:
            one.set_ticks(np.linspace(*sorted(one.get_view_interval()), max(2, count)))
        else:
            one.set_major_locator(MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]))
    axis.tick_params(labelsize=8, length=3)
    axis.grid(color="#eeeeee", lw=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Draw a legend for all panels: methods first, then what is behind them."""
    handles = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = sorted(handles, key=lambda label: -handles[label].get_zorder())
    widest = max(map(len, order), default=0) * 0.06 + 0.6  # Inches, about.
    figure.legend(
        [handles[label] for label in order],
        order,
        loc="outside lower center",
        ncols=min(columns, max(1, math.floor(figure.get_figwidth() / widest))),
        fontsize=8,
        frameon=False,
    )
