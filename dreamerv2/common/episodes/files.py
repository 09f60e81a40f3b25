"""A directory of episodes: names in order of time, whole or set aside."""

import contextlib
import mmap
import os
import re
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

from dreamerv2.common.episodes import npz
from dreamerv2.common.episodes.episode import Episode, convert, signature
from dreamerv2.common.episodes.index import INDEX, Entry, Index, Signature
from dreamerv2.common.episodes.npz import EpisodeDamagedError, EpisodeLostError
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically, writing

STAMP = "%Y%m%dT%H%M%S%f"
# Fractions of a second may be missing: files of the TensorFlow implementation.
NAME = re.compile(r"(\d{8}T\d{6}(?:\d{6})?)-([0-9a-f]{32})-(\d+)\.npz")
STALE_SECONDS = 3600


class EpisodeFiles:
    """A directory of episode files `<timestamp>-<uuid>-<steps>.npz` and their index.

    The timestamp is UTC with microseconds and strictly increases, so that order by name
    is order of time. `steps` is the number of transitions less one. Damaged files are
    renamed to `*.damaged`, foreign ones left as they are; `aside` lists both. With
    `compress` files are small, else they can be mapped."""

    def __init__(
        self,
        directory: str | Path,
        clock: Callable[[], float] = time.time,
        compress: bool = True,
    ) -> None:
        self.directory = Path(directory).expanduser()
        self.aside: list[tuple[str, str]] = []  # Names and reasons.
        self._clock, self._compress = clock, compress
        self._last = datetime.min.replace(tzinfo=timezone.utc)
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
        self.index = Index(self.directory)

    def scan(self) -> list[str]:
        """Return the names of the episode files that look whole, oldest first."""
        try:
            with os.scandir(self.directory) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(
                f"Cannot read {self.directory} ({error.strerror}): allow it."
            ) from error
        names = []
        for entry in entries:
            name, path = entry.name, self.directory / entry.name
            if name.endswith(".tmp"):
                self._remove_stale(path)
            elif name.startswith(".") or name.endswith(".damaged") or name == INDEX:
                continue
            elif not entry.is_file() or not _stamp(name):
                self.aside.append((name, "not an episode file"))
            elif self.trusted(name) or self._looks_whole(path):
                names.append(name)
        self.index.keep(set(names))
        if names:
            self._last = max(self._last, _stamp(names[-1]))
        return names

    def save(self, arrays: npz.Arrays) -> str:
        """Write an episode, arrays (T, ...), atomically; return the file's name."""
        now = datetime.fromtimestamp(self._clock(), timezone.utc)
        self._last = max(now, self._last + timedelta(microseconds=1))
        steps = len(arrays["is_first"]) - 1
        name = f"{self._last.strftime(STAMP)}-{uuid.uuid4().hex}-{steps}.npz"
        self._write(name, arrays)
        return name

    def has(self, name: str) -> bool:
        """Tell whether `name` is that of an episode file that is there."""
        return bool(_stamp(name)) and (self.directory / name).is_file()

    def trusted(self, name: str) -> Signature | None:
        """Return the signature of a file that the index knows to be whole."""
        with contextlib.suppress(OSError):  # Whoever reads the file will say so.
            return self.index.trusted(name, os.stat(self.directory / name))
        return None

    def load(self, name: str) -> npz.Arrays | None:
        """Read an episode; None, and the file set aside, if that is impossible."""
        if not _stamp(name):
            return None
        try:
            with _telling(name), (self.directory / name).open("rb") as file:
                stat = os.fstat(file.fileno())
                arrays = _checked(name, npz.from_bytes(file.read(), convert)).arrays
        except EpisodeLostError as error:
            self.set_aside(error)
            return None
        self.index.learn(name, _entry(stat, arrays))
        return arrays

    def open(self, episode: Episode) -> npz.Arrays:
        """Map the file of a finished episode, read-only; EpisodeLostError. At first
        each byte is checked, and a file that cannot be mapped is written anew."""
        name = episode.name
        with _telling(name), (self.directory / name).open("rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if episode.fields:
                return npz.view_arrays(buffer, episode.fields)
            content = _checked(name, npz.read_arrays(file, buffer, convert))
        episode.fields = content.fields
        if content.fields is None and not self._compress:
            # Without room for that, the unpacked arrays do, which takes longer.
            with contextlib.suppress(UsageError):
                self._write(name, content.arrays)
                return self.open(episode)
        return content.arrays

    def set_aside(self, error: EpisodeLostError) -> None:
        """List a file that is lost; rename a damaged one, which is not opened again."""
        self.aside.append((error.name, error.reason))
        if isinstance(error, EpisodeDamagedError):
            self.index.forget(error.name)
            path = self.directory / error.name
            # In a directory that cannot be written, skipping the file is all we can do.
            with contextlib.suppress(OSError):
                path.rename(path.with_name(f"{error.name}.damaged"))

    def remove(self, name: str) -> None:
        """Delete an episode's file. OSError if that is impossible."""
        (self.directory / name).unlink(missing_ok=True)
        self.index.forget(name)

    def _write(self, name: str, arrays: npz.Arrays) -> None:
        path = self.directory / name
        content = arrays, self._compress
        write_atomically(path, lambda file: npz.write_arrays(file, *content))
        self.index.append(name, _entry(path.stat(), arrays))

    def _looks_whole(self, path: Path) -> bool:
        try:
            with _telling(path.name), path.open("rb") as file:
                if not zipfile.is_zipfile(file):
                    raise EpisodeDamagedError(path.name, "cut off")
        except EpisodeLostError as error:
            self.set_aside(error)
            return False
        return True

    def _remove_stale(self, path: Path) -> None:
        """Remove what a killed process left; a living one may still be writing."""
        named = _stamp(path.name.removeprefix(".").removesuffix(".tmp"))
        with contextlib.suppress(OSError):  # It costs nothing but its room on disk.
            if named and self._clock() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()


def steps_in(name: str) -> int:
    """Return the number of steps that an episode file's name states."""
    return int(name.rsplit("-", 1)[1].removesuffix(".npz"))


def _stamp(name: str) -> datetime | None:
    """Return the time that an episode file's name states; None for other names."""
    with contextlib.suppress(ValueError):
        if match := NAME.fullmatch(name):
            stamp = datetime.strptime(match[1].ljust(21, "0"), STAMP)
            return stamp.replace(tzinfo=timezone.utc)
    return None


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    """Turn what goes wrong while an episode is read into EpisodeLostError."""
    try:
        yield
    except (MemoryError, EpisodeLostError):
        raise  # A lack of memory is not the file's fault.
    except FileNotFoundError as error:
        raise EpisodeLostError(name, "gone") from error
    except OSError as error:
        raise EpisodeLostError(name, error.strerror or "unreadable") from error
    except Exception as error:  # Damaged bytes raise nearly anything.
        raise EpisodeDamagedError(name, f"damaged: {error}") from error


def _entry(stat: os.stat_result, arrays: npz.Arrays) -> Entry:
    return Entry(stat.st_size, stat.st_mtime_ns, signature(arrays))


def _checked(name: str, content: npz.Content) -> npz.Content:
    """Raise ValueError unless this is an episode as long as the name states."""
    lengths = {len(v) if v.ndim else -1 for v in content.arrays.values()}
    if "is_first" not in content.arrays or lengths != {steps_in(name) + 1}:
        raise ValueError("lengths or keys are wrong")
    return content
