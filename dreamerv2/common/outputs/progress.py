"""How far a long piece of work has come: a bar on a terminal, lines elsewhere.

Use: with progress("Prefill", total=10000, start=2000) as bar: bar.advance(1)"""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import rich
from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

FIRST_LINE = 10.0  # seconds until the first plain line that is not the opening one
LAST_PACE = 600.0  # seconds between plain lines at most


@contextlib.contextmanager
def progress(
    title: str,
    total: float | None = None,
    start: float = 0,
    unit: str = "steps",
    console: Console | None = None,
) -> Iterator["PlainBar | TerminalBar"]:
    """Show the progress of the work inside the `with` block, from `start` to `total`:
    on a terminal one moving bar with rate and time left, below what is printed;
    elsewhere (a file, a pipe, a dumb terminal) a line at the start, one at the end, and
    between them after 10, 20, 40, ... seconds, up to ten minutes."""
    if console is None:
        # Rich takes variables like FORCE_COLOR for a terminal; a file is still none.
        is_terminal = sys.stdout is not None and sys.stdout.isatty()
        write, console = None, rich.get_console()
    else:
        write = functools.partial(console.print, markup=False, soft_wrap=True)
        is_terminal = console.is_terminal
    if is_terminal and not console.is_dumb_terminal:
        bar = TerminalBar(title, total, start, unit, console)
    else:
        bar = PlainBar(title, total, start, unit, write)
    finished = False
    try:
        yield bar
        finished = True
    finally:
        bar.close(finished)


class TerminalBar:
    """Rich's bar, with counts per second, as "812 steps/s"."""

    def __init__(
        self, title: str, total: float | None, start: float, unit: str, console: Console
    ):
        self.count = start
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            _RateColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("left"),
            rich_progress.TimeRemainingColumn(),
            console=console,
            refresh_per_second=4,  # each refresh takes time from the training
            speed_estimate_period=60,
        )
        count = {"total": total and int(total), "completed": int(start)}
        self._task = self._progress.add_task(title, **count, unit=unit)
        self._progress.start()

    def advance(self, amount: float = 1) -> None:
        self.count += amount
        self._progress.advance(self._task, amount)

    def close(self, finished: bool) -> None:
        self._progress.stop()


class _RateColumn(rich_progress.ProgressColumn):
    def render(self, task: rich_progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        text = f"{format_rate(speed)} {task.fields['unit']}/s" if speed else ""
        return Text(text, style="progress.data.speed")


class PlainBar:
    """Progress in plain lines, given to `write` one by one; see `progress`."""

    def __init__(
        self,
        title: str,
        total: float | None = None,
        start: float = 0,
        unit: str = "steps",
        write: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.count = start
        self._title, self._total, self._unit = title, total, unit
        self._write = write or (lambda line: print(line, flush=True))
        self._clock, self._pace = clock, FIRST_LINE
        self._begin = self._last = clock()
        self._first_count = self._last_count = start
        self._write(f"{self._title}: {self._position()}")

    def advance(self, amount: float = 1) -> None:
        """Count so much more as done, and print a line when one is due."""
        self.count += amount
        now = self._clock()
        if now - self._last < self._pace:
            return
        rate = (self.count - self._last_count) / (now - self._last)
        line = f"{self._title}: {self._position()}, {format_rate(rate)} {self._unit}/s"
        if self._total is not None and rate > 0:
            left = max(0.0, self._total - self.count) / rate
            line += f", {timedelta(seconds=round(left))} left"
        self._write(line)
        self._last, self._last_count = now, self.count
        self._pace = min(2 * self._pace, LAST_PACE)

    def close(self, finished: bool) -> None:
        """Print the last line, which says whether the work was finished."""
        elapsed = self._clock() - self._begin
        rate = (self.count - self._first_count) / max(elapsed, 1e-9)
        title = f"{self._title} {'done' if finished else 'stopped'}"
        line = f"{title}: {self._position()} in {timedelta(seconds=round(elapsed))}"
        line += f", {format_rate(rate)} {self._unit}/s" if rate > 0 else ""
        self._write(line)

    def _position(self) -> str:
        count = f"{self.count:.10g}"
        if self._total is None:
            return f"{count} {self._unit}"
        share = f" ({100 * self.count / self._total:.0f}%)" if self._total > 0 else ""
        return f"{count}/{self._total:.10g}{share}"


def format_rate(rate: float) -> str:
    """Format with two digits at least: 0.12, 3.4, 812, 12345."""
    return f"{rate:.2g}" if rate < 10 else f"{rate:.0f}"
