"""The machine and the versions that something was measured with."""

import os
import platform
import shutil
import subprocess
from pathlib import Path


def count_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_name() -> str | None:
    """The first GPU that torch can use, if there is one."""
    import torch  # Takes seconds, which a list of runs need not.

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def hardware() -> str:
    """GPU, if there is one, and CPU, in a few words."""
    cpu = f"{count_cores()} CPU cores ({platform.machine()})"
    return " and ".join(filter(None, [gpu_name(), cpu]))


def versions() -> dict[str, str]:
    """Of Python, of the packages that results depend on, and of this project."""
    import ale_py
    import numpy
    import torch

    import dreamerv2

    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "ale-py": ale_py.__version__,
        "dreamerv2-torch": dreamerv2.__version__,
    }
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    commit = _commit()
    return {**found, "commit": commit} if commit else found


def _commit() -> str:
    """The commit of a clone, with -dirty behind it if files differ; else empty."""
    root = Path(__file__).parents[2]
    if not shutil.which("git") or not (root / ".git").exists():
        return ""
    command = ["git", "-C", root, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
