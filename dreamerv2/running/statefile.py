"""Checkpoints: the whole state of a run in one file, whole or not there at all.

`torch.load(path, weights_only=True)` opens it anywhere. Arrays, bytes and huge ints are
kept as tensors and strings, since nothing is loaded by running code."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import first_line, write_atomically

FORMAT = "dreamerv2-checkpoint"
VERSION = 1


class DamagedCheckpoint(UsageError):
    """The file is one of ours, but not what was written; `reason` follows "because"."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason


_NUMPY, _BYTES, _INT = "__numpy__", "__bytes__", "__int__"
_MARKERS = (_NUMPY, _BYTES, _INT)
_NUMPY_KINDS = "biufcSUmM"
_LONG_INT = 1024  # bits; torch's safe loader stops at 2040


def save_checkpoint(path: str | os.PathLike, state: Any) -> None:
    """Write a nested state in one atomic step: dicts (keys str or int), lists and
    tuples of tensors, numpy arrays and scalars, bytes, and plain values; TypeError says
    where something else is. UsageError if it cannot be written: the old file stays."""
    content = {"format": FORMAT, "version": VERSION, "state": _encode(state, "state")}
    write_atomically(path, lambda file: torch.save(content, file))


def state_to_bytes(state: Any) -> bytes:
    """Turn a state, as for `save_checkpoint`, into bytes that are a state, too."""
    content = io.BytesIO()
    torch.save(_encode(state, "state"), content)
    return content.getvalue()


def state_from_bytes(content: bytes, map_location: str | torch.device) -> Any:
    """Undo `state_to_bytes`."""
    file = io.BytesIO(content)
    return _decode(torch.load(file, map_location=map_location, weights_only=True))


def load_checkpoint(
    path: str | os.PathLike, map_location: str | torch.device = "cpu"
) -> Any:
    """Read what `save_checkpoint` wrote, checking every byte and running no code;
    UsageError for what is missing, unreadable or not ours, or a DamagedCheckpoint."""
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
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise _Foreign("it was not written by this program")
        if (found := content.get("version")) != VERSION:
            raise _Foreign(f"it has format {found!r} and this program reads {VERSION}")
        return _decode(content["state"])
    except (MemoryError, PermissionError, torch.OutOfMemoryError) as error:
        raise UsageError(
            f"Cannot read the checkpoint {path} ({first_line(error)}): "
            "free memory or allow reading it, and try again."
        ) from error
    except Exception as error:  # damage can surface as any exception at all
        reason = "it is damaged or no checkpoint"
        if isinstance(error, pickle.UnpicklingError):
            reason = "it holds something other than tensors and plain values"
        elif isinstance(error, _Unfit):
            reason = str(error)
        message = (
            f"The checkpoint {path} cannot be loaded because {reason}: restore a copy "
            "of it, or move it away to start anew from the episodes in the same folder."
        )
        if isinstance(error, (_Foreign, pickle.UnpicklingError)):
            raise UsageError(message) from error
        raise DamagedCheckpoint(message, reason) from error


class _Unfit(Exception):
    """Why a file is no checkpoint, to be read after "because"."""


class _Foreign(_Unfit):
    """The file is whole, but of another program or version."""


def _encode(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, float, str):
        return value
    if type(value) is int:
        return {_INT: hex(value)} if value.bit_length() > _LONG_INT else value
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"A checkpoint takes dense tensors, but {where} is none.")
        value = value.detach().cpu()
        # A view would drag the whole tensor into the file.
        whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if whole else value.clone()
    if isinstance(value, (np.ndarray, np.generic)):
        return _encode_numpy(value, where)
    if isinstance(value, bytes):
        return {_BYTES: torch.tensor(np.frombuffer(value, np.uint8))}
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
        "data": torch.tensor(np.ascontiguousarray(array).reshape(-1).view(np.uint8)),
    }


def _decode(value: Any) -> Any:
    """Undo `_encode`; nonsense raises whatever it raises."""
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
