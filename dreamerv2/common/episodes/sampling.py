"""From episodes to batches: the rule for sequences, and batches prepared ahead."""

import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dreamerv2.common.episodes.episode import LATENT, Episode
from dreamerv2.common.episodes.npz import Arrays, EpisodeLostError

if TYPE_CHECKING:
    from dreamerv2.common.replay import Replay


def draw_sequence(
    rng: np.random.Generator, total: int, minlen: int, maxlen: int, ends: bool
) -> tuple[int, int]:
    """Draw (start, length) of a sequence from an episode of `total` transitions.

    The length is min(total, maxlen) less a uniform integer in [0, minlen), at least
    minlen: episodes of one length would otherwise end at the same place in all batches.
    To prioritize `ends`, the start is drawn from minlen more places, which all mean the
    last one possible. Needs total >= minlen; maxlen 0 is no limit."""
    length = min(total, maxlen) if maxlen else total
    length = max(minlen, length - int(rng.integers(minlen)))
    upper = total - length + 1 + (minlen if ends else 0)
    return min(int(rng.integers(upper)), total - length), length


class Span(NamedTuple):
    """Some transitions of an episode. `first`: a sequence begins with them."""

    episode: Episode
    start: int
    length: int
    first: bool


class Piece(NamedTuple):
    """A span and its episode's arrays when it was planned; None for those in a file."""

    span: Span
    arrays: Arrays | None


class Dataset:
    """Endless iterator over batches: dicts of new arrays (B, T, ...).

    Each row is a stream of its own: sequences one after another, of which the rest goes
    on in the same row of the next batch. With rows="stream" all are cut from one stream
    instead, so that the rest goes on in the next row. `is_first` is True where a
    sequence begins.

    When a batch is handed out (without `ahead`, when it is asked for), the next one is
    planned in the caller's thread: all that is random or looks at the replay. A
    background thread copies the arrays and applies `transform`. So batches depend on
    the seed and on what the replay held when they were planned, never on the timing of
    threads. Its errors are raised where the batch is asked for; but an episode whose
    file is lost is forgotten, and the rows that it was in start afresh."""

    def __init__(
        self,
        source: "Replay",
        batch: int,
        length: int,
        seed: list[int],
        transform: Callable[[Arrays], Any] | None,
        ahead: bool,
        rows: str,
    ) -> None:
        self._source, self._transform, self._ahead = source, transform, ahead
        self._batch, self._length, self._stream = batch, length, rows == "stream"
        self._rng = np.random.default_rng(seed)
        # What is left of each row's last sequence, after the planned batch.
        self._rests: list[Span | None] = [None] * batch
        # Rows of the next batch; None is a row that is still to be planned.
        self._rows: list[list[Piece] | None] = [None] * batch
        self._future: Future | None = None
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        # The thread knows the queue but not this object, which can thus be collected.
        weakref.finalize(self, self._jobs.put, None)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next batch; UsageError if there is no episode to draw from."""
        if self._closed:
            raise StopIteration
        if self._future is None:
            self._submit()
        while isinstance(error := self._future.exception(), EpisodeLostError):
            self._source.forget(error)
            for index, row in enumerate(self._rows):
                spans = [piece.span for piece in row or []] + [self._rests[index]]
                if any(span and span.episode.name == error.name for span in spans):
                    self._rows[index] = self._rests[index] = None
            self._submit()
        result = self._future.result()
        self._rows, self._future = [None] * self._batch, None
        if self._ahead:
            self._submit()
        return result

    def close(self) -> None:
        """End the background thread; the iterator has no more batches then."""
        self._closed = True
        self._jobs.put(None)
        if self._thread:
            self._thread.join(timeout=10)

    def state_dict(self) -> dict[str, Any]:
        """Return what decides which batches come next; given up episodes are None."""
        generator = self._rng.bit_generator.state
        return {
            "batch": self._batch,
            "length": self._length,
            "stream": self._stream,
            # As strings, because these integers have 128 bits.
            "random": {k: str(v) for k, v in generator["state"].items()},
            "random_rest": [generator["has_uint32"], generator["uinteger"]],
            "rests": [rest and _pack(rest) for rest in self._rests],
            "rows": [row and [_pack(p.span) for p in row] for row in self._rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: the same batches, of the same replay. Rows of
        lost episodes start afresh; all, if batch, length or rows changed."""
        self._rng.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {k: int(v) for k, v in state["random"].items()},
            "has_uint32": state["random_rest"][0],
            "uinteger": state["random_rest"][1],
        }
        self._future = None
        self._rests, self._rows = [None] * self._batch, [None] * self._batch
        shape = state["batch"], state["length"], state.get("stream", False)
        if shape != (self._batch, self._length, self._stream):
            return
        saved = zip(state["rests"], state["rows"], strict=True)
        for index, (rest, row) in enumerate(saved):
            spans = [self._unpack(span) for span in row or []]
            if None not in spans:
                self._rests[index] = rest and self._unpack(rest)
                self._rows[index] = [Piece(s, s.episode.arrays) for s in spans] or None

    def _submit(self) -> None:
        """Plan the rows that are not planned yet and have the batch copied."""
        for index, row in enumerate(self._rows):
            self._rows[index] = row or self._plan(index)
        if self._thread is None:
            work = {"target": _work, "args": (self._jobs,), "name": "dataset"}
            self._thread = threading.Thread(daemon=True, **work)
            self._thread.start()
        self._future = Future()
        job = self._future, self._rows, self._length, self._source.read
        self._jobs.put((*job, self._transform))

    def _plan(self, index: int) -> list[Piece]:
        """Return the pieces that fill a row, from the rest of its last sequence on."""
        row: list[Piece] = []
        room = self._length
        index = 0 if self._stream else index
        rest = self._rests[index]
        while room:
            span = rest or Span(*self._source.draw(self._rng), True)
            taken = min(span.length, room)
            left = span.length - taken
            rest = Span(span.episode, span.start + taken, left, False) if left else None
            row.append(Piece(span._replace(length=taken), span.episode.arrays))
            room -= taken
        self._rests[index] = rest
        return row

    def _unpack(self, packed: list) -> Span | None:
        name, start, length, first = packed
        episode = name and self._source.find(name)
        if not episode or not 0 <= start < start + length <= episode.total:
            return None
        return Span(episode, start, length, bool(first))


