"""A recording of the reference's numbers, and the noise in it."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamerv2.common.errors import UsageError


class Recording(Mapping[str, np.ndarray]):
    """The arrays of one .npz file, by name.

    Raises UsageError for a file that is missing or no archive of plain arrays.
    """

    def __init__(self, path: str | Path):
        try:
            with np.load(path, allow_pickle=False) as file:
                self._arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"{path} cannot be read as an .npz file of arrays ({error}): copy it "
                "again from where it came from."
            ) from error

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays under ``prefix/``, by the rest of their names."""
        start = prefix + "/"
        return {k[len(start) :]: v for k, v in self.items() if k.startswith(start)}

    def count(self, prefix: str) -> int:
        """Count ``prefix0/``, ``prefix1/``, ... up to the first gap."""
        number = 0
        while self.group(f"{prefix}{number}"):
            number += 1
        return number

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(str(self["config"]))


class RecordedNoise:
    """Takes the place of noise.Noise in an agent: draws what the reference drew.

    Set ``stage`` to say what the agent is doing: ``update0``, ``policy3``, ``report``.
    Raises ValueError for a draw that was not recorded, or was of another kind or
    shape.

    Args:
      kinds: the kind of noise by the last part of a draw's name.
      members: number of ensemble members; a recorded pick of one may be its index.
    """

    def __init__(
        self,
        recording: Recording,
        kinds: Mapping[str, str],
        members: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.stage = ""
        self._recording = recording
        self._kinds = kinds
        self._members = members
        self._dtype = dtype
        self._device = device

    def __call__(self, name: str, kind: str, shape: Sequence[int]) -> Tensor:
        scope, _, last = name.rpartition("/")
        if kind != self._kinds.get(last, kind):
            raise ValueError(
                f"'{name}' was recorded as {self._kinds[last]} noise, but {kind} noise "
                "was asked for."
            )
        stored = self._find(self._folder(scope), last, tuple(shape))
        if stored.dtype.kind in "iu":
            stored = (stored + 0.5) / self._members
        return torch.as_tensor(stored).to(self._device, self._dtype)

    def _folder(self, scope: str) -> str:
        if self.stage.startswith("policy"):
            return self.stage.replace("policy", "policy/noise")
        if self.stage == "report" or not scope:
            return f"{self.stage}/noise"
        return f"{self.stage}/{scope}/noise"

    def _find(self, folder: str, name: str, shape: tuple) -> np.ndarray:
        """Return the recorded draw. One whose name is unknown is found by its shape."""
        group = self._recording.group(folder)
        if name in group:
            if group[name].shape == shape:
                return group[name]
            found = f"of shape {group[name].shape}"
        else:
            known = [*self._kinds, "observe_prior", "prior"]
            fits = [v for k, v in group.items() if k not in known and v.shape == shape]
            if len(fits) == 1:
                return fits[0]
            found = f"among {sorted(group)}"
        raise ValueError(
            f"Noise '{name}' of shape {shape} was asked for, but {folder} was recorded "
            f"with one {found}."
        )

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """There is nothing to restore: the stage is set from outside."""
