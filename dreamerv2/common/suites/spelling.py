"""Names that people type: told apart by their letters, the nearest ones found."""

import difflib
import re
from collections.abc import Iterable, Mapping

from dreamerv2.common.errors import UsageError


def letters(name: str) -> str:
    """Return its letters and digits alone: "Space_Invaders" is "spaceinvaders"."""
    return re.sub("[^a-z0-9]", "", name.lower())


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """Return the most similar names, for a message: "pong, pooyan, qbert"."""
    return ", ".join(difflib.get_close_matches(name, list(names), count, cutoff=0.0))


def check_task(suite: str, name: str, names: Iterable[str]) -> None:
    """Raise UsageError, with the nearest name, for a task that a suite lacks."""
    if name not in names:
        near = nearest(name, names, 1)
        raise UsageError(f"Unknown task {suite}_{name}: did you mean {suite}_{near}?")


def find_spelt(what: str, name: str, known: Mapping[str, str]) -> str:
    """Look a name up in `known`, letters -> name; UsageError names the nearest."""
    if letters(name) in known:
        return known[letters(name)]
    found = difflib.get_close_matches(letters(name), known, 9, cutoff=0.0)
    near = ", ".join(list(dict.fromkeys(known[key] for key in found))[:3])
    raise UsageError(f"Unknown {what} {name!r}: the nearest are {near}.")
