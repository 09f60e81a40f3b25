"""Replay: collects transitions into episodes and hands out batches of sequences."""

import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.episodes.episode import Episode, convert, stored_keys
from dreamerv2.common.episodes.npz import Arrays, EpisodeLostError, from_bytes, to_bytes
from dreamerv2.common.episodes.sampling import Dataset, draw_sequence
from dreamerv2.common.episodes.store import Store
from dreamerv2.common.errors import UsageError


class Replay:
    """Episodes on disk and in memory, with the settings `replay` of configs.yaml.

    Index t of an episode holds observation t and the action that led to it; index 0 is
    the reset, with a zero action. Sequences are cut from the n + 1 transitions of an
    episode of n steps; n is in its file's name, `stats`, minlen and capacity. The
    directory holds a file per episode; those found there are loaded. With storage
    `memory` all are read at once, and files compressed; with `disk` they are mapped, as
    large as the memory would be (Atari: 4 GB per million steps). Several threads may
    add while others sample. UsageError for what does not fit."""

    def __init__(
        self,
        directory: str | Path,
        capacity: int = 0,
        ongoing: bool = False,
        minlen: int = 1,
        maxlen: int = 0,
        prioritize_ends: bool = False,
        seed: int = 0,
        storage: str = "memory",
        disk_capacity: int = 0,
    ) -> None:
        if 0 < maxlen < minlen:
            raise UsageError(
                f"replay.maxlen is {maxlen}; it must be 0 (no limit) or at least "
                f"replay.minlen, which is {minlen}."
            )
        mapped = storage == "disk"
        self._store = Store(directory, capacity, minlen, mapped, disk_capacity)
        self.read = self._store.read
        self._ongoing = ongoing
        self._minlen = minlen
        self._rule = minlen, maxlen, prioritize_ends  # Of sequences.
        self._seed = seed % 2**63
        self._lock = threading.RLock()
        self._unfinished: dict[int, Episode] = {}
        self._skipped = 0
        self._datasets: list[weakref.ref[Dataset]] = []
        self._dataset_states: list[dict[str, Any] | None] = []

    @property
    def stats(self) -> dict[str, int]:
        """Steps and episodes on disk (total) and to draw from (loaded); those that
        `load_state_dict` holds back do not count."""
        return {
            "total_steps": self._store.total_steps,
            "total_episodes": self._store.total_episodes,
            "loaded_steps": self._store.recent.steps,
            "loaded_episodes": len(self._store.recent),
        }

    def add_step(self, transition: Mapping[str, Any], worker: int = 0) -> None:
        """Add one transition: is_last saves its episode, is_first drops an open one."""
        step = {k: convert(k, transition[k]) for k in stored_keys(transition)}
        if missing := {"is_first", "is_last"} - step.keys():
            raise UsageError(f"The environment's steps lack {sorted(missing)}.")
        with self._lock:
            if step["is_first"]:
                if dropped := self._unfinished.pop(worker, None):
                    dropped.name = None
                self._store.check({k: v[None] for k, v in step.items()})
                self._unfinished[worker] = Episode(name=f"unfinished-{worker}")
            elif worker not in self._unfinished:
                raise UsageError(
                    f"The first step of environment {worker} has is_first False; reset "
                    "it and add that step, which has is_first True, first."
                )
            episode = self._unfinished[worker]
            episode.append(step)
            if step["is_last"]:
                # If the disk is full, it stays here, and state_dict can save it.
                self._add(episode)
                del self._unfinished[worker]

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
            self._store.check(arrays)
            self._add(Episode(arrays, lengths["is_first"]))

    def dataset(
        self,
        batch: int,
        length: int,
        transform: Callable[[Arrays], Any] | None = None,
        ahead: bool = True,
        rows: str = "rows",
    ) -> Dataset:
        """Return an endless iterator over batches (B, T, ...) of random sequences, to
        which a background thread applies `transform`: `ahead` of being asked for, or
        then, for the newest episodes. rows: `stream` cuts all rows from one stream of
        sequences; else each has its own."""
        with self._lock:
            seed = [self._seed, len(self._datasets)]
            dataset = Dataset(self, batch, length, seed, transform, ahead, rows)
            saved = self._dataset_states[len(self._datasets) :]
            self._datasets.append(weakref.ref(dataset))
            if saved and saved[0]:
                dataset.load_state_dict(saved[0])
            return dataset

    def state_dict(self) -> dict[str, Any]:
        """Return all that is not in files, in plain types."""
        with self._lock:
            datasets = [ref() for ref in self._datasets]
            states = [dataset and dataset.state_dict() for dataset in datasets]
            unfinished = sorted(self._unfinished.items())
            return {
                "datasets": states + self._dataset_states[len(states) :],
                "newest": self._store.newest,
                "totals": [self._store.total_episodes, self._store.total_steps],
                "unfinished": [[i, to_bytes(x.trimmed())] for i, x in unfinished],
            }

    def load_state_dict(self, state: dict[str, Any], unfinished: bool = False) -> None:
        """Restore the datasets, both those that exist and those made later.

        With `unfinished` the environments go on where `state` was taken, in
        mid-episode, and episodes finished later are held back until one of the same
        contents is finished, or any other. Batches are then bit-identical to those of a
        run never stopped, if no episode was dropped or removed while it was drawn from.
        Else unfinished ones are given up."""
        with self._lock:
            self._unfinished.clear()
            if "newest" in state:
                if unfinished:
                    self._store.go_back(state["newest"])
                self._store.compare(state["newest"], *state["totals"])
                for worker, content in state["unfinished"]:
                    arrays = from_bytes(content, convert).arrays
                    self._store.check(arrays)
                    total, name = len(arrays["is_first"]), f"unfinished-{worker}"
                    episode = Episode(arrays, total, name)
                    if arrays["is_last"][-1]:
                        self._add(episode)  # It was finished, and could not be written.
                    elif unfinished:
                        self._unfinished[worker] = episode
            self._dataset_states = list(state["datasets"])
            for ref, saved in zip(self._datasets, self._dataset_states, strict=False):
                dataset = ref()
                if dataset and saved:
                    dataset.load_state_dict(saved)

    def draw(self, rng: np.random.Generator) -> tuple[Episode, int, int]:
        """Draw a sequence (episode, start, length); UsageError if there is none."""
        with self._lock:
            ordered = sorted(self._unfinished.items()) if self._ongoing else ()
            unfinished = [e for _, e in ordered if e.steps >= self._minlen]
            recent = self._store.recent
            if not len(recent) and not unfinished:
                store, steps = self._store, [e.steps for e in self._unfinished.values()]
                raise UsageError(
                    f"The replay in {store.directory} has 0 episodes to draw from "
                    f"({store.total_episodes} on disk with {store.total_steps} steps, "
                    f"{self._skipped} skipped as too short, {len(steps)} unfinished "
                    f"with {sum(steps)} steps); it needs one finished episode of at "
                    f"least {self._minlen} steps (replay.minlen): collect more steps "
                    "or set replay.minlen lower."
                )
            index = int(rng.integers(len(recent) + len(unfinished))) - len(recent)
            episode = recent[index] if index < 0 else unfinished[index]
            return episode, *draw_sequence(rng, episode.total, *self._rule)

    def find(self, name: str) -> Episode | None:
        """Return an episode, to draw from or on disk only; None if it is gone."""
        with self._lock:
            unfinished = {e.name: e for e in self._unfinished.values()}
            return unfinished.get(name) or self._store.find(name)

    def forget(self, error: EpisodeLostError) -> None:
        """Draw no more from an episode whose file turned out to be lost; say so."""
        with self._lock:
            self._store.forget(error)

    def _add(self, episode: Episode) -> None:
        if episode.steps >= self._minlen:
            return self._store.add(episode)
        self._skipped += 1
        episode.name = None
        if str(self._skipped).strip("0") == "1":  # The first, the 10th, the 100th.
            print(
                f"Skipped {self._skipped:,} of the episodes so far, as they have fewer "
                f"than replay.minlen, {self._minlen}, steps; the last one has "
                f"{episode.steps}."
            )
