"""Names that people type: told apart by their letters, and the nearest ones found."""

import difflib
import re
from collections.abc import Iterable, Mapping


def letters(name: str) -> str:
    """A name by its letters and digits alone: "Space_Invaders" is "spaceinvaders"."""
    return re.sub("[^a-z0-9]", "", name.lower())


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The most similar names, for a message: "pong, pooyan, qbert"."""
    return ", ".join(difflib.get_close_matches(name, list(names), count, cutoff=0.0))


def nearest_spelt(name: str, known: Mapping[str, str], count: int = 3) -> str:
    """The same of `known`, letters -> name, several of which may stand for one name."""
    found = difflib.get_close_matches(letters(name), known, 3 * count, cutoff=0.0)
    return ", ".join(list(dict.fromkeys(known[key] for key in found))[:count])
