"""Rounds of acting: each rank plays by itself, then all hear what the others did. So
they make the same updates, and save and stop at the same moment."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dreamerv2.common.device.ranks import RankLost, Ranks
from dreamerv2.common.driver import Policy
from dreamerv2.common.errors import summary
from dreamerv2.running.checkpoint import Checkpoint
from dreamerv2.running.collector import Collector
from dreamerv2.running.signals import Stopped, StopSignals

# Gets episodes, this rank's own first, and sums over the stats of all replays.
OnEpisodes = Callable[[list[dict[str, Any]], dict[str, int]], None]


@dataclass
class Heard:
    """What all ranks said at the end of a round: sums, and the signal that came."""

    steps: int = 0
    ended: int = 0  # Episodes.
    failed: int = 0
    stopped: int = 0
    late: int = 0  # Whether it is time to save, by the clock of the first rank.
    signal: int = 0


class Rounds:
    """Plays by a collector, in rounds if there are several ranks: then `on_episodes` is
    called at the first, after a round in which episodes ended."""

    def __init__(
        self,
        collector: Collector,
        checkpoint: Checkpoint,
        stop: StopSignals,
        save_every: float,
        on_episodes: OnEpisodes,
        ranks: Ranks,
    ):
        self._collector, self._checkpoint, self._stop = collector, checkpoint, stop
        self._save_every, self._on_episodes = save_every, on_episodes
        self._ranks = ranks
        self._ended: list[dict[str, Any]] = []
        self._heard = Heard()
        self.saved()

    def __call__(self, policy: Policy, **until: int) -> None:
        """Play by this policy, as Driver does; then count and learn from all steps.
        Raises what the collector raises, RankLost for another's: all can save then."""
        if self._ranks.count == 1:
            self._collector(policy, **until)
            return
        made, failure = self._collector.made, None
        try:
            self._collector(policy, **until)
        except Exception as error:  # Raised again when all know.
            failure = error
        self._heard = heard = Heard(
            *self._ranks.sum(
                self._collector.made - made,
                len(self._ended),
                failure is not None,
                self._stop.received is not None,
                self._ranks.rank == 0 and self._is_late(),
            )
        )
        if heard.failed:
            self._fail(failure)
        if heard.stopped:
            received = self._ranks.gather(self._stop.received)
            heard.signal = next(number for number in received if number)
        self._collector.count(heard.steps)
        if heard.ended:
            self._show_episodes()

    def keep_episode(self, ep: dict[str, Any], worker: int) -> None:
        """Keep an episode until the end of the round."""
        self._ended.append(ep)

    def check_stop(self) -> None:
        """Raise Stopped after a signal; with several ranks, when all know of it."""
        if self._ranks.count == 1:
            self._stop.check()
        elif self._heard.signal:
            raise Stopped(self._heard.signal)

    def is_save_due(self) -> bool:
        """Return whether it is time to save."""
        return bool(self._heard.late) if self._ranks.count > 1 else self._is_late()

    def saved(self) -> None:
        """Say that all was saved just now."""
        self._saved = time.monotonic()

    def _is_late(self) -> bool:
        return time.monotonic() - self._saved > self._save_every

    def _fail(self, failure: Exception | None) -> None:
        self._collector.count(self._heard.steps, learn=False)
        self._checkpoint.whole()
        told = self._ranks.gather(failure and summary(failure))
        rank = next(index for index, said in enumerate(told) if said)
        raise failure or RankLost(f"Process {rank} has failed ({told[rank]}).")

    def _show_episodes(self) -> None:
        ended, self._ended = self._ended, []
        stats = self._collector.replay.stats
        told = self._ranks.gather((ended if self._ranks.rank else [], stats))
        if self._ranks.rank == 0:
            sums = {key: sum(each[key] for _, each in told) for key in stats}
            self._on_episodes(sum((each for each, _ in told), ended), sums)
