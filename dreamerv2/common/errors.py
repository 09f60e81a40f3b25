"""The exceptions whose messages are for the user."""

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


def check_choice(what: str, value: object, choices: Iterable[object]) -> None:
    """Raise UsageError unless the value is one of the choices."""
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise UsageError(f"Unknown {what} '{value}': expected one of {listed}.")
