"""Which episodes a replay keeps: to draw from, and on disk."""

import bisect
from collections.abc import Callable
from pathlib import Path

from dreamerv2.common.episodes.episode import Episode
from dreamerv2.common.episodes.files import steps_in


class Recent:
    """The newest finished episodes, in order of time, which is that of their names; the
    oldest leave beyond `capacity` steps (0: no limit), never the newest one."""

    def __init__(self, capacity: int) -> None:
        self.steps, self._capacity = 0, capacity
        self._episodes: list[Episode] = []
        self._by_name: dict[str, Episode] = {}

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, index: int) -> Episode:
        return self._episodes[index]

    def get(self, name: str) -> Episode | None:
        """Return the episode of that file name, if it is here."""
        return self._by_name.get(name)

    def add(self, episode: Episode) -> None:
        """Put an episode to its place; let the oldest leave."""
        bisect.insort(self._episodes, episode, key=lambda e: e.name)
        self._by_name[episode.name] = episode
        self.steps += episode.steps
        while self._capacity and self.steps > self._capacity and len(self) > 1:
            self.remove(self[0].name)

    def remove(self, name: str) -> None:
        """Forget an episode, if it is here."""
        if episode := self._by_name.pop(name, None):
            self.steps -= episode.steps
            at = bisect.bisect_left(self._episodes, name, key=lambda e: e.name)
            del self._episodes[at]


class DiskLimit:
    """Removes the oldest files beyond `capacity` steps (0: no limit), and says so."""

    def __init__(
        self, directory: Path, capacity: int, remove: Callable[[str], None]
    ) -> None:
        self._directory, self.capacity, self._remove = directory, capacity, remove
        self._names: list[str] = []
        self._steps = 0
        self._removed = self._removed_steps = 0

    def start(self, names: list[str]) -> None:
        """Begin with these files, oldest first."""
        self._names = list(names)
        self._steps = sum(map(steps_in, names))
        self._prune()

    def add(self, name: str) -> None:
        """Count one more file."""
        if self.capacity:
            bisect.insort(self._names, name)
            self._steps += steps_in(name)
            self._prune()

    def forget(self, name: str) -> None:
        """Count a file as gone."""
        if name in self._names:
            self._names.remove(name)
            self._steps -= steps_in(name)

    def _prune(self) -> None:
        before = self._removed
        while self._steps > self.capacity > 0 and len(self._names) > 1:
            name = self._names[0]
            try:
                self._remove(name)
            except OSError as error:
                print(
                    f"Cannot remove the oldest episodes from {self._directory} "
                    f"({error.strerror}), though replay.disk_capacity is "
                    f"{self.capacity:,} steps; they all stay from now on."
                )
                self.capacity = 0
                break
            self.forget(name)
            self._removed += 1
            self._removed_steps += steps_in(name)
        if self._removed and len(str(self._removed)) > (before and len(str(before))):
            print(
                f"Removed {self._removed:,} of the oldest episodes "
                f"({self._removed_steps:,} steps) from {self._directory}, as "
                f"replay.disk_capacity is {self.capacity:,} steps."
            )
