"""Episodes that a resumed run is going to play again."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dreamerv2.common.episodes.files import steps_in
from dreamerv2.common.episodes.npz import Arrays


class Ahead:
    """Files of episodes that were finished after the checkpoint that a run resumes.

    If the run goes on exactly, it finishes the same ones again: then they are in the
    replay at the same moments as before, and no second file is written. If it takes
    another way, they are episodes like any other, and none is lost.

    load: reads the arrays of a file; None if it is damaged.
    """

    def __init__(self, load: Callable[[str], Arrays | None]) -> None:
        self._load = load
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def hold(self, names: list[str], directory: Path) -> None:
        """Hold back these files, oldest first."""
        self._names = list(names)
        if names:
            steps = sum(map(steps_in, names))
            print(
                f"Holding back {len(names):,} episodes ({steps:,} steps) in "
                f"{directory} that were finished after the checkpoint, until the run "
                "has played them again or played others."
            )

    def take(self, arrays: Arrays) -> str | None:
        """The name of the oldest file with just these arrays, which leaves."""
        steps = len(arrays["is_first"]) - 1
        for name in [name for name in self._names if steps_in(name) == steps]:
            found = self._load(name)
            if found is None:
                self._names.remove(name)
            elif _equal(found, arrays):
                self._names.remove(name)
                return name
        return None

    def release(self) -> list[str]:
        """The names of all that are left, oldest first, which leave."""
        names, self._names = self._names, []
        return names


def _equal(left: Arrays, right: Arrays) -> bool:
    """To the last bit, so that NaN equals itself."""
    return left.keys() == right.keys() and all(
        value.dtype == right[key].dtype
        and value.shape == right[key].shape
        and np.array_equal(_bits(value), _bits(right[key]))
        for key, value in left.items()
    )


def _bits(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
