"""The command line of plot.py."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import OptionParser
from dreamerv2.common.plots.scores import SCALES

BASELINES = ("dreamerv2", "reference", "random", "human_gamer")
STATS = (*SCALES, "mean", "median", "tasks")


def _typed(
    expected: str, pattern: str, convert: Callable[[str], Any] = str
) -> Callable[[str], Any]:
    """Return a type of arguments: what fits a pattern, converted."""

    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"expected {expected}, not {text!r}")
        return convert(text)

    return read


_BOOLEAN = _typed("True or False", "True|False", "True".__eq__)
_NUMBER = _typed("a number", r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", float)
_COUNT = _typed("a whole number", r"0*[1-9]\d*", int)
_AGGREGATE = _typed(
    "stdK, perK (K up to 50), mean or none",
    r"std\d+\.?\d*|per([0-4]?\d(\.\d*)?|50(\.0*)?)|mean|none",
)


def parse(argv: Sequence[str] | None = None, doc: str = "") -> argparse.Namespace:
    """Return the arguments; `doc` is the top of --help. UsageError for wrong ones."""
    parser = OptionParser(doc, prog="plot.py")
    _add_data_options(parser)
    _add_look_options(parser)
    args = parser.parse_args(argv)
    prefix = args.indir_prefix or Path()
    args.indir = [(prefix / path).expanduser() for path in args.indir]
    args.outdir = args.outdir.expanduser()
    args.baselines = [] if args.baselines == ["none"] else args.baselines
    args.labels = _pairs("--labels", args.labels, "METHOD LABEL")
    args.colors = _pairs("--colors", args.colors, "METHOD COLOR")
    return args


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is plotted").add_argument
    folder = {"type": Path, "metavar": "DIR"}
    switch = {"type": _BOOLEAN, "metavar": "BOOL"}
    patterns = {"nargs": "+", "type": _pattern, "metavar": "PATTERN"}
    add("--indir", nargs="+", required=True, help="folders of runs", **folder)
    add("--indir-prefix", help="put before each --indir", **folder)
    add("--outdir", required=True, help="where the files go", **folder)
    below = "below --outdir in a folder named after the first --indir (%(default)s)"
    add("--subdir", default=True, help=below, **switch)
    add("--xaxis", default="step", help="metric along x, step in frames (%(default)s)")
    add("--yaxis", default="eval_return", help="metric along y (%(default)s)")
    for what in ("tasks", "methods"):
        found = f"patterns found anywhere in the names of {what}; in this order (all)"
        add(f"--{what}", default=[""], help=found, **patterns)
    behind = "what is drawn behind: dreamerv2 (published curves), reference, and the "
    behind += f"columns of scores/baselines.csv; or none ({' '.join(BASELINES)})"
    add("--baselines", default=[*BASELINES], help=behind, **patterns)
    before = "put the name of the --indir before the method's (%(default)s)"
    add("--prefix", default=False, help=before, **switch)
    width = "width of bins along x, in whose mean points are joined; 0: none, and -1: "
    width += "about 30 bins of a round width (%(default)s)"
    add("--bins", type=_NUMBER, default=-1, metavar="WIDTH", help=width)
    over = "over seeds: stdK is the mean with K standard deviations, perK the median "
    over += "with the percentiles K and 100-K, mean the mean alone, none each seed "
    add("--agg", "--aggregate", type=_AGGREGATE, default="std1", help=f"{over}(std1)")
    panels = f"panels over tasks: {', '.join(STATS)}; or none (the first four for two "
    panels += "or more Atari tasks)"
    stats = {"nargs": "+", "choices": [*STATS, "none"], "metavar": "STAT"}
    add("--stats", "--add", help=panels, **stats)
    band = "the band around published curves: a standard deviation, or from the lowest "
    band += "to the highest seed (%(default)s)"
    add("--band", choices=["std", "range"], default="std", help=band)
    add("--maxval", type=_NUMBER, default=0, help="leave out |y| above; 0: none (0)")
    add("--xmult", type=_NUMBER, default=1, help="x is multiplied by this (1)")


def _add_look_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how it looks").add_argument
    pair = {"nargs": 2, "type": _NUMBER}
    count = {"type": _COUNT}
    add("--size", default=[3.2, 2.6], help="inches of a panel (3.2 2.6)", **pair)
    add("--dpi", default=120, help="of the PNG (120)", **count)
    add("--cols", default=6, help="panels in a row, at most (6)", **count)
    add("--xlim", help="ends of the x axis", **pair)
    add("--ylim", help="ends of the y axis of tasks", **pair)
    for axis, number in (("x", 4), ("y", 5)):
        ends = f"ticks at the very ends of the {axis} axis (False)"
        switch = {"type": _BOOLEAN, "metavar": "BOOL", "help": ends}
        add(f"--{axis}limticks", default=False, **switch)
        ticks = f"ticks on an {axis} axis, about ({number})"
        add(f"--{axis}ticks", default=number, help=ticks, **count)
    for what, meaning in (("label", "other names"), ("color", "colors")):
        more = {"nargs": "+", "default": [], "metavar": f"METHOD {what.upper()}"}
        add(f"--{what}s", help=f"{meaning} of methods", **more)
    palette = "contrast, a colormap of matplotlib, or colors (contrast)"
    add("--palette", nargs="+", default=["contrast"], help=palette)
    add("--legendcols", default=5, help="columns of the legend, at most (5)", **count)


def _pairs(flag: str, values: Sequence[str], what: str) -> dict[str, str]:
    if len(values) % 2:
        given = f"{len(values)}: {' '.join(values)}"
        raise UsageError(f"{flag} takes pairs, {what} ..., but got {given}")
    return dict(zip(values[::2], values[1::2], strict=True))


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        message = f"{text!r} is no regular expression ({error})"
        raise argparse.ArgumentTypeError(message) from None
    return text
