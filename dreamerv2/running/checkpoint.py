"""Checkpoints: the whole state of a run in one file, whole or not there at all.

The file is what `torch.save` writes, holding tensors and plain containers only, so
`torch.load(path, weights_only=True)` opens it anywhere. Arrays, bytes and huge ints
are kept inside as tensors and strings, since nothing is ever loaded by running code.
"""

import contextlib
import errno
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dreamerv2.common.errors import UsageError

FORMAT = "dreamerv2-checkpoint"
VERSION = 1


class DamagedCheckpoint(UsageError):
    """The file is one of ours, as far as one can tell, and not what was written."""


_NUMPY, _BYTES, _INT = "__numpy__", "__bytes__", "__int__"
_MARKERS = (_NUMPY, _BYTES, _INT)
_NUMPY_KINDS = "biufcSUmM"
_LONG_INT = 1024  # bits; torch's safe loader stops at 2040


def save_checkpoint(path: str | os.PathLike, state: Any) -> None:
    """Write a nested state to `path`, in one atomic step.

    Args:
      path: The file; a folder that is missing is made.
      state: dicts (keys str or int), lists and tuples of tensors, numpy arrays and
        scalars, bytes, str, int, float, bool and None. Tensors are stored without
        their gradient and may be on any device.

    Raises:
      TypeError: The state holds something else; the message says where.
      UsageError: The disk is full or the folder cannot be written to. The file
        that was there before is untouched.
    """
    content = {"format": FORMAT, "version": VERSION, "state": _encode(state, "state")}
    write_atomically(path, lambda file: torch.save(content, file))


def load_checkpoint(
    path: str | os.PathLike, map_location: str | torch.device = "cpu"
) -> Any:
    """Read what `save_checkpoint` wrote, checking every byte and running no code.

    Tensors come back as tensors on `map_location`, arrays as arrays of their dtype,
    tuples as tuples, lists as lists; ints and floats are exact.

    Raises:
      UsageError: The file is missing, unreadable, not ours, or, as its subclass
        DamagedCheckpoint, damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(
            f"There is no checkpoint at {path}: name the folder of a run that saved."
        )
    try:
        with path.open("rb") as file:
            _check_whole(file)
            file.seek(0)
            content = torch.load(file, map_location=map_location, weights_only=True)
        _check_ours(content)
        return _decode(content["state"])
    except (MemoryError, PermissionError, torch.OutOfMemoryError) as error:
        raise UsageError(
            f"Cannot read the checkpoint {path} ({_first_line(error)}): "
            "free memory or allow reading it, and try again."
        ) from error
    except Exception as error:  # damage can surface as any exception at all
        foreign = isinstance(error, (_Foreign, pickle.UnpicklingError))
        kind = UsageError if foreign else DamagedCheckpoint
        raise kind(
            f"The checkpoint {path} cannot be loaded because {_reason(error)}: "
            "restore a copy of it, or move it away to start anew from the episodes "
            "in the same folder."
        ) from error


def match_state(expected: Mapping, found: Mapping, where: str, limit: int = 5) -> None:
    """Check that two mappings have the same names, and tensors of the same shapes.

    Args:
      expected: Name to tensor (or array), as the program has them now.
      found: The same, as they come from a file.
      where: What `found` is, as the start of the message: "variables.pt: model".
      limit: At most so many names of a kind are listed.

    Raises:
      UsageError: Lists the names that are missing, extra, and misshapen.
    """
    missing = sorted(str(k) for k in expected if k not in found)
    extra = sorted(str(k) for k in found if k not in expected)
    shapes = {
        k: (_shape(found[k]), _shape(expected[k])) for k in expected if k in found
    }
    misshapen = sorted(
        f"{name} is {ours} where {wanted} is needed"
        for name, (ours, wanted) in shapes.items()
        if ours != wanted
    )
    kinds = {"missing": missing, "extra": extra, "misshapen": misshapen}
    if not any(kinds.values()):
        return
    parts = []
    for kind, names in kinds.items():
        if names:
            more = ", ..." if len(names) > limit else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:limit])}{more})")
    raise UsageError(
        f"{where} does not fit this configuration, with {', '.join(parts)}: "
        "use the config that it was saved with, or another --logdir."
    )


def write_atomically(
    path: str | os.PathLike, write: Callable[[BinaryIO], None]
) -> None:
    """Have `write` fill a file that appears at `path` once it is whole, or never.

    The bytes go to a temporary file in the same folder, reach the disk, and are then
    renamed. What a killed process left half written is removed by the next call.

    Raises:
      UsageError: The file cannot be written; the one before is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            sink = _Sink(file)
            write(sink)
            sink.finish()
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # gone after the rename, as a rule
            temporary.unlink(missing_ok=True)


