"""Questions to ask at each step, an int or a Counter: is it time, is it still time?"""

from typing import Any, SupportsInt


class Every:
    """True at the first call, and at the first one after each further `every` steps; 0
    is never. After a longer gap it is True once, or with `catch_up` once for each of
    the due times passed, which lie at first + n * every all the same."""

    def __init__(self, every: int, catch_up: bool = False) -> None:
        if every < 0:
            raise ValueError(f"Every needs 0 or more steps, but was given {every}.")
        self._every = int(every)
        self._catch_up = catch_up
        self._due: int | None = None

    def __call__(self, step: SupportsInt) -> bool:
        if not self.due(step):
            return False
        if self._due is None:
            self._due = int(step)
        passed = 1 if self._catch_up else (int(step) - self._due) // self._every + 1
        self._due += passed * self._every
        return True

    def due(self, step: SupportsInt) -> bool:
        """Return what a call would answer now, and change nothing."""
        return bool(self._every) and (self._due is None or int(step) >= self._due)

    def state_dict(self) -> dict[str, Any]:
        return {"every": self._every, "due": self._due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from that state; another `every` counts from the last due time."""
        due = state["due"]
        self._due = None if due is None else due - state["every"] + self._every


class Until:
    """True at the steps before `until`. An `until` of 0 is always."""

    def __init__(self, until: int) -> None:
        self._until = int(until)

    def __call__(self, step: SupportsInt) -> bool:
        return not self._until or int(step) < self._until
