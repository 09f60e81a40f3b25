"""The checkpoint of a run: which file, what is in it besides the parts, and reading."""

import contextlib
import functools
import os
import platform
import random
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamerv2 import __version__
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import cannot_write
from dreamerv2.running.checkpoint import (
    DamagedCheckpoint,
    load_checkpoint,
    save_checkpoint,
)
from dreamerv2.running.logdir import CHECKPOINT
from dreamerv2.running.seeds import derive_seed

PREVIOUS = "variables.prev.pt"
DAMAGED = "variables.damaged.pt"
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py")


class Saves:
    """The checkpoints in a logdir: the newest, and the one before it.

    The newest is replaced in one step once the new one is whole. The one before is for
    the day on which a disk returns other bytes than were written.

    Args:
      folder: the logdir.
      device: where tensors are loaded to.
    """

    def __init__(self, folder: Path, device: torch.device):
        self.path = folder / CHECKPOINT
        self._previous = folder / PREVIOUS
        self._device = device
        self._found: dict[str, Any] | None = None
        self._damaged = False

    def load(self) -> bool:
        """Read the newest checkpoint; False if there is none.

        One that is damaged is told, and the one before it taken instead. Changes no
        file. Raises UsageError if there is none that can be read.
        """
        if not self.path.exists():
            return False  # Who moved it away wants to start anew.
        try:
            self._found = load_checkpoint(self.path, self._device)
        except DamagedCheckpoint as error:
            try:
                self._found = load_checkpoint(self._previous, self._device)
            except UsageError:
                raise error from None
            self._damaged = True
            reason = str(error).partition(" because ")[2].partition(": restore")[0]
            print(
                f"The checkpoint {self.path} cannot be loaded because {reason}, so it "
                f"is kept as {DAMAGED} and the run goes on from the one before, "
                f"{PREVIOUS}.",
                flush=True,
            )
        return True

    def part(self, name: str) -> Any:
        """The state of one part in the loaded checkpoint; UsageError if it has none."""
        if name not in self._found:
            raise UsageError(
                f"The checkpoint {self.path} has no '{name}': it is of another "
                "version; move it away to start anew from the episodes."
            )
        return self._found[name]

    def get(self, name: str) -> Any:
        """A part, or None: there is no checkpoint, or it is of an earlier version."""
        return None if self._found is None else self._found.get(name)

    def drop(self) -> None:
        """Free the memory of the loaded checkpoint."""
        self._found = None

    def write(self, state: Mapping[str, Any]) -> None:
        """Write a checkpoint: these parts, random states and versions.

        Raises UsageError if that is not possible; the newest one is then as it was.
        """
        state = {**state, "random": random_states(), "versions": versions()}
        if self._damaged:
            self._set_aside()
        else:
            self._keep()
        save_checkpoint(self.path, state)
        self._damaged = False

    def _keep(self) -> None:
        """Give the newest a second name, so that there always is one of the first."""
        temporary = self._previous.with_name(f".{PREVIOUS}.tmp")
        # A file system may have no links; the newest is safe all the same.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
            if self.path.exists():
                os.link(self.path, temporary)
                os.replace(temporary, self._previous)

    def _set_aside(self) -> None:
        """Copy the damaged one, which stays until the next one takes its place."""
        copy = self.path.with_name(DAMAGED)
        try:
            shutil.copyfile(self.path, copy)
        except OSError as error:
            raise cannot_write(copy, error) from error


def seed_process(seed: int) -> None:
    """Seed the random generators that a process has only one of."""
    seed = derive_seed(seed, "process", bits=32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """The states of the random generators that a process has only one of.

    The program draws from generators of its own; environments may use these.
    """
    states = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Go on from what random_states returned; those of a missing GPU are left out."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


def versions() -> dict[str, str]:
    """The versions of what a run depends on, by package."""
    own = {"dreamerv2": __version__, "python": platform.python_version()}
    return {**own, **{name: _installed(name) for name in PACKAGES}}


@functools.cache
def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # Run from a copy of its sources.
        return "unknown"


def changed_versions(before: Mapping[str, str]) -> str:
    """What was saved with another version, as in "torch 2.6.0 -> 2.7.0"; or empty."""
    now = versions()
    changed = [k for k in now if before.get(k, now[k]) != now[k]]
    return ", ".join(f"{k} {before[k]} -> {now[k]}" for k in changed)
