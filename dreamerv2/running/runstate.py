"""What a checkpoint of a run holds, and at which moments it may be written."""

import enum
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dreamerv2.common.counter import Counter
from dreamerv2.common.driver import Driver
from dreamerv2.common.errors import RunFailed, UsageError
from dreamerv2.common.replay import Replay
from dreamerv2.common.torchutils import named_tensors
from dreamerv2.running.environments import Environments, summary
from dreamerv2.running.saves import Saves, changed_versions, restore_random_states
from dreamerv2.running.signals import Stopped
from dreamerv2.running.watch import Watch, all_finite

# What a part may raise for a state that is not built as it should be.
MISFITS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)

# Parts that some checkpoints lack, as those of earlier versions or of training that
# was not asynchronous; a run can begin them anew.
NEWER = ("metrics", "eval_noise", "acting")


class Moment(enum.Enum):
    """Where in its loop a run is: what of its state belongs together."""

    STILL = "between two steps"
    ACTING = "while the environments made a step"  # And nothing yet came of it.
    CHANGING = "in the middle of an update, an evaluation or a write"


@dataclass(frozen=True)
class World:
    """What the agent learns from and is judged by.

    Environments and driver of training are restored together or not at all.
    """

    train_envs: Environments
    train_driver: Driver
    train_replay: Replay
    eval_envs: Environments
    eval_replay: Replay


class RunState:
    """The state of a run, to be saved and to be gone on with.

    Args:
      saves: where it is written to and read from.
      parts: name -> what has state_dict and load_state_dict, and changes no file.
      step: the step count, one of the parts.
      watch: is asked before each save whether the numbers are finite.

    `world` is to be set before `save` and `restore_world`, and `more`, which gives
    further values for a checkpoint, and `settle`, which waits until nothing changes.
    """

    def __init__(
        self, saves: Saves, parts: Mapping[str, Any], step: Counter, watch: Watch
    ):
        self.moment = Moment.STILL
        self.world: World | None = None
        self.more: Callable[[], dict[str, Any]] = dict
        self.settle: Callable[[], None] = lambda: None
        self._saves = saves
        self._parts = dict(parts)
        self._step = step
        self._watch = watch
        self._saved: int | None = None  # The last checkpoint's step.
        self._saving = False

    @contextmanager
    def at(self, moment: Moment) -> Iterator[None]:
        """Within it, that is the moment; an exception leaves it as it is."""
        self.moment = moment
        yield
        self.moment = Moment.STILL

    def save(self, exact: bool = True) -> None:
        """Write a checkpoint.

        exact: False leaves out environments and driver, which are in the middle of a
          step: they begin new episodes when the run goes on.

        Raises RunFailed for numbers that are not finite, UsageError if it cannot be
        written; the checkpoint that was there is kept.
        """
        self._saving = True
        moment, self.moment = self.moment, Moment.CHANGING
        self.settle()
        self.moment = moment
        self._watch.check(int(self._step))
        state = {name: part.state_dict() for name, part in self._parts.items()}
        if not all_finite(named_tensors(state["agent"]).values()):
            raise RunFailed(
                f"Some parameters are not finite at step {self._step}, so the run ends "
                f"and {self._kept()}: go on from there with a lower learning rate or "
                "--precision 32."
            )
        world = self.world
        state |= {
            "train_replay": world.train_replay.state_dict(),
            "eval_replay": world.eval_replay.state_dict(),
            "train_envs": world.train_envs.state_dict() if exact else None,
            "train_driver": world.train_driver.state_dict() if exact else None,
            "eval_envs": world.eval_envs.state_dict(),
        }
        self._saves.write({**state, **self.more()})
        self._saved = int(self._step)
        self._saving = False

    @contextmanager
    def saved_at_last(self) -> Iterator[None]:
        """Saves before an exception leaves, as far as the moment allows.

        Between two steps that is everything; in a step of the environments everything
        but these. In the middle of an update nothing belongs together: the checkpoint
        before is kept.
        """
        self.moment = Moment.STILL
        try:
            yield
        except Stopped:
            if self.moment is Moment.STILL:
                self.save()
            raise
        except Exception:
            # An error of save itself is not to be answered by another save.
            if self.moment is Moment.CHANGING or self._saving:
                print(f"Stopped {self.moment.value}, so {self._kept()}.", flush=True)
            else:
                self._save_at_last()
            raise

    def _save_at_last(self) -> None:
        try:
            self.save(exact=self.moment is Moment.STILL)
            print(f"Saved at step {self._step}.", flush=True)
        except (UsageError, RunFailed) as error:
            print(f"Could not save ({summary(error)}), so {self._kept()}.", flush=True)

    def _kept(self) -> str:
        if self._saved is None:
            return "there is no checkpoint, but all finished episodes are kept"
        return f"the checkpoint of step {self._saved} is kept"

    def restore(self) -> None:
        """Takes all parts back to the loaded checkpoint. Changes no file.

        Raises UsageError if something in it is missing or does not fit.
        """
        with self._misfits():
            for name in (*self._parts, "train_replay", "eval_replay"):
                if name not in NEWER:
                    self._saves.part(name)
            self._fit_noise(self._saves.part("agent"))
            for name, part in self._parts.items():
                state = self._saves.get(name)
                if state is not None:
                    part.load_state_dict(state)
        self._saved = int(self._step)

    def restore_world(self) -> None:
        """Takes replays and environments back to the loaded checkpoint; says so.

        What is random in this process goes on from there, too, so this comes last.
        """
        saves, world = self._saves, self.world
        with self._misfits():
            reason = world.train_envs.load_state_dict(saves.get("train_envs"))
            if not reason:
                world.train_driver.load_state_dict(saves.part("train_driver"))
            world.train_replay.load_state_dict(
                saves.part("train_replay"), unfinished=not reason
            )
            began = world.eval_envs.load_state_dict(saves.get("eval_envs"))
            world.eval_replay.load_state_dict(
                saves.part("eval_replay"), unfinished=not began
            )
            changed = changed_versions(saves.get("versions") or {})
            if saves.get("random"):
                restore_random_states(saves.get("random"))
        saves.drop()
        print(f"Resumed at step {int(self._step)}.")
        if changed:
            print(f"Saved with other versions: {changed}.")
        if reason:
            print(f"The environments begin new episodes, since {reason}.")

    @contextmanager
    def _misfits(self) -> Iterator[None]:
        """One sentence for a checkpoint that is not built as it should be."""
        try:
            yield
        except MISFITS as error:
            raise UsageError(
                f"The checkpoint {self._saves.path} does not fit this version of the "
                f"program ({summary(error)}): move it away to start anew from the "
                "episodes."
            ) from error

    def _fit_noise(self, agent: dict[str, Any]) -> None:
        """A CPU and a GPU have random generators of different kinds."""
        own = self._parts["agent"].noise.state_dict()["generator"]
        if agent["noise"]["generator"].shape != own.shape:
            print(
                "The networks' random numbers start anew, since the checkpoint is of "
                "another kind of device."
            )
            agent["noise"] = {"generator": own}
            if self._saves.get("eval_noise"):
                fresh = self._parts["eval_noise"].state_dict()
                self._saves.get("eval_noise").update(fresh)
