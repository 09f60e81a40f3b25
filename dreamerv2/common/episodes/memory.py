"""Whether a replay will fit into the machine's memory, said before a run starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.episodes.episode import stored_keys

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (  # The limit of a container and what it uses, versions 2 and 1.
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def memory_needed(spaces: Mapping[str, Any], steps: int) -> int:
    """Bytes that so many steps take in memory.

    spaces: per key of a transition (observations and actions) its `shape` and `dtype`.
    """
    return steps * sum(
        int(np.prod(spaces[key].shape)) * _stored_size(spaces[key].dtype)
        for key in stored_keys(spaces)
    )


def available_memory() -> int | None:
    """Bytes that this process can still get, or None where Linux does not tell."""
    free = [_meminfo("MemAvailable")]
    for limit, usage in _CGROUPS:
        total, used = _number(Path(limit)), _number(Path(usage))
        if total is not None and used is not None:
            free.append(max(0, total - used))
    known = [value for value in free if value is not None]
    return min(known) if known else None


def warn_if_too_big(
    settings: Mapping[str, Any],
    spaces: Sequence[Mapping[str, Any]],
    steps: int,
    loaded: int = 0,
    available: int | None = None,
) -> bool:
    """Print a warning if the replay of training will outgrow the memory.

    settings: those of `replay`, of which `capacity` and `storage` count.
    spaces: of observations and of actions, each as for `memory_needed`.
    steps, loaded: of the whole run, and those that the replay holds already.
    available: bytes; None asks the system, and where that does not tell, says nothing.

    Return whether it printed one. With storage `disk` it never does.
    """
    if settings["storage"] == "disk":
        return False
    if available is None:
        available = available_memory()
    capacity = min(settings["capacity"] or steps, max(steps, loaded))
    per_step = sum(memory_needed(each, 1) for each in spaces)
    missing = (capacity - loaded) * per_step
    if available is None or missing <= available:
        return False
    fits = loaded + available * 9 // 10 // max(per_step, 1)
    print(
        f"Warning: the replay may need {_gigabytes(missing)} more memory than now "
        f"({capacity:,} steps of {per_step:,} bytes, of which {loaded:,} are loaded), "
        f"and {_gigabytes(available)} are available: set --replay.capacity to "
        f"{_rounded(fits):,} or less, or --replay.storage to disk."
    )
    return True


def _stored_size(dtype: Any) -> int:
    """Bytes of a value in the type in which the replay stores it."""
    dtype = np.dtype(dtype)
    return 1 if dtype.kind == "b" or dtype == np.uint8 else 4


def _meminfo(key: str) -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _number(path: Path) -> int | None:
    """The number in a file; None if there is no file, or "max" in it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _gigabytes(value: int) -> str:
    return f"{value / 1e9:.1f} GB"


def _rounded(value: int) -> int:
    """Down to two digits that are not 0."""
    unit = 10 ** max(len(str(value)) - 2, 0)
    return value // unit * unit
