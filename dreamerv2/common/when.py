"""Questions to ask at each step: is it time, is it the first time, is it still time?

Steps are ints or Counters. What a run remembers here is part of its checkpoint."""

from typing import Any, SupportsInt


class Every:
    """True once every `every` steps, beginning with the first call; 0 is never.

    Due times lie on the grid first, first + every, first + 2 * every, and so on. After
    a gap longer than that the answer is True once, and the next due time is the next
    one on the grid. With `catch_up` it is True once for each due time passed instead.
    """

    def __init__(self, every: int, catch_up: bool = False) -> None:
        if every < 0:
            raise ValueError(f"Every needs 0 or more steps, but was given {every}.")
        self._every = int(every)
        self._catch_up = catch_up
        self._due: int | None = None

    def __call__(self, step: SupportsInt) -> bool:
        if not self.due(step):
            return False
        step = int(step)
        if self._due is None:
            self._due = step
        passed = 1 if self._catch_up else (step - self._due) // self._every + 1
        self._due += passed * self._every
        return True

    def due(self, step: SupportsInt) -> bool:
        """Return what a call would answer now, and change nothing."""
        return bool(self._every) and (self._due is None or int(step) >= self._due)

    def state_dict(self) -> dict[str, Any]:
        """Return what load_state_dict needs to go on from here."""
        return {"every": self._every, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what state_dict returned; another `every` counts from the last due
        time."""
        due = state["due"]
        self._due = None if due is None else due - state["every"] + self._every


class Until:
    """True at the steps before `until`. An `until` of 0 is always."""

    def __init__(self, until: int) -> None:
        self._until = int(until)

    def __call__(self, step: SupportsInt) -> bool:
        return not self._until or int(step) < self._until
