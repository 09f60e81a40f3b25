"""The checkpoint of a run: what is in it, and at which moments it may be written."""

import contextlib
import functools
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dreamerv2 import __version__
from dreamerv2.common.counter import Counter
from dreamerv2.common.device.ranks import ALONE, Ranks
from dreamerv2.common.errors import RunFailed, UsageError, summary
from dreamerv2.common.files import writing
from dreamerv2.running import statefile
from dreamerv2.running.logdir import CHECKPOINT
from dreamerv2.running.signals import Stopped

PREVIOUS = "variables.prev.pt"
DAMAGED = "variables.damaged.pt"
PACKAGES = ("torch", "numpy", "gymnasium", "ale-py")
LAYOUT = 2  # Of the parts; dreamerv2 0.1.0 wrote 1, without saying so.

# What each rank has of its own; all else is equal at all ranks, as are networks in
# what the agent has.
OWN = ("train", "eval", "random")
NETWORKS = ("wm", "task_behavior", "expl_behavior")

# What a part may raise for a state that is not built as it should be. A RuntimeError
# is none of these, since a full GPU raises one, too.
MISFITS = (LookupError, TypeError, ValueError)


class Checkpoint:
    """The parts of a run that have a state, and the file that keeps it.

        checkpoint = Checkpoint(folder, device, step)
        checkpoint.add(step=step, agent=agent)  # They go on from the file, if any.
        checkpoint.save()

    A new file takes the place of the old one when it is whole; the old one stays, since
    a disk may return other bytes than were written. Ranks read and `save` at once.
    UsageError for a file that cannot be read or is old. Only `save` changes files."""

    def __init__(
        self, folder: Path, device: torch.device, step: Counter, ranks: Ranks = ALONE
    ):
        self.path = folder / CHECKPOINT
        self._previous = folder / PREVIOUS
        self._step, self._ranks = step, ranks
        self._parts: dict[str, Any] = {}
        self._damaged = False
        self._loaded = self._read(device)
        self.resumed = bool(self._loaded)
        self._is_new = self.resumed and not self._take_own(device)
        self.versions_changed = changed_versions(self._loaded.get("versions", {}))
        self._saved_step = self._loaded.get("step", {}).get("value")
        self._whole_step: int | None = None

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return self._saved_step or 0

    def add(self, **parts: Any) -> None:
        """Register what has state_dict and load_state_dict, and take it back to the
        file's state, if any; UsageError for one that is missing or does not fit."""
        for name, part in parts.items():
            self._parts[name] = part
            if not self.resumed or (self._is_new and name in OWN):
                continue
            if name not in self._loaded:
                raise UsageError(
                    f"The checkpoint {self.path} has no '{name}': it is of another "
                    "version; move it away to start anew from the episodes."
                )
            try:
                state = self._loaded.pop(name)
                if not isinstance(state, dict):
                    raise TypeError(f"it is a {type(state).__name__}, not a dict")
                if self._is_new and name == "agent":
                    state = {**part.state_dict(), **state}
                part.load_state_dict(state)
            except MISFITS as error:
                raise UsageError(
                    f"The part '{name}' of the checkpoint {self.path} does not fit "
                    f"this version of the program ({summary(error)}): move it away to "
                    "start anew from the episodes."
                ) from error

    def save(self) -> None:
        """Write the states of all parts; UsageError if that is impossible, or what a
        part raises that is not fit to be saved: then the one before is kept."""
        self._whole_step = None
        state = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"layout": LAYOUT, "versions": versions()}
        state |= self._gather_own(state)
        if not self._ranks.rank:
            self._set_aside() if self._damaged else self._keep_previous()
            statefile.save_checkpoint(self.path, state)
        self._ranks.gather(None)  # None goes on before it is written.
        self._damaged = False
        self._saved_step = self._whole_step = int(self._step)

    def _gather_own(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return {"ranks": {rank: its own state}} of the further ranks, if any."""
        if self._ranks.count == 1:
            return {}
        own = b""
        if self._ranks.rank:
            agent = {k: x for k, x in state["agent"].items() if k not in NETWORKS}
            parts = {name: state[name] for name in OWN}
            own = statefile.state_to_bytes({**parts, "agent": agent})
        return {"ranks": dict(list(enumerate(self._ranks.gather(own)))[1:])}

    def _take_own(self, device: torch.device) -> bool:
        """Put this rank's own state in the place of the first's; False without one."""
        saved, ranks = self._loaded.pop("ranks", {}), self._ranks
        if (before := 1 + len(saved)) != ranks.count:
            print(
                f"Saved by {before} and goes on with {ranks.count} processes: batches "
                "begin with new sequences and latents, further processes with random "
                "numbers and episodes of their own; no finished episode is lost."
            )
        if not ranks.rank:
            return True
        own = saved.get(ranks.rank)
        found = own and statefile.state_from_bytes(own, device)
        for name in OWN:
            self._loaded.pop(name, None)
        agent = self._loaded["agent"]
        self._loaded["agent"] = {name: agent[name] for name in NETWORKS}
        if found:
            self._loaded["agent"].update(found.pop("agent"))
            self._loaded.update(found)
        return bool(found)

    def whole(self) -> None:
        """Say that all parts belong together: until the step count goes on."""
        self._whole_step = int(self._step)

    @contextlib.contextmanager
    def saved_at_last(self) -> Iterator[None]:
        """Save before an exception leaves, if all parts belong together: between two
        steps, and while the environments make one (then these begin new episodes). They
        do not in the middle of an update, a write, a save, or an evaluation."""
        try:
            yield
        except Stopped:
            if self._worth_saving:
                self.save()
            raise
        except Exception:
            if self._worth_saving:
                self._try_to_save()
            else:
                print(f"Stopped in the middle of something, so {self._kept}.")
            raise

    @property
    def _worth_saving(self) -> bool:
        return self._whole_step == int(self._step) != self._saved_step

    @property
    def _kept(self) -> str:
        if self._saved_step is None:
            return "there is no checkpoint, but all finished episodes are kept"
        return f"the checkpoint of step {self._saved_step} is kept"

    def _try_to_save(self) -> None:
        try:
            self.save()
            print(f"Saved at step {int(self._step)}.", flush=True)
        except (UsageError, RunFailed) as error:
            print(f"Could not save ({summary(error)}), so {self._kept}.", flush=True)

    def _read(self, device: torch.device) -> dict[str, Any]:
        """Read the newest file that is whole; empty if there is none."""
        if not self.path.exists():
            return {}  # Who moved it away wants to start anew.
        try:
            loaded = statefile.load_checkpoint(self.path, device)
        except statefile.DamagedCheckpoint as error:
            try:
                loaded = statefile.load_checkpoint(self._previous, device)
            except UsageError:
                raise error from None
            self._damaged = True
            print(
                f"The checkpoint {self.path} cannot be loaded because {error.reason}, "
                f"so it is kept as {DAMAGED} and the run goes on from the one before, "
                f"{PREVIOUS}.",
                flush=True,
            )
        loaded = loaded if isinstance(loaded, dict) else {}
        if loaded.get("layout") != LAYOUT:
            version = loaded.get("versions", {}).get("dreamerv2", "unknown")
            raise UsageError(
                f"The checkpoint {self.path} was written by version {version} of "
                f"dreamerv2, and {__version__} cannot go on from it: go on with that "
                "version, or start another --logdir from its networks by --load "
                f"{self.path.parent}."
            )
        return loaded

    def _keep_previous(self) -> None:
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
        with writing(copy):
            shutil.copyfile(self.path, copy)


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the versions of what a run depends on, by package."""
    found = {"dreamerv2": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        found[name] = "unknown"  # So it stays for a copy of its sources.
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def changed_versions(before: Mapping[str, str]) -> str:
    """Return what had another version, as in "torch 2.6.0 -> 2.7.0"; or nothing."""
    now = versions()
    changed = [k for k in now if before.get(k, now[k]) != now[k]]
    return ", ".join(f"{k} {before[k]} -> {now[k]}" for k in changed)
