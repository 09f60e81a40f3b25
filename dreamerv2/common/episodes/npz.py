"""The bytes of an episode's file: an .npz as numpy reads it. Compressed ones are small
(Atari: a thirtieth of the memory), others can be mapped and read in parts."""

import functools
import io
import math
import struct
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

Arrays = dict[str, np.ndarray]

# Of a local file header: where it begins, and the lengths of name and extra field.
_LOCAL = struct.Struct("<4s22xHH")
_DEFLATE_RATIO = 1032  # No deflated stream holds more times its own length.
_DATE = (1980, 1, 1, 0, 0, 0)  # The same in all files: equal episodes, equal bytes.
_STORED = (np.uint8, np.bool_, np.float32, np.int32)  # The replay's types.
# Numpy parses headers by ast, which fails in two threads at once in Python 3.11.7.
_PARSING = threading.Lock()


class Field(NamedTuple):
    """Where the values of a key lie in a file that is not compressed."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int


class Content(NamedTuple):
    """An episode's arrays and, if all of them are views of the file, their places."""

    arrays: Arrays
    fields: dict[str, Field] | None


class EpisodeLostError(Exception):
    """An episode's file is gone or cannot be read."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class EpisodeDamagedError(EpisodeLostError):
    """An episode's file does not hold what was written."""


class ObjectArrayError(ValueError):
    """An array holds Python objects, which are never loaded."""

    def __init__(self, key: str) -> None:
        super().__init__(f"'{key}' holds Python objects, which are never loaded")
        self.key = key


def write_arrays(file: BinaryIO, arrays: Arrays, compress: bool = True) -> None:
    """Write what np.savez does, or np.savez_compressed at the fastest level."""
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w") as archive:
        for key, value in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, value, allow_pickle=False)
            info = zipfile.ZipInfo(f"{key}.npy", _DATE)
            archive.writestr(info, member.getbuffer(), method, compresslevel=1)


def to_bytes(arrays: Arrays) -> bytes:
    """Return a compressed file as bytes."""
    file = io.BytesIO()
    write_arrays(file, arrays)
    return file.getvalue()


def read_arrays(
    file: BinaryIO, buffer: Any, convert: Callable[[str, Any], np.ndarray]
) -> Content:
    """Read what np.load reads, check every byte, and execute nothing. The arrays are
    views of `buffer`, the file's bytes, but what is compressed or of other types: that
    is for `convert`. Any kind of exception for a damaged file."""
    arrays, fields = {}, {}
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if key.startswith("log_"):
                continue
            data, start = _member(buffer, info)
            wide = len(data) > 6 and data[6] > 1
            (length,) = struct.unpack_from("<I" if wide else "<H", data, 8)
            head = bytes(data[: (12 if wide else 10) + length])
            dtype, shape, fortran, skip = _header(head)
            if dtype.hasobject:
                raise ObjectArrayError(key)
            count = math.prod(shape)
            if skip + count * dtype.itemsize != len(data):
                raise ValueError(f"'{key}' has another size than it says")
            value = np.frombuffer(data, dtype, count, skip)
            value = value.reshape(shape, order="F" if fortran else "C")
            stays = dtype in _STORED and dtype.isnative and value.flags.c_contiguous
            arrays[key] = value if stays else convert(key, value)
            if stays and start >= 0:
                fields[key] = Field(dtype, shape, start + skip)
    mappable = fields.keys() == arrays.keys()
    return Content(arrays, fields if mappable else None)


def from_bytes(content: bytes, convert: Callable[[str, Any], np.ndarray]) -> Content:
    """Return `read_arrays` of a file in memory."""
    return read_arrays(io.BytesIO(content), content, convert)


def view_arrays(buffer: Any, fields: dict[str, Field]) -> Arrays:
    """Return the arrays of a mapped file, of which the places are known, unread."""
    return {
        key: np.frombuffer(buffer, dtype, math.prod(shape), offset).reshape(shape)
        for key, (dtype, shape, offset) in fields.items()
    }


class Reader:
    """Arrays of episodes that stay in their files, the latest ones open; thread-safe.
    At most so many files are open, and bytes of them mapped. The system ends the
    process if somebody shortens a mapped file; this program never does."""

    def __init__(
        self, open_episode: Callable[[Any], Arrays], files: int = 128, size: int = 2**28
    ) -> None:
        self._open, self._files, self._size = open_episode, files, size
        self._used = 0
        self._cache: OrderedDict[str, tuple[Arrays, int]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, episode: Any) -> Arrays:
        """Return the arrays of an episode, valid as long as they are held."""
        with self._lock:
            if (arrays := episode.arrays) is not None:
                return arrays
            if episode.name in self._cache:
                self._cache.move_to_end(episode.name)
                return self._cache[episode.name][0]
            arrays = self._open(episode)
            size = sum(value.nbytes for value in arrays.values())
            self._cache[episode.name] = arrays, size
            self._used += size
            while len(self._cache) > (self._files if self._used <= self._size else 1):
                self._used -= self._cache.popitem(last=False)[1][1]
            return arrays

    def close(self, name: str) -> None:
        """Forget an episode's arrays."""
        with self._lock:
            if name in self._cache:
                self._used -= self._cache.pop(name)[1]


def _member(buffer: Any, info: zipfile.ZipInfo) -> tuple[memoryview, int]:
    """Return a member's bytes and where they begin, -1 if they had to be unpacked."""
    magic, name, extra = _LOCAL.unpack_from(buffer, info.header_offset)
    start = info.header_offset + _LOCAL.size
    own = bytes(memoryview(buffer)[start : start + name])
    start += name + extra
    data = raw = memoryview(buffer)[start : start + info.compress_size]
    if magic != b"PK\x03\x04" or len(raw) != info.compress_size:
        raise ValueError("cut off")
    if own != info.orig_filename.encode():
        raise ValueError(f"{info.filename} has two names")
    if info.compress_type == zipfile.ZIP_DEFLATED:
        if info.file_size > _DEFLATE_RATIO * (len(raw) + 1):
            raise ValueError(f"{info.filename} cannot be as large as it says")
        data = memoryview(zlib.decompress(raw, -zlib.MAX_WBITS, info.file_size or 1))
        start = -1
    elif info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed in an unknown way")
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise ValueError(f"{info.filename} has another checksum")
    return data, start


@functools.lru_cache(maxsize=1024)  # Parsing takes longer than all else of a key.
def _header(start: bytes) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """Return type, shape, order and length of the header of an .npy file."""
    file = io.BytesIO(start)
    major, minor = np.lib.format.read_magic(file)
    if (major, minor) not in ((1, 0), (2, 0)):
        raise ValueError(f"an array has the unknown format {major}.{minor}")
    with _PARSING:
        read = getattr(np.lib.format, f"read_array_header_{major}_{minor}")
        shape, fortran, dtype = read(file)
    return dtype, shape, fortran, file.tell()
