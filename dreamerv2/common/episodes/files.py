"""A directory of episodes: names in order of time, whole or set aside."""

import contextlib
import mmap
import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dreamerv2.common.episodes.episode import Episode, convert, signature
from dreamerv2.common.episodes.index import INDEX, Entry, Index, Signature
from dreamerv2.common.episodes.npz import (
    Arrays,
    Content,
    EpisodeDamagedError,
    EpisodeLostError,
    from_bytes,
    read_arrays,
    view_arrays,
    write_arrays,
)
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically

STAMP = "%Y%m%dT%H%M%S%f"
# Fractions of a second may be missing: files of the TensorFlow implementation.
NAME = re.compile(r"(\d{8}T\d{6}(?:\d{6})?)-([0-9a-f]{32})-(\d+)\.npz")
STALE_SECONDS = 3600


class EpisodeFiles:
    """A directory of episode files `<timestamp>-<uuid>-<steps>.npz` and their index.

    The timestamp is UTC with microseconds and strictly increases within a directory, so
    that sorting by name is order of time. `steps` is the number of transitions less
    one. Damaged files are renamed to `*.damaged`; files that are none of ours are left
    as they are; both are listed in `aside` as (name, reason).

    compress: write small files, rather than ones that can be mapped.
    """

    def __init__(
        self,
        directory: str | Path,
        clock: Callable[[], float] = time.time,
        compress: bool = True,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.aside: list[tuple[str, str]] = []
        self._clock = clock
        self._compress = compress
        self._last = datetime.min.replace(tzinfo=timezone.utc)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"Cannot make the episode directory {self.directory} "
                f"({error.strerror}); choose another with --logdir."
            ) from error
        self.index = Index(self.directory)

    def scan(self) -> list[str]:
        """Return the names of the episode files, oldest first.

        Of those not in the index the last bytes are read, to notice a cut-off file.
        """
        try:
            with os.scandir(self.directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(
                f"Cannot read the episode directory {self.directory} "
                f"({error.strerror}); allow it or choose another with --logdir."
            ) from error
        names = []
        for entry in entries:
            name, path = entry.name, self.directory / entry.name
            if name.endswith(".tmp"):
                self._remove_stale(path)
            elif name.startswith(".") or name.endswith(".damaged") or name == INDEX:
                continue
            elif not entry.is_file() or not self._stamp(name):
                self.aside.append((name, "not an episode file"))
            elif self._is_known(entry) or self._looks_whole(path):
                names.append(name)
        self.index.keep(set(names))
        if names:
            self._last = max(self._last, self._stamp(names[-1]))
        return names

    def save(self, arrays: Arrays) -> str:
        """Write an episode, arrays (T, ...), atomically; return the file's name."""
        now = datetime.fromtimestamp(self._clock(), timezone.utc)
        self._last = max(now, self._last + timedelta(microseconds=1))
        steps = len(next(iter(arrays.values()))) - 1
        name = f"{self._last.strftime(STAMP)}-{uuid.uuid4().hex}-{steps}.npz"
        self._write(name, arrays)
        return name

    def has(self, name: str) -> bool:
        """Whether `name` is the name of an episode file that is there."""
        return bool(self._stamp(name)) and (self.directory / name).is_file()

    def trusted(self, name: str) -> Signature | None:
        """The signature of a file that the index knows to be whole."""
        try:
            if self.index.trusts(name, os.stat(self.directory / name)):
                return self.index.get(name).signature
        except OSError:
            pass  # Whoever reads the file will say so.
        return None

    def load(self, name: str) -> Arrays | None:
        """Read an episode; None, and the file set aside, if that is impossible.

        Nothing in the file is executed, and `name` cannot lead out of the directory.
        """
        if not self._stamp(name):
            return None
        try:
            with (self.directory / name).open("rb") as file:
                stat = os.fstat(file.fileno())
                content = file.read()
        except OSError as error:
            # The file may be whole: it keeps its name for the next time.
            self.aside.append((name, error.strerror or "unreadable"))
            return None
        try:
            arrays = _checked(name, from_bytes(content, convert)).arrays
        except MemoryError:
            raise  # That is not the file's fault.
        except Exception as error:  # Damaged bytes raise nearly anything.
            self.set_aside(name, f"damaged: {error}")
            return None
        entry = Entry(stat.st_size, stat.st_mtime_ns, signature(arrays))
        self.index.learn(name, entry)
        return arrays

    def open(self, episode: Episode) -> Arrays:
        """Map the file of a finished episode, read-only; EpisodeLostError.

        The first time, each byte is checked, and a file that is compressed or of other
        types is written anew so that it can be mapped.
        """
        name = episode.name
        try:
            with (self.directory / name).open("rb") as file:
                buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                if episode.fields:
                    return view_arrays(buffer, episode.fields)
                content = _checked(name, read_arrays(file, buffer, convert))
        except MemoryError:
            raise
        except FileNotFoundError as error:
            raise EpisodeLostError(name, "gone") from error
        except OSError as error:
            raise EpisodeLostError(name, error.strerror or "unreadable") from error
        except Exception as error:  # As above.
            raise EpisodeDamagedError(name, f"damaged: {error}") from error
        episode.fields = content.fields
        if content.fields is None and not self._compress:
            # Without room for that, the unpacked arrays do, which takes longer.
            with contextlib.suppress(UsageError):
                self._write(name, content.arrays)
                return self.open(episode)
        return content.arrays

    def set_aside(self, name: str, reason: str) -> None:
        """List a file as damaged and rename it, so that it is not opened again."""
        self.aside.append((name, reason))
        self.index.forget(name)
        # In a directory that cannot be written, skipping the file is all we can do.
        with contextlib.suppress(OSError):
            os.rename(self.directory / name, self.directory / f"{name}.damaged")

    def remove(self, name: str) -> None:
        """Delete an episode's file. OSError if that is impossible."""
        (self.directory / name).unlink(missing_ok=True)
        self.index.forget(name)

    def _write(self, name: str, arrays: Arrays) -> None:
        path = self.directory / name
        write_atomically(path, lambda file: write_arrays(file, arrays, self._compress))
        stat = path.stat()
        entry = Entry(stat.st_size, stat.st_mtime_ns, signature(arrays))
        self.index.append(name, entry)

    def _is_known(self, entry: os.DirEntry) -> bool:
        try:
            return self.index.trusts(entry.name, entry.stat())
        except OSError:
            return False

    def _stamp(self, name: str) -> datetime | None:
        match = NAME.fullmatch(name)
        if not match:
            return None
        try:
            stamp = datetime.strptime(match[1].ljust(21, "0"), STAMP)
        except ValueError:
            return None
        return stamp.replace(tzinfo=timezone.utc)

    def _looks_whole(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                whole = zipfile.is_zipfile(file)
        except OSError as error:
            self.aside.append((path.name, error.strerror or "unreadable"))
            return False
        if not whole:
            self.set_aside(path.name, "cut off")
        return whole

    def _remove_stale(self, path: Path) -> None:
        """Remove what a killed process left; a living one may still be writing."""
        name = path.name.removeprefix(".").removesuffix(".tmp")
        # One that stays costs nothing but its room on disk.
        with contextlib.suppress(OSError):
            age = self._clock() - path.stat().st_mtime
            if self._stamp(name) and age > STALE_SECONDS:
                path.unlink()


def steps_in(name: str) -> int:
    """The number of steps that an episode file's name states."""
    return int(name.rsplit("-", 1)[1].removesuffix(".npz"))


def _checked(name: str, content: Content) -> Content:
    """ValueError unless this is an episode of the length that the name states."""
    lengths = {len(v) if v.ndim else -1 for v in content.arrays.values()}
    if "is_first" not in content.arrays or lengths != {steps_in(name) + 1}:
        raise ValueError("lengths or keys are wrong")
    return content
