"""Whether a replay will fit into the machine's memory, said before a run starts."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.episodes.episode import stored_keys

_MEMINFO = Path("/proc/meminfo")
_V1 = "/sys/fs/cgroup/memory/memory"
_CGROUPS = (  # The limit of a container and what it uses, versions 2 and 1.
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (f"{_V1}.limit_in_bytes", f"{_V1}.usage_in_bytes"),
)


def memory_needed(spaces: Mapping[str, Any], steps: int) -> int:
    """Return the bytes of so many steps of some spaces in memory."""
    kept = [spaces[key] for key in stored_keys(spaces)]
    small = (np.bool_, np.uint8)  # All else is stored in four bytes.
    sizes = [1 if np.dtype(space.dtype) in small else 4 for space in kept]
    counts = [int(np.prod(space.shape)) for space in kept]
    return steps * int(np.dot(counts, sizes))


def available_memory() -> int | None:
    """Return the bytes that this process can still get, None if Linux does not tell."""
    free = []
    with contextlib.suppress(OSError):
        found = re.search(r"^MemAvailable:\s*(\d+)", _MEMINFO.read_text(), re.MULTILINE)
        free += [int(found[1]) * 1024] if found else []
    for limit, usage in _CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # No such file, or "max" in it.
            total, used = (int(Path(path).read_text()) for path in (limit, usage))
            free.append(max(0, total - used))
    return min(free, default=None)


def warn_if_too_big(
    settings: Mapping[str, Any],
    spaces: Sequence[Mapping[str, Any]],
    steps: int,
    loaded: int = 0,
    available: int | None = None,
) -> bool:
    """Print a warning if training's replay, in memory, will outgrow it; return whether.
    steps are those of the whole run, loaded what the replay holds; `available` bytes
    are by default what the system tells."""
    if settings["storage"] == "disk":
        return False
    available = available_memory() if available is None else available
    capacity = min(settings["capacity"] or steps, max(steps, loaded))
    per_step = sum(memory_needed(each, 1) for each in spaces)
    missing = (capacity - loaded) * per_step
    if available is None or missing <= available:
        return False
    fits = loaded + available * 9 // 10 // max(per_step, 1)
    unit = 10 ** max(len(str(fits)) - 2, 0)  # Two digits that are not 0.
    print(
        f"Warning: the replay may need {missing / 1e9:.1f} GB more memory than now "
        f"({capacity:,} steps of {per_step:,} bytes, of which {loaded:,} are loaded), "
        f"and {available / 1e9:.1f} GB are available: set --replay.capacity to "
        f"{fits // unit * unit:,} or less, or --replay.storage to disk."
    )
    return True
