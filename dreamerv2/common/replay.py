"""Replay: collects transitions into episodes and hands out batches of sequences."""

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.episodes import (
    Arrays,
    Episode,
    EpisodeFiles,
    convert,
    difference,
    signature,
    steps_in,
    stored_keys,
)
from dreamerv2.common.errors import UsageError
from dreamerv2.common.sampling import Dataset, draw_sequence


class Replay:
    """Episodes on disk and in memory.

    Index t of an episode holds observation t and the action that led to it; index 0 is
    the reset, with a zero action. So an episode of n steps has n + 1 transitions. It is
    n that is in its file's name, counts in `stats` and is compared with minlen and
    capacity; sequences are cut from the n + 1 transitions.

    directory: holds one file per episode; those found there are loaded.
    capacity: steps to keep in memory; the oldest episodes leave it, but for the newest
      one, and their files stay. 0 is no limit.
    ongoing: draw sequences from unfinished episodes of at least minlen steps as well.
    minlen, maxlen: shortest and longest sequence, in transitions; maxlen 0 is no limit.
      Episodes of fewer than minlen steps are skipped.
    prioritize_ends: draw more sequences from the ends of episodes.
    seed: decides, with the episodes, what the datasets give.

    May be added to by one thread while another samples. UsageError for settings that
    cannot work, for a directory that cannot be used, and for data that does not fit.
    """

    def __init__(
        self,
        directory: str | Path,
        capacity: int = 0,
        ongoing: bool = False,
        minlen: int = 1,
        maxlen: int = 0,
        prioritize_ends: bool = False,
        seed: int = 0,
    ) -> None:
        if minlen < 1:
            raise UsageError(f"replay.minlen is {minlen}; it must be 1 or more.")
        if maxlen and maxlen < minlen:
            raise UsageError(
                f"replay.maxlen is {maxlen}; it must be 0 (no limit) or at least "
                f"replay.minlen, which is {minlen}."
            )
        if capacity < 0:
            raise UsageError(f"replay.capacity is {capacity}; it must be 0 or more.")
        self._files = EpisodeFiles(directory)
        self._capacity = capacity
        self._ongoing = ongoing
        self._minlen = minlen
        self._maxlen = maxlen
        self._prioritize_ends = prioritize_ends
        self._seed = seed % 2**63
        self._lock = threading.RLock()
        # Finished episodes in order of time are those from _head on: picking one and
        # forgetting the oldest are both O(1).
        self._episodes: list[Episode | None] = []
        self._head = 0
        self._by_name: dict[str, Episode] = {}
        self._unfinished: dict[int, Episode] = {}
        self._signature: dict[str, tuple] | None = None
        self._total_steps = 0
        self._total_episodes = 0
        self._loaded_steps = 0
        self._skipped = 0
        self._warned = False
        self._datasets: list[weakref.ref[Dataset]] = []
        self._dataset_states: list[dict[str, Any] | None] = []
        self._load()

    @property
    def stats(self) -> dict[str, int]:
        """Steps and episodes on disk (total) and in memory (loaded)."""
        return {
            "total_steps": self._total_steps,
            "total_episodes": self._total_episodes,
            "loaded_steps": self._loaded_steps,
            "loaded_episodes": len(self._episodes) - self._head,
        }

    def add_step(self, transition: Mapping[str, Any], worker: int = 0) -> None:
        """Add one transition; at is_last, its episode is saved and can be drawn from.

        An is_first while the worker has an unfinished episode drops that one, since
        nothing will ever finish it.
        """
        step = {k: convert(k, transition[k]) for k in stored_keys(transition)}
        missing = {"is_first", "is_last"} - step.keys()
        if missing:
            raise UsageError(f"The environment's steps lack {sorted(missing)}.")
        with self._lock:
            if step["is_first"]:
                self._begin(step, worker)
            elif worker not in self._unfinished:
                raise UsageError(
                    f"The first step of environment {worker} has is_first False; reset "
                    "it and add that step, which has is_first True, first."
                )
            episode = self._unfinished[worker]
            episode.append(step)
            if step["is_last"]:
                del self._unfinished[worker]
                self._add(episode)

    def add_episode(self, episode: Mapping[str, Any]) -> None:
        """Add a whole episode: per key an array (T, ...), T transitions."""
        arrays = {k: convert(k, episode[k]) for k in stored_keys(episode)}
        lengths = {k: v.shape[0] if v.ndim else 0 for k, v in arrays.items()}
        if "is_first" not in arrays or len(set(lengths.values())) != 1:
            raise UsageError(
                "An episode needs the key is_first and one length for all keys; it has "
                f"{lengths}."
            )
        with self._lock:
            self._check(arrays)
            self._add(Episode(arrays, lengths["is_first"]))

    def dataset(
        self,
        batch: int,
        length: int,
        transform: Callable[[Arrays], Any] | None = None,
    ) -> Dataset:
        """Endless iterator over batches (B, T, ...) of random sequences.

        Each dataset of a replay has random numbers of its own. `transform` is applied
        to each batch in a background thread. May be made while the replay is empty.
        """
        index = len(self._datasets)
        dataset = Dataset(self, batch, length, [self._seed, index], transform)
        self._datasets.append(weakref.ref(dataset))
        if index < len(self._dataset_states) and self._dataset_states[index]:
            dataset.load_state_dict(self._dataset_states[index])
        return dataset

    def state_dict(self) -> dict[str, Any]:
        """The states of all datasets, in plain types; episodes are in their files."""
        datasets = [ref() for ref in self._datasets]
        states = [dataset and dataset.state_dict() for dataset in datasets]
        return {"datasets": states + self._dataset_states[len(states) :]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the datasets, both those that exist and those made later."""
        self._dataset_states = list(state["datasets"])
        for ref, saved in zip(self._datasets, self._dataset_states, strict=False):
            dataset = ref()
            if dataset and saved:
                dataset.load_state_dict(saved)

    def draw(self, rng: np.random.Generator) -> tuple[Episode, int, int]:
        """Draw a sequence (episode, start, length); UsageError if there is none."""
        with self._lock:
            unfinished = []
            if self._ongoing:
                ordered = sorted(self._unfinished.items())
                unfinished = [e for _, e in ordered if e.steps >= self._minlen]
            finished = len(self._episodes) - self._head
            if not finished and not unfinished:
                raise UsageError(self._nothing_to_draw())
            index = int(rng.integers(finished + len(unfinished)))
            if index < finished:
                episode = self._episodes[self._head + index]
            else:
                episode = unfinished[index - finished]
            start, length = draw_sequence(
                rng, episode.total, self._minlen, self._maxlen, self._prioritize_ends
            )
            return episode, start, length

    def find(self, name: str) -> Episode | None:
        """A finished episode by its file's name, from memory or disk; None if gone."""
        with self._lock:
            if name in self._by_name:
                return self._by_name[name]
            if not self._files.has(name):
                return None
            arrays = self._files.load(name)
            self._report_aside()
            if arrays is None or signature(arrays) != self._signature:
                return None
            return Episode(arrays, steps_in(name) + 1, name)

    def _begin(self, step: Arrays, worker: int) -> None:
        dropped = self._unfinished.pop(worker, None)
        if dropped and not self._warned:
            self._warned = True
            print(
                f"Dropped an unfinished episode of {dropped.steps} steps, as its "
                "environment was reset (said once)."
            )
        self._check({k: v[None] for k, v in step.items()})
        self._unfinished[worker] = Episode()

    def _check(self, arrays: Arrays) -> None:
        """All episodes must have the same keys, types and shapes to be batched."""
        if self._signature is None:
            self._signature = signature(arrays)
        changed = difference(signature(arrays), self._signature)
        if changed:
            raise UsageError(
                "The environment does not fit the episodes in "
                f"{self._files.directory}: {changed}; choose another --logdir for "
                "another environment."
            )

    def _add(self, episode: Episode) -> None:
        if episode.steps < self._minlen:
            self._skipped += 1
            print(
                f"Skipped an episode of {episode.steps} steps, fewer than "
                f"replay.minlen, which is {self._minlen}."
            )
            return
        arrays = episode.trimmed()
        episode.finish(self._files.save(arrays), arrays)
        self._total_steps += episode.steps
        self._total_episodes += 1
        self._remember(episode)

    def _remember(self, episode: Episode) -> None:
        self._episodes.append(episode)
        self._by_name[episode.name] = episode
        self._loaded_steps += episode.steps
        while self._capacity and self._loaded_steps > self._capacity:
            if len(self._episodes) - self._head == 1:
                break
            oldest = self._episodes[self._head]
            self._episodes[self._head] = None
            self._head += 1
            self._loaded_steps -= oldest.steps
            del self._by_name[oldest.name]
        if self._head > 1000 and self._head > len(self._episodes) // 2:
            del self._episodes[: self._head]
            self._head = 0

    def _load(self) -> None:
        """Load the newest episodes up to capacity, and count all."""
        names = self._files.scan()
        waiting = [name for name in names if steps_in(name) >= self._minlen]
        episodes, bad = [], set()
        room = self._capacity or float("inf")
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            while chosen := _newest(waiting, room, not episodes):
                loaded = pool.map(self._files.load, chosen)
                for name, arrays in zip(chosen, loaded, strict=True):
                    if not self._fits(name, arrays):
                        bad.add(name)
                        continue
                    episodes.append(Episode(arrays, steps_in(name) + 1, name))
                    room -= episodes[-1].steps
        for episode in reversed(episodes):
            self._remember(episode)
        kept = [steps_in(name) for name in names if name not in bad]
        self._total_steps, self._total_episodes = sum(kept), len(kept)
        self._report(len(names) - len(waiting) - len(episodes) - len(bad))

    def _fits(self, name: str, arrays: Arrays | None) -> bool:
        """Whether a loaded file is whole and like the newest one."""
        if arrays is None:
            return False
        if self._signature is None:
            self._signature = signature(arrays)
        changed = difference(signature(arrays), self._signature)
        if changed:
            self._files.aside.append((name, changed))
        return not changed

    def _report(self, short: int) -> None:
        stats = self.stats
        if stats["total_episodes"]:
            print(
                f"Loaded {stats['loaded_episodes']:,} of {stats['total_episodes']:,} "
                f"episodes ({stats['loaded_steps']:,} of {stats['total_steps']:,} "
                f"steps) from {self._files.directory}"
                + (f"; {short} are shorter than replay.minlen." if short else ".")
            )
        self._report_aside()

    def _report_aside(self) -> None:
        """Say once which files were damaged or foreign."""
        aside = [f"{name} ({reason})" for name, reason in sorted(self._files.aside)]
        self._files.aside.clear()
        if aside:
            more = f" and {len(aside) - 5} more" if len(aside) > 5 else ""
            print(
                f"Set aside {len(aside)} files in {self._files.directory} that are "
                f"damaged or foreign: {', '.join(aside[:5])}{more}."
            )

    def _nothing_to_draw(self) -> str:
        unfinished = [episode.steps for episode in self._unfinished.values()]
        return (
            f"The replay in {self._files.directory} has 0 episodes to draw from "
            f"({self._total_episodes} on disk with {self._total_steps} steps, "
            f"{self._skipped} skipped as too short, {len(unfinished)} unfinished with "
            f"{sum(unfinished)} steps); it needs one finished episode of at least "
            f"{self._minlen} steps (replay.minlen): collect more steps or set "
            "replay.minlen lower."
        )


def _newest(waiting: list[str], room: float, none_yet: bool) -> list[str]:
    """Take from the end of `waiting` what fits into `room`, or one if none_yet.

    At most 256 at once, so that damaged ones among them can be made up for.
    """
    chosen: list[str] = []
    while waiting and len(chosen) < 256:
        steps = steps_in(waiting[-1])
        if steps > room and (chosen or not none_yet):
            break
        room -= steps
        chosen.append(waiting.pop())
    return chosen
