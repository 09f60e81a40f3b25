"""The exceptions whose messages are for the user."""

import re
import traceback
from collections.abc import Iterable


class UsageError(Exception):
    """Something outside the program is wrong; commands print it, and exit with code 2.
    The message is one sentence: what was wrong, what was expected, what to do."""


class RunFailed(Exception):
    """A run cannot go on, through no fault of how it was started; exit code 1. The
    message is one sentence: what went wrong, what is kept, what to do."""


class WorkerFailed(RuntimeError):
    """An error in another thread or process: its traceback, and its `summary`."""

    def __init__(self, text: str, summary: str):
        super().__init__(text)
        self.summary = summary


def summary(error: BaseException) -> str:
    """Return an exception as a part of a sentence: its type and what it says."""
    if isinstance(error, WorkerFailed):
        return error.summary
    text = " ".join("".join(traceback.format_exception_only(error)).split())
    return re.sub(r"[.!?]+ (?=[A-Z])", "; ", text)[:200].rstrip(".:!?; ")


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise UsageError unless the value is one of the choices."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise UsageError(f"Unknown {what} '{value}': expected one of {listed}.")
