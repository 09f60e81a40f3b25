"""The C library's management of this process's memory."""

import ctypes
import platform

# Of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_PAD = 64 * 2**20  # Bytes to ask the system for at once.


def keep_freed_memory() -> bool:
    """Keep memory that is freed for what is allocated next; return True with glibc,
    which alone can be told so, and by default has the system fill each large array with
    zeros page by page: a tenth of the time of an update on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if _has_glibc() else None
    if mallopt is None:
        return False
    # One arena, since those of other threads cannot hold large arrays.
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _PAD, _ARENA_MAX: 1}
    return all([mallopt(key, value) for key, value in settings.items()])


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
