"""What the scripts under benchmarks/ share: their arguments, and where they ran."""

import argparse
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def make_parser(doc: str) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of a script, its first line on top."""
    title, _, details = doc.partition("\n")
    return argparse.ArgumentParser(
        description=title,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run_process(
    command: Sequence[str],
    output: Path,
    env: Mapping[str, str],
    over: Callable[[], object],
) -> int:
    """Run a command until it ends, or until over() is true or raises.

    Then it is asked to stop by SIGTERM, and waited for. What it prints is added to
    `output`. Returns its exit code.
    """
    with output.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    try:
        while not over():
            try:
                return process.wait(1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return process.returncode


def circumstances() -> dict[str, Any]:
    """Command, hardware, versions and date, to stand beside what was measured."""
    return {
        "command": shlex.join(["python", *sys.argv]),
        "hardware": hardware(),
        "system": platform.platform(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }


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
    """What a checkpoint says of versions, and those of CUDA and of a clone."""
    import torch  # As above.

    from dreamerv2.running.checkpoint import versions

    more = {"cuda": torch.version.cuda, "commit": _commit()}
    return {**versions(), **{k: v for k, v in more.items() if v}}


def _commit() -> str:
    """The commit of a clone, with -dirty behind it if files differ; else empty."""
    root = Path(__file__).parents[1]
    if not shutil.which("git") or not (root / ".git").exists():
        return ""
    command = ["git", "-C", root, "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()
