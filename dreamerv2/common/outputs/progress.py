"""How far a long piece of work has come: a bar on a terminal, lines elsewhere.

with progress("Prefill", total=10000, start=2000) as bar:
    bar.advance(1)
"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator

import rich
from rich import progress as rich_progress
from rich.console import Console
from rich.errors import LiveError
from rich.text import Text

FIRST_LINE = 10.0  # seconds until the first plain line that is not the opening one
LAST_PACE = 600.0  # seconds between plain lines at most


class Bar:
    """What `progress` gives: counts the work that is done."""

    def __init__(self, start: float):
        self.count = start

    def open(self) -> None:
        """Start the clock and show the beginning."""

    def close(self, finished: bool) -> None:
        """Show the end, and whether the work was finished."""

    def advance(self, amount: float = 1) -> None:
        """Say that so much more is done."""
        self.count += amount


@contextlib.contextmanager
def progress(
    title: str,
    total: float | None = None,
    start: float = 0,
    unit: str = "steps",
    console: Console | None = None,
) -> Iterator[Bar]:
    """Show the progress of the work inside the `with` block.

    On a terminal this is one moving bar with rate and time left, and what is printed
    meanwhile appears above it. Elsewhere (a file, a pipe, a dumb terminal) it is a line
    at the start, one at the end, and between them lines after 10, 20, 40, ... seconds,
    at least one every ten minutes.

    Args:
      title: What is going on, like "Prefill".
      total: The count at which it is done; None if nobody knows.
      start: The count at the beginning, when earlier work is resumed. It is no part
        of the rate.
      unit: What is counted, for the rate.
      console: Where to show it; standard output by default.
    """
    if console is None:
        # Rich takes variables like FORCE_COLOR for a terminal; a file is still none.
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        write, console = None, rich.get_console()
    else:
        write = functools.partial(console.print, markup=False, soft_wrap=True)
        is_terminal = console.is_terminal
    plain = PlainBar(title, total, start, unit, write)
    if is_terminal and not console.is_dumb_terminal:
        bar: Bar = _TerminalBar(title, total, start, unit, console)
    else:
        bar = plain
    try:
        bar.open()
    except LiveError:  # inside another bar, with a rich that shows one at a time
        bar = plain
        bar.open()
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.close(finished)


class _TerminalBar(Bar):
    def __init__(
        self, title: str, total: float | None, start: float, unit: str, console: Console
    ):
        super().__init__(start)
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            _RateColumn(unit),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,  # each refresh takes time from the training
            speed_estimate_period=60,
        )
        self._task = self._progress.add_task(
            title, total=None if total is None else int(total), completed=int(start)
        )

    def open(self) -> None:
        self._progress.start()

    def advance(self, amount: float = 1) -> None:
        super().advance(amount)
        self._progress.advance(self._task, amount)

    def close(self, finished: bool) -> None:
        self._progress.stop()


class _RateColumn(rich_progress.ProgressColumn):
    """Counts per second, as "812 steps/s"."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: rich_progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        text = f"{format_rate(speed)} {self._unit}/s" if speed else ""
        return Text(text, style="progress.data.speed")


class PlainBar(Bar):
    """Progress in plain lines, given to `write` one by one.

    Args:
      title, total, start, unit: As for `progress`.
      write: Takes a line.
      clock: Gives the time in seconds.
    """

    def __init__(
        self,
        title: str,
        total: float | None = None,
        start: float = 0,
        unit: str = "steps",
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__(start)
        self._title, self._total, self._unit = title, total, unit
        self._write = write or (lambda line: print(line, flush=True))
        self._clock = clock
        self._pace = FIRST_LINE

    def open(self) -> None:
        """Print the first line and start the clock."""
        self._begin = self._last = self._clock()
        self._first_count = self._last_count = self.count
        self._write(f"{self._title}: {self._position()}")

    def advance(self, amount: float = 1) -> None:
        """Say that so much more is done; prints a line when one is due."""
        super().advance(amount)
        now = self._clock()
        if now - self._last < self._pace:
            return
        rate = (self.count - self._last_count) / (now - self._last)
        line = f"{self._title}: {self._position()}, {self._per_second(rate)}"
        if self._total is not None and rate > 0:
            left = max(0.0, self._total - self.count) / rate
            line += f", {format_time(left)} left"
        self._write(line)
        self._last, self._last_count = now, self.count
        self._pace = min(2 * self._pace, LAST_PACE)

    def close(self, finished: bool) -> None:
        """Print the last line, which says whether the work was finished."""
        elapsed = self._clock() - self._begin
        rate = (self.count - self._first_count) / max(elapsed, 1e-9)
        word = "done" if finished else "stopped"
        line = f"{self._title} {word}: {self._position()} in {format_time(elapsed)}"
        self._write(line + (f", {self._per_second(rate)}" if rate > 0 else ""))

    def _position(self) -> str:
        count = f"{self.count:.10g}"
        if self._total is None:
            return f"{count} {self._unit}"
        total = f"{count}/{self._total:.10g}"
        if self._total <= 0:
            return total
        return f"{total} ({100 * self.count / self._total:.0f}%)"

    def _per_second(self, rate: float) -> str:
        return f"{format_rate(rate)} {self._unit}/s"


def format_rate(rate: float) -> str:
    """Three digits at least: 0.12, 3.4, 812, 12345."""
    return f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"


def format_time(seconds: float) -> str:
    """Seconds as m:ss, h:mm:ss, or with days: 0:07, 1:02:03, 2 days 1:02:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    day = f"{days} day{'s' if days > 1 else ''} " if days else ""
    if hours:
        return f"{day}{hour}:{minute:02}:{second:02}"
    return f"{minute}:{second:02}"
