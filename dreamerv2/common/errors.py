"""The one exception that means: the user can mend this."""


class UsageError(Exception):
    """Something outside the program is wrong, and the message says how to mend it.

    The message is one sentence: what was wrong, what was expected, what to do. The
    command line tools print it without a stack trace and end with exit code 2.
    """
