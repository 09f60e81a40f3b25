"""The one step count that the parts of a run share."""

import functools


@functools.total_ordering
class Counter:
    """A number of policy steps that only goes up, shared by reference, so without
    arithmetic: `step += 1` would quietly stop sharing. `int(step)` gives an int."""

    def __init__(self, initial: int = 0) -> None:
        self._value = int(initial)

    @property
    def value(self) -> int:
        """The count now."""
        return self._value

    def increment(self, amount: int = 1) -> None:
        """Add `amount`, which must not be negative (ValueError)."""
        if amount < 0:
            raise ValueError(f"A counter only goes up, but was given {amount}.")
        self._value += int(amount)

    def state_dict(self) -> dict[str, int]:
        return {"value": self._value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._value = int(state["value"])

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __eq__(self, other: object) -> bool:
        return self._value == (other.value if isinstance(other, Counter) else other)

    def __lt__(self, other: "int | Counter") -> bool:
        return self._value < int(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Counter({self._value})"