def stack(
    rows: list[list[Piece]], length: int, read: Callable[[Episode], Arrays]
) -> Arrays:
    """Copy planned rows into new arrays (B, T, ...), and latents before them (B, L)."""
    result: Arrays = {}
    latents: dict[int, np.ndarray] = {}
    for index, row in enumerate(rows):
        begin = 0
        for span, arrays in row:
            arrays = arrays or read(span.episode)
            if not result:
                shape = len(rows), length
                for key, value in arrays.items():
                    if key != LATENT:
                        result[key] = np.empty((*shape, *value.shape[1:]), value.dtype)
                firsts = result["is_first"] = np.zeros(shape, bool)
            if begin == 0 and LATENT in arrays:
                latents[index] = arrays[LATENT][span.start]
            end = begin + span.length
            for key, target in result.items():
                target[index, begin:end] = arrays[key][span.start :][: span.length]
            firsts[index, begin:end] = np.arange(span.length) < span.first
            begin = end
    if latents:
        none = np.zeros_like(next(iter(latents.values())))
        result[LATENT] = np.stack([latents.get(i, none) for i in range(len(rows))])
    return result


def _pack(span: Span) -> list:
    return [span.episode.name, span.start, span.length, int(span.first)]


def _work(jobs: queue.SimpleQueue) -> None:
    """Make batches in the background until a None says to stop."""
    while job := jobs.get():
        future, *planned, transform = job
        try:
            batch = stack(*planned)
            future.set_result(transform(batch) if transform else batch)
        except BaseException as error:  # Raised again by whoever asks for the batch.
            future.set_exception(error)
        # Do not keep episodes and batches in memory while waiting.
        job = future = planned = batch = None
