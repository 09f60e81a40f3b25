"""The exceptions whose messages are for the user, and a check of saved states."""

import re
import traceback
from collections.abc import Mapping
from typing import Any


class UsageError(Exception):
    """Something outside the program is wrong; commands print it, and exit with code 2.
    The message is one sentence: what was wrong, what was expected, what to do."""


class RunFailed(Exception):
    """A run cannot go on, through no fault of how it was started; exit code 1."""


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


class Misfit(UsageError):
    """A state has other names or shapes than are needed; `found` lists them."""

    def __init__(self, where: str, found: str):
        super().__init__(
            f"{where} does not fit this configuration, with {found}: use the config "
            "that it was saved with, or another --logdir."
        )
        self.where, self.found = where, found


def match_state(expected: Mapping, found: Mapping, where: str) -> None:
    """Check that two mappings have the same names, and tensors of the same shapes.
    Misfit otherwise, which begins with `where`, such as "variables.pt: model"."""
    both = [(k, _shape(found[k]), _shape(expected[k])) for k in expected if k in found]
    kinds = {
        "missing": map(str, set(expected) - set(found)),
        "extra": map(str, set(found) - set(expected)),
        "misshapen": (f"{k} is {a} where {b} is needed" for k, a, b in both if a != b),
    }
    parts = []
    for kind, names in kinds.items():
        if names := sorted(names):
            listed = [*names[:5], "..."] if len(names) > 5 else names
            parts.append(f"{len(names)} {kind} ({', '.join(listed)})")
    if parts:
        raise Misfit(where, ", ".join(parts))


def _shape(value: Any) -> str:
    return "x".join(map(str, getattr(value, "shape", ()))) or "scalar"
