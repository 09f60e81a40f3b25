"""The keys that play an environment, and scripts of keys for a run without a window.
Keys have pygame's names ("a", "space", "left", "f1"), but "esc" for escape."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError

# The same keys on many keyboards, and their names.
ALIASES = {"escape": "esc", "period": ".", "[.]": ".", "fire": "space"}
ALIASES |= {"=": "+", "[+]": "+", "plus": "+", "_": "-", "[-]": "-", "minus": "-"}

# Taken by the programs themselves, so never by an environment.
COMMANDS = (*"mklirfvpbnc.+-", "esc", "f1")
_SPARE = "1234567890" + "wasdqezxtyuoghj"
_KNOWN = (*COMMANDS, *_SPARE, "space", "left", "right", "up", "down")

_WORDS = {word: word for word in ("up", "down", "left", "right")}
_WORDS |= {"forward": "up", "north": "up", "south": "down", "west": "left"}
_WORDS |= {"east": "right", "fire": "space", "do": "space", "toggle": "space"}
_IDLE = ("noop", "stay", "none", "idle", "nothing", "still")


class GameKeys:
    """The keys that play an environment: for one-hot actions by `names`, for continuous
    ones left/right for the first number, up/down the second, letters the others."""

    def __init__(self, space: Any, names: Sequence[str] = ()):
        self.space = space
        self._discrete = bool(getattr(space, "discrete", False))
        (count,) = space.shape
        if self._discrete:
            if len(names) != count:
                names = [f"action {i}" for i in range(count)]
            self._combos = _combos(names)
            self._names = [name.lower().replace("_", " ") for name in names]
            used = {key for combo in self._combos for key in combo}
            # Pong calls up and down right and left.
            vertical = {"left", "right"} <= used and not {"up", "down"} & used
            self._aliases = {"up": "right", "down": "left"} if vertical else {}
        else:
            self._pairs = _pairs(count)

    @property
    def keys(self) -> set[str]:
        """Return every key that plays."""
        if self._discrete:
            return set().union(self._aliases, *self._combos)
        return {key for pair in self._pairs for key in pair}

    def action(self, held: Iterable[str]) -> np.ndarray:
        """Return the action (A,) float32 for the keys that are held."""
        if not self._discrete:
            return self._continuous(held)
        held = {self._aliases.get(key, key) for key in held}
        fitting = [combo for combo in self._combos if combo <= held]
        index = self._combos[max(fitting, key=len)] if fitting else 0
        return np.eye(len(self._names), dtype=np.float32)[index]

    def name(self, action: np.ndarray) -> str:
        """Return an action in words."""
        if self._discrete:
            return self._names[int(np.argmax(action))]
        return " ".join(f"{value:+.2f}" for value in action[:4])

    def help(self) -> list[tuple[str, str]]:
        """Return (keys, meaning) of all of them."""
        if not self._discrete:
            pairs = map(" ".join, self._pairs)
            return [(keys, f"action {i}: less, more") for i, keys in enumerate(pairs)]
        rows = []
        for combo, index in self._combos.items():
            if len(combo) == 1:
                others = (k for k, v in self._aliases.items() if {v} == combo)
                rows.append((" ".join([*combo, *others]), self._names[index]))
        return rows

    def _continuous(self, held: Iterable[str]) -> np.ndarray:
        low = np.where(np.isfinite(self.space.low), self.space.low, -1)
        high = np.where(np.isfinite(self.space.high), self.space.high, 1)
        action = np.clip(np.zeros(len(self._pairs)), low, high)
        for index, (less, more) in enumerate(self._pairs):
            if (less in held) != (more in held):
                action[index] = low[index] if less in held else high[index]
        return action.astype(np.float32)


def _combos(names: Sequence[str]) -> dict[frozenset[str], int]:
    """Map an action's keys, by its name or the next spare one, to its index."""
    combos: dict[frozenset[str], int] = {}
    nameless = []
    word = "|".join(_WORDS)
    for index, name in enumerate(names):
        name = name.lower().replace("_", "").replace(" ", "")
        match = re.fullmatch(f"(?:move|turn|go)?((?:{word})+)", name)
        words = re.findall(word, match[1]) if match else ()
        combo = frozenset(_WORDS[w] for w in words)
        if (match or name in _IDLE) and combo not in combos:
            combos[combo] = index
        else:
            nameless.append(index)
    for index, key in zip(nameless, _SPARE, strict=False):
        combos[frozenset([key])] = index
    return combos


def _pairs(size: int) -> list[tuple[str, str]]:
    less, more = ["left", "down", *"asqztug13579"], ["right", "up", *"dwexyoh24680"]
    # More joints than a person has fingers stand still.
    pairs = [*zip(less, more, strict=True), *[("", "")] * size]
    return pairs[:size]


def canonical(key: str) -> str:
    """Return the one name of a key."""
    return ALIASES.get(key.lower(), key.lower())


class Script:
    """Keys to be pressed at given steps, as in "i 100:k 120:left*20 200:m": KEY at step
    0, STEP:KEY, or KEY*N, held for N steps; UsageError for other words."""

    def __init__(self, text: str = ""):
        self._presses: list[tuple[int, int, str]] = []  # Steps of press and release.
        for word in text.split():
            match = re.fullmatch(r"(?:(\d+):)?(.|[A-Za-z]\w*?)(?:\*(\d+))?", word)
            key = canonical(match[2]) if match else ""
            if key not in _KNOWN or match[3] == "0":
                raise UsageError(
                    f"--keys has the word {word!r}: expected KEY, STEP:KEY or "
                    f"STEP:KEY*STEPS, with a key of {' '.join(_KNOWN)}."
                )
            first = int(match[1] or 0)
            self._presses.append((first, first + int(match[3] or 1), key))
        self._presses.sort(key=lambda press: press[0])

    @property
    def last(self) -> int:
        """Return the last step at which a key is held."""
        return max((end for _, end, _ in self._presses), default=0)

    def apply(self, player: Any, step: int) -> list[str]:
        """Release and press what is due; return the pressed keys."""
        for _, end, key in self._presses:
            if end == step:
                player.release(key)
        pressed = [key for first, _, key in self._presses if first == step]
        for key in pressed:
            player.press(key)
        return pressed
