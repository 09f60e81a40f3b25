"""Ctrl-C, SIGTERM and a closed output, which a loop looks at when it chooses to."""

import contextlib
import signal
import sys
from types import FrameType
from typing import Any

from dreamerv2.common.outputs.stdout import ReaderMayLeave


class Stopped(Exception):
    """The run was asked to stop. ``code`` is the exit code: 128 plus the signal."""

    def __init__(self, number: int):
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.code = 128 + number


class StopSignals:
    """Within it, in the main thread, signals only take effect at the next check(), but
    a second SIGINT at once. An output that nobody reads any more is a SIGPIPE."""

    # Windows lacks the last ones, by which a cluster says that time is nearly over.
    _NAMES = "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"
    SIGNALS = tuple(getattr(signal, x) for x in _NAMES if hasattr(signal, x))

    def __init__(self) -> None:
        self.received: int | None = None  # The number of the signal that came.
        self._before: dict[int, Any] = {}
        self._output = contextlib.ExitStack()

    def __enter__(self) -> "StopSignals":
        for number in self.SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        if sys.stdout is not None:  # It was closed before the program began.
            output = ReaderMayLeave(sys.stdout, self._no_reader)
            self._output.enter_context(contextlib.redirect_stdout(output))
        return self

    def __exit__(self, *exc: object) -> None:
        self._output.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self, *args: object, **kwargs: object) -> None:
        """Raise Stopped if a signal came; ignore what a callback gets."""
        if self.received is not None:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        again = " again" if number == signal.SIGINT else ""
        # The signal may have come in the middle of a print, which refuses another.
        with contextlib.suppress(RuntimeError):
            print(
                f"\n{signal.Signals(number).name}: saving after this step."
                f" Press Ctrl-C{again} to stop at once.",
                flush=True,
            )

    def _no_reader(self) -> None:
        if self.received is None:
            # Windows has no such signal.
            self.received = getattr(signal, "SIGPIPE", signal.SIGTERM)
        with contextlib.suppress(OSError):  # Nor may anybody read this one.
            print(
                "Nobody reads the output any more: saving after this step.",
                file=sys.stderr,
            )
