"""Files that appear whole or not at all, the one way to write here; free of torch."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from dreamerv2.common.errors import UsageError


def write_atomically(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> None:
    """Have `write` fill a file that appears at `path` once it is whole, or never: one
    beside it reaches the disk and is then renamed; the next call removes what was left
    of it. UsageError, and the file before untouched, if that fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with open(temporary, "xb") as file:
                sink = _Sink(file)
                write(sink)
                sink.finish()
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, as a rule
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Within it, a write to `path` that fails is one sentence for the user."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | os.PathLike, error: OSError) -> UsageError:
    """Turn a failed write into one sentence for the user."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space there" if full else "make it writable"
    reason = error.strerror or first_line(error)
    return UsageError(
        f"Cannot write {path} ({reason}): {advice} and start again to go on, or choose "
        "another --logdir."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without its full stop."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


class _Sink:
    """Takes bytes for a file, and keeps the first error until the writer is done:
    torch's C++ writer turns an exception into another one, or aborts the process when
    its destructor tries again. So it never sees any, a second Ctrl-C included."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            if self._error is None:
                self._file.write(data)
        except BaseException as error:
            self._error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)  # For zipfile, which goes back in its file.

    def finish(self) -> None:
        """Bring all to the disk; raises the error that came up on the way."""
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    if os.name == "nt":
        return  # folders cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks
            raise
    finally:
        os.close(handle)
