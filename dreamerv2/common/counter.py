"""The one step count that the parts of a run share."""

import functools
from typing import Any


@functools.total_ordering
class Counter:
    """A number of policy steps that only goes up, shared by reference.

    Reads like an int: `int(step)`, `step < 100`, `step - start`. Arithmetic gives
    plain ints; `step += 1` is refused, since it would quietly stop sharing.
    """

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
        """What load_state_dict needs to go on from here."""
        return {"value": self._value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take the count from what state_dict returned."""
        self._value = int(state["value"])

    def __int__(self) -> int:
        return self._value

    __index__ = __int__

    def __float__(self) -> float:
        return float(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: Any) -> bool:
        return self._value == _plain(other)

    def __lt__(self, other: Any) -> bool:
        return self._value < _plain(other)

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: Any) -> Any:
        return self._value + _plain(other)

    __radd__ = __add__

    def __iadd__(self, other: Any) -> "Counter":
        raise TypeError("A counter is shared; use increment() rather than +=.")

    def __sub__(self, other: Any) -> Any:
        return self._value - _plain(other)

    def __rsub__(self, other: Any) -> Any:
        return _plain(other) - self._value

    def __isub__(self, other: Any) -> "Counter":
        raise TypeError("A counter only goes up.")

    def __mul__(self, other: Any) -> Any:
        return self._value * _plain(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        return self._value / _plain(other)

    def __floordiv__(self, other: Any) -> Any:
        return self._value // _plain(other)

    def __mod__(self, other: Any) -> Any:
        return self._value % _plain(other)

    def __repr__(self) -> str:
        return f"Counter({self._value})"

    def __str__(self) -> str:
        return str(self._value)


def _plain(other: Any) -> Any:
    return other.value if isinstance(other, Counter) else other