def cannot_write(path: str | os.PathLike, error: OSError) -> UsageError:
    """Turn a failed write into one sentence for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space there or choose another --logdir"
    else:
        advice = "make it writable or choose another --logdir"
    reason = error.strerror or _first_line(error)
    return UsageError(f"Cannot write {path} ({reason}): {advice}.")


class _Unfit(Exception):
    """Why a file is no checkpoint, to be read after "because"."""


class _Foreign(_Unfit):
    """The file is whole, but of another program or version."""


class _Sink:
    """Takes bytes for a file, and keeps the first error until the writer is done.

    An exception inside torch's C++ writer can surface as another one, or abort the
    process when the writer's destructor tries again. So it never sees any, a second
    Ctrl-C included.
    """

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

    def finish(self) -> None:
        """Bring all to the disk; raises the error that came up on the way."""
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())


def _sync_folder(folder: Path) -> None:
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


def _encode(value: Any, where: str) -> Any:
    """Turn a state into tensors and plain containers."""
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        return {_INT: hex(value)} if value.bit_length() > _LONG_INT else value
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, where)
    if isinstance(value, (np.ndarray, np.generic)):
        return _encode_numpy(value, where)
    if isinstance(value, bytes):
        return {_BYTES: _raw(np.frombuffer(value, np.uint8))}
    if type(value) in (list, tuple):
        items = (_encode(item, f"{where}[{i}]") for i, item in enumerate(value))
        return type(value)(items)
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int) or key in _MARKERS:
                raise TypeError(
                    f"A checkpoint takes dict keys of type str or int other than "
                    f"{_MARKERS}, but {where} has the key {key!r}."
                )
        return {k: _encode(v, f"{where}[{k!r}]") for k, v in value.items()}
    raise TypeError(
        f"A checkpoint holds tensors, arrays, plain values, dicts, lists and tuples, "
        f"but {where} is a {type(value).__name__}."
    )


def _encode_tensor(value: torch.Tensor, where: str) -> torch.Tensor:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise TypeError(f"A checkpoint takes dense tensors, but {where} is none.")
    value = value.detach().cpu()
    if value.untyped_storage().nbytes() != value.numel() * value.element_size():
        value = value.clone()  # a view would drag the whole tensor into the file
    return value


def _encode_numpy(value: np.ndarray | np.generic, where: str) -> dict[str, Any]:
    array = np.asarray(value)
    if array.dtype.kind not in _NUMPY_KINDS:
        raise TypeError(
            f"A checkpoint takes arrays of numbers or strings, but {where} has dtype "
            f"{array.dtype}."
        )
    return {
        _NUMPY: array.dtype.str,
        "shape": list(array.shape),
        "scalar": isinstance(value, np.generic),
        "data": _raw(np.ascontiguousarray(array).reshape(-1).view(np.uint8)),
    }


def _raw(data: np.ndarray) -> torch.Tensor:
    """A uint8 tensor of these bytes; a copy, as torch wants writable memory."""
    return torch.from_numpy(data.copy())


def _decode(value: Any) -> Any:
    """The inverse of `_encode`; nonsense raises whatever it raises."""
    if type(value) in (list, tuple):
        return type(value)(_decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    if _INT in value:
        return int(value[_INT], 16)
    if _BYTES in value:
        return value[_BYTES].cpu().numpy().tobytes()
    if _NUMPY in value:
        dtype = np.dtype(value[_NUMPY])
        if dtype.kind not in _NUMPY_KINDS:
            raise _Foreign(f"it holds an array of type {dtype}")
        data = value["data"].cpu().numpy()
        array = data.view(dtype).reshape(tuple(value["shape"]))
        return array[()] if value["scalar"] else array
    return {key: _decode(item) for key, item in value.items()}


def _check_whole(file: BinaryIO) -> None:
    """Compare the checksum of every part, which torch.load does not do."""
    if not zipfile.is_zipfile(file):
        raise _Unfit("it is cut short or no checkpoint")
    with zipfile.ZipFile(file) as archive:
        if any(i.compress_type != zipfile.ZIP_STORED for i in archive.infolist()):
            raise _Unfit("it is damaged or no checkpoint")
        broken = archive.testzip()
        if broken is not None:
            raise _Unfit(f"its part {broken} is damaged")


def _check_ours(content: Any) -> None:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _Foreign("it was not written by this program")
    if content.get("version") != VERSION:
        raise _Foreign(
            f"it has format {content.get('version')!r} and this program reads {VERSION}"
        )


def _reason(error: Exception) -> str:
    """What to tell about an exception that came up while loading."""
    if isinstance(error, pickle.UnpicklingError):
        return "it holds something other than tensors and plain values"
    if isinstance(error, _Unfit):
        return str(error)
    return "it is damaged or no checkpoint"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _shape(value: Any) -> str:
    shape = tuple(getattr(value, "shape", ()))
    return "x".join(str(size) for size in shape) or "scalar"
