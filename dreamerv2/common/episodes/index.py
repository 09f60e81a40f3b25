"""The index of a directory of episodes: what is known of files without opening them. A
cache, never the truth: what is missing, damaged or older than its file is mended."""

import contextlib
import json
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically

INDEX = "index.jsonl"
_FORMAT = "dreamerv2-episodes-1"

# Per key the type and shape of one step.
Signature = dict[str, tuple[str, tuple[int, ...]]]


class Entry(NamedTuple):
    """A file that was found whole, or written."""

    size: int
    mtime_ns: int
    signature: Signature


class Index:
    """Entries by the names of files, and the file that keeps them: checksums and JSON.
    Failures to write it are ignored: whoever writes episodes will report them."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / INDEX
        self._entries: dict[str, Entry] = {}
        self._shared: dict[str, Signature] = {}  # Most files have the same one.
        self._stale = self._torn = False
        self._read()

    def trusted(self, name: str, stat: os.stat_result) -> Signature | None:
        """Return the signature if the file of this stat is the one that was whole."""
        entry = self._entries.get(name)
        same = entry and entry[:2] == (stat.st_size, stat.st_mtime_ns)
        return entry.signature if same else None

    def append(self, name: str, entry: Entry) -> None:
        """Add a file that was just written."""
        self._set(name, entry)
        # After a line that was cut short, one that is empty makes the next one whole.
        line = (b"\n" if self._torn else b"") + _encode([name, *entry])
        self._torn = True
        with contextlib.suppress(OSError):
            new = not self._path.exists()
            with self._path.open("ab", buffering=0) as file:
                content = _encode(_FORMAT) + line if new else line
                self._torn = file.write(content) != len(content)

    def learn(self, name: str, entry: Entry) -> None:
        """Add or correct a file that was just read; `settle` writes it."""
        if self._entries.get(name) != entry:
            self._set(name, entry)
            self._stale = True

    def forget(self, name: str) -> None:
        """Remove a file that is gone; its line stays until the next `settle`."""
        self._entries.pop(name, None)

    def keep(self, names: set[str]) -> None:
        """Remove all others."""
        before = len(self._entries)
        self._entries = {k: v for k, v in self._entries.items() if k in names}
        self._stale = self._stale or len(self._entries) < before

    def settle(self) -> None:
        """Write the whole index, atomically, if the file says anything else."""
        if not self._stale:
            return
        items = sorted(self._entries.items())
        lines = [_encode(_FORMAT), *(_encode([name, *entry]) for name, entry in items)]
        with contextlib.suppress(UsageError):
            write_atomically(self._path, lambda file: file.write(b"".join(lines)))
            self._stale = self._torn = False

    def _read(self) -> None:
        """Take what is whole in the file."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return
        begin, *lines = content.split(b"\n")
        self._torn = not content.endswith(b"\n")
        damaged = 0  # Lines that are not understood.
        if begin + b"\n" != _encode(_FORMAT):
            damaged, lines = 1, []  # What they mean is not known.
        for line in filter(None, lines):
            try:
                name, size, mtime, found = _decode(line)
                found = {str(k): (str(v[0]), tuple(v[1])) for k, v in found.items()}
                self._set(str(name), Entry(int(size), int(mtime), found))
            except (ValueError, TypeError, KeyError, AttributeError):
                damaged += 1
        self._stale = bool(damaged) or self._torn
        if damaged:
            print(f"The index of {self._path.parent} was damaged, and is made again.")

    def _set(self, name: str, entry: Entry) -> None:
        signature = self._shared.setdefault(repr(entry.signature), entry.signature)
        self._entries[name] = entry._replace(signature=signature)


def _encode(value: Any) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _decode(line: bytes) -> Any:
    if int(line[:8], 16) != zlib.crc32(line[9:]):
        raise ValueError("another checksum")
    return json.loads(line[9:])
