"""The exceptions whose messages are for the user."""

import re
import traceback
from collections.abc import Iterable


class UsageError(Exception):
    """Something outside the program is wrong, and the message says how to mend it.

    The message is one sentence: what was wrong, what was expected, what to do. The
    command line tools print it without a stack trace and end with exit code 2.
    """


class RunFailed(Exception):
    """A run cannot go on, through no fault of how it was started.

    The message is one sentence, too: what went wrong, what is kept, what to do. The
    command prints it without a stack trace and ends with exit code 1.
    """


class WorkerFailed(RuntimeError):
    """An error in another thread or process, whose traceback is its text.

    Attributes:
      summary: of the error there, see `summary`.
    """

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
