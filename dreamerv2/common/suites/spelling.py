"""Names that people type: told apart by their letters, the nearest ones found."""

import difflib
import re
from collections.abc import Iterable, Mapping


def letters(name: str) -> str:
    """Return its letters and digits alone: "Space_Invaders" is "spaceinvaders"."""
    return re.sub("[^a-z0-9]", "", name.lower())


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """Return the most similar names, for a message: "pong, pooyan, qbert"."""
    return ", ".join(difflib.get_close_matches(name, list(names), count, cutoff=0.0))


def nearest_spelt(name: str, known: Mapping[str, str], count: int = 3) -> str:
    """Do so among the names of `known`, letters -> name, where names may repeat."""
    found = difflib.get_close_matches(letters(name), known, 3 * count, cutoff=0.0)
    return ", ".join(list(dict.fromkeys(known[key] for key in found))[:count])
