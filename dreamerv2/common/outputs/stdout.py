"""Standard output that refuses nothing: no character, and no print after its reader."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO


def print_anything() -> None:
    """Have standard output show characters that it lacks as question marks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


class ReaderMayLeave:
    """A stream of text whose reader may leave: `left` is called then, once."""

    def __init__(self, stream: TextIO, left: Callable[[], None]):
        self._stream, self._left = stream, left

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._while_read():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._while_read():
            self._stream.flush()

    @contextlib.contextmanager
    def _while_read(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: a closed terminal.
                raise
            # What the stream still holds would be refused again, at exit at the latest.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._left()
