"""The finished episodes of a replay: files, what is in memory of them, and counts."""

import contextlib
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreamerv2.common.episodes.episode import Episode, difference, signature
from dreamerv2.common.episodes.files import EpisodeFiles, steps_in
from dreamerv2.common.episodes.index import Signature
from dreamerv2.common.episodes.npz import Arrays, EpisodeLostError, Reader
from dreamerv2.common.episodes.retention import DiskLimit, Recent
from dreamerv2.common.errors import UsageError


class Store:
    """Finished episodes of at least minlen steps, in order of time; see `Replay`.

    `recent` are the episodes to draw from; the totals count what is on disk, too, but
    for what is held back: files that were finished after the checkpoint of a run that
    goes on exactly. It finishes the same ones again: they come in at the same moments
    as before, and no second file is written. If it takes another way, they are like any
    other.

    Only `read` is thread-safe. In memory, all is read and checked at once: two million
    Atari steps in ten seconds. Mapped files are checked when first drawn from."""

    def __init__(
        self,
        directory: str | Path,
        capacity: int,
        minlen: int,
        mapped: bool,
        disk_capacity: int,
    ) -> None:
        self.total_steps = self.total_episodes = 0
        self.newest = ""  # The name of the newest episode that counts.
        self.recent = Recent(capacity)
        self._files = EpisodeFiles(directory, compress=not mapped)
        self.directory = self._files.directory
        self._reader = Reader(self._files.open)
        self.read = self._reader.read
        self._capacity, self._minlen, self._mapped = capacity, minlen, mapped
        self._limit = DiskLimit(self.directory, disk_capacity, self._remove_oldest)
        self._held_back: list[str] = []  # Names, oldest first.
        # Whatever somebody may be about to read from a file, by name.
        self._in_use = weakref.WeakValueDictionary[str, Episode]()
        self._signature: Signature | None = None
        self._bad: set[str] = set()  # Files that are there and of no use.
        self._told: set[str] = set()  # Those that were named already.
        names = self._load()
        if names:
            short = sum(steps_in(name) < minlen for name in names)
            ending = f"; {short} are shorter than replay.minlen." if short else "."
            print(
                f"Loaded {len(self.recent):,} of {self.total_episodes:,} episodes "
                f"({self.recent.steps:,} of {self.total_steps:,} steps) from "
                f"{self.directory}{ending}"
            )
        self._report_aside()
        self._limit.start(names)

    def check(self, arrays: Arrays) -> None:
        """Raise UsageError unless keys, types and shapes are those of the others."""
        self._signature = self._signature or signature(arrays)
        if changed := difference(signature(arrays), self._signature):
            raise UsageError(
                f"The environment does not fit the episodes in {self.directory}: "
                f"{changed}; choose another --logdir for another environment."
            )

    def add(self, episode: Episode) -> None:
        """Save an episode, or take the file held back with its contents; UsageError."""
        arrays = episode.trimmed()
        name = self._take_held_back(arrays)
        self._report_aside()
        if name is None:
            self._release()
            name = self._files.save(arrays)
        episode.finish(name, self._mapped)
        self._count(episode)

    def find(self, name: str) -> Episode | None:
        """Return an episode, to draw from or on disk only; None if it is gone."""
        episode = self.recent.get(name) or self._in_use.get(name)
        if episode is None and self._files.has(name):
            episode = self._fitting(*self._open(name))
            self._report_aside()
        return episode

    def forget(self, error: EpisodeLostError) -> None:
        """Draw no more from an episode whose file turned out to be lost; say so."""
        if error.name in self._bad:
            return
        self._bad.add(error.name)
        self._files.set_aside(error)
        self._limit.forget(error.name)
        self._discount(error.name)
        self._report_aside()

    def go_back(self, newest: str) -> None:
        """Hold back the episodes after the one of that name."""
        if self.newest <= newest:
            return
        self._limit.start(self._load(newest))
        ahead = [name for name in self._names() if name > newest]
        ahead = [name for name in ahead if steps_in(name) >= self._minlen]
        self._held_back = ahead
        if ahead:
            print(
                f"Holding back {len(ahead):,} episodes ({sum(map(steps_in, ahead)):,} "
                f"steps) in {self.directory} that were finished after the checkpoint, "
                "until the run has played them again or played others."
            )
        self._report_aside()

    def compare(self, newest: str, episodes: int, steps: int) -> None:
        """Say so if there are fewer episodes than when a state was taken."""
        lost = episodes - sum(name <= newest for name in self._names())
        if lost > 0 and not self._limit.capacity:
            print(
                f"Of the {episodes:,} episodes ({steps:,} steps) that the checkpoint "
                f"knows in {self.directory}, {lost:,} are gone or damaged; the run "
                "goes on without them."
            )

    def _names(self) -> list[str]:
        """Return the names of all files that are of use, oldest first."""
        return [name for name in self._files.scan() if name not in self._bad]

    def _count(self, episode: Episode) -> None:
        self.total_steps += episode.steps
        self.total_episodes += 1
        self.newest = max(self.newest, episode.name)
        self.recent.add(episode)
        self._in_use[episode.name] = episode
        self._limit.add(episode.name)

    def _remove_oldest(self, name: str) -> None:
        """Delete a file, once nobody needs it any more to make a batch."""
        episode = self._in_use.get(name)
        if episode and episode.arrays is None:
            # A file that is mapped can be read until nobody holds it. If it is lost,
            # whoever reads it next will find out.
            with contextlib.suppress(EpisodeLostError):
                episode.arrays = self._reader.read(episode)
        self._files.remove(name)
        self._discount(name)

    def _discount(self, name: str) -> None:
        self._reader.close(name)
        self.recent.remove(name)
        self.total_steps -= steps_in(name)
        self.total_episodes -= 1

    def _take_held_back(self, arrays: Arrays) -> str | None:
        """Let go of the oldest file held back with these arrays; return its name."""
        for name in list(self._held_back):
            if steps_in(name) == len(arrays["is_first"]) - 1:
                found = self._files.load(name)
                same = found is not None and _equal(found, arrays)
                if found is None or same:
                    self._held_back.remove(name)
                if same:
                    return name
        return None

    def _release(self) -> None:
        """Take what is held back for episodes like any other."""
        names, self._held_back = self._held_back, []
        for name in names:
            if episode := self._fitting(*self._open(name)):
                self._count(episode)
        if names:
            print(
                "The run took another way than before it was stopped: the "
                f"{len(names):,} episodes of {self.directory} held back count, too."
            )
            self._report_aside()

    def _load(self, until: str | None = None) -> list[str]:
        """Load the newest episodes up to `until`; count all, and return their names."""
        names = [name for name in self._names() if until is None or name <= until]
        waiting = [name for name in names if steps_in(name) >= self._minlen]
        episodes: list[Episode] = []
        room = self._capacity or float("inf")
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chosen := _newest(waiting, room, not episodes):
                for opened in pool.map(self._open, chosen):
                    if episode := self._fitting(*opened):
                        episodes.append(episode)
                        room -= episode.steps
        self.recent = Recent(self._capacity)
        for episode in reversed(episodes):
            self.recent.add(episode)
        self._files.index.settle()
        names = [name for name in names if name not in self._bad]
        self.total_steps, self.total_episodes = sum(map(steps_in, names)), len(names)
        self.newest = names[-1] if names else ""
        return names

    def _open(self, name: str) -> tuple[str, Episode | None, Signature | None]:
        """Return an episode and its signature, from memory, its file or the index."""
        if episode := self.recent.get(name) or self._in_use.get(name):
            return name, episode, self._signature
        found, arrays = self._files.trusted(name) if self._mapped else None, None
        if found is None:
            if (arrays := self._files.load(name)) is None:
                return name, None, None
            found = signature(arrays)
        kept = None if self._mapped else arrays
        return name, Episode(kept, steps_in(name) + 1, name), found

    def _fitting(
        self, name: str, episode: Episode | None, found: Signature | None
    ) -> Episode | None:
        """Return an opened episode if its file is whole and like the newest one."""
        if episode:
            self._signature = self._signature or found
            if not (changed := difference(found, self._signature)):
                self._in_use[name] = episode
                return episode
            self._files.aside.append((name, changed))
        self._bad.add(name)
        return None

    def _report_aside(self) -> None:
        """Say once which files were damaged or foreign."""
        fresh = [item for item in self._files.aside if item[0] not in self._told]
        self._files.aside.clear()
        self._told.update(name for name, _ in fresh)
        if fresh:
            aside = [f"{name} ({reason})" for name, reason in sorted(fresh)[:5]]
            more = f" and {len(fresh) - 5} more" if len(fresh) > 5 else ""
            print(
                f"Set aside {len(fresh)} files in {self.directory} that are damaged or "
                f"foreign: {', '.join(aside)}{more}."
            )


def _equal(left: Arrays, right: Arrays) -> bool:
    """Compare to the last bit, so that NaN equals itself."""
    same = signature(left) == signature(right) and left.keys() == right.keys()
    return same and all(v.tobytes() == right[k].tobytes() for k, v in left.items())


def _newest(waiting: list[str], room: float, none_yet: bool) -> list[str]:
    """Take from the end of `waiting` what fits into `room`, or one if none_yet; at most
    256 at once, so that damaged ones among them can be made up for."""
    chosen: list[str] = []
    while waiting and len(chosen) < 256:
        steps = steps_in(waiting[-1])
        if steps > room and (chosen or not none_yet):
            break
        room -= steps
        chosen.append(waiting.pop())
    return chosen
