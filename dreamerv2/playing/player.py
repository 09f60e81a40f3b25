"""What play.py and play_test.py share, without a screen: keys, pause, speed, frame."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from dreamerv2.playing.canvas import Canvas, Scene
from dreamerv2.playing.keys import GameKeys, canonical

SPEEDS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


class KeyPlayer(ABC):
    """Turns keys into state, and state into a frame, at `rate` policy steps a second.
    Subclasses add to `commands`: key -> (function, meaning)."""

    canvas: Canvas  # Made by the subclass, when it has seen the game's screen.
    control = "person"  # Or random.

    HINT = "F1 shows the keys."  # The note at the beginning.
    NOTE_SECONDS, FADE_SECONDS = 6.0, 3.0  # A note stays, then fades.

    def __init__(self, keys: GameKeys, rate: float):
        self.game_keys, self.rate = keys, rate
        self.paused = self.help = self.done = False
        self.steps = 0
        self._speed = SPEEDS.index(1.0)
        self._single = False
        self._held: set[str] = set()
        self._tapped: set[str] = set()
        self.commands: dict[str, tuple[Callable[[], None], str]] = {
            "p": (lambda: self._turn("paused"), "pause and go on"),
            ".": (self._one_step, "a single step"),
            "+": (lambda: self._faster(1), "faster"),
            "-": (lambda: self._faster(-1), "slower"),
            "f1": (lambda: self._turn("help"), "this list"),
            "esc": (lambda: setattr(self, "done", True), "leave"),
        }
        self.note = self.HINT

    @property
    def note(self) -> str:
        """Return a line for the person, which fades when it has been seen."""
        return self._note

    @note.setter
    def note(self, text: str) -> None:
        self._note, self._noted = text, self.steps

    @property
    def speed(self) -> float:
        """Return how many times the game's own rate."""
        return SPEEDS[self._speed]

    @property
    def idle(self) -> bool:
        """Return whether tick() would do nothing."""
        return self.done or (self.paused and not self._single)

    def press(self, key: str) -> None:
        """Do a command at once, or hold a key of the game."""
        key = canonical(key)
        if key in self.commands:
            self.commands[key][0]()
        elif key in self.game_keys.keys:
            self._held.add(key)
            self._tapped.add(key)

    def release(self, key: str) -> None:
        """Let a key go. One that came up before a step still counts in it."""
        self._held.discard(canonical(key))

    def tick(self) -> bool:
        """Do one step, unless paused; return whether it was done."""
        if self.idle:
            return False
        self._single = False
        self._step()
        self._tapped.clear()
        self.steps += 1
        return True

    def frame(self) -> np.ndarray:
        """Return what is to be seen now, (H, W, 3) uint8, always of one size."""
        scene = self._scene()
        seconds = (self.steps - self._noted) / (self.rate * self.speed)
        scene.fade = min(max(0, seconds - self.NOTE_SECONDS) / self.FADE_SECONDS, 1)
        if self.help:
            scene.help = self.keys_help()
        return self.canvas.draw(scene)

    def strip(self) -> str:
        """Return the text of the frame, in one line."""
        scene = self._scene()
        cells = ", ".join(map(" ".join, scene.cells))
        return f"{scene.title} | {cells} | {scene.note}"

    def keys_help(self) -> list[tuple[str, str]]:
        """Return (keys, meaning) of every key."""
        rows = [
            (key.capitalize() if len(key) > 1 else key, meaning)
            for key, (_, meaning) in self.commands.items()
        ]
        return rows + [(keys, f"game: {name}") for keys, name in self.game_keys.help()]

    def close(self) -> None:  # noqa: B027  (few players have anything to close)
        """Free what is held; called once at the end."""

    @abstractmethod
    def _step(self) -> None:
        """Do one policy step of the game or of the dream."""

    @abstractmethod
    def _scene(self) -> Scene:
        """Describe what is to be seen now."""

    def _by_hand(self) -> np.ndarray:
        """Return an action (A,) float32 of keys held or tapped, or a random one."""
        if self.control == "random":
            return self.game_keys.space.sample().astype(np.float32)
        return self.game_keys.action(self._held | self._tapped)

    def _pace(self) -> str:
        pace = f"   x{self.speed:g}" if self.speed != 1 else ""
        return pace + ("   PAUSED" if self.paused else "")

    def _toggle(self, name: str, first: str, second: str) -> Callable[[], None]:
        """Make a command that gives an attribute the first value, or by turns both."""

        def toggle() -> None:
            value = second if getattr(self, name) == first else first
            setattr(self, name, value)
            self.note = f"{name.capitalize()}: {value}."

        return toggle

    def _turn(self, name: str) -> None:
        setattr(self, name, not getattr(self, name))

    def _one_step(self) -> None:
        self.paused = self._single = True

    def _faster(self, by: int) -> None:
        self._speed = min(max(self._speed + by, 0), len(SPEEDS) - 1)
        self.note = f"{self.rate * self.speed:.3g} steps a second."


def screen_of(env: Any) -> np.ndarray | None:
    """Return the real screen (H, W, C) uint8; None where there is none."""
    picture = np.asarray(env.render() if hasattr(env, "render") else None)
    return picture if picture.ndim == 3 and picture.size else None


def screen_aspect(screen: np.ndarray | None) -> float:
    """Return width / height of a screen within [0.5, 2]; 1 without a screen."""
    height, width = (1, 1) if screen is None else screen.shape[:2]
    return min(max(width / height, 0.5), 2.0)


def step_rate(task: str, action_repeat: int, env: Any = None) -> float:
    """Return the policy steps per second at which a task runs for people."""
    if task.startswith("atari_"):
        return 60 / action_repeat
    base = getattr(env, "unwrapped", None)
    kwargs = getattr(getattr(base, "spec", None), "kwargs", {})
    if "frameskip" in kwargs:  # Gymnasium's Atari.
        return 60 / float(np.mean(kwargs["frameskip"])) / action_repeat
    fps = (getattr(base, "metadata", None) or {}).get("render_fps")
    # What dm_control simulates runs at about 40 steps a second.
    frames = fps or {"toy": 6, "crafter": 6, "dmc": 40}.get(task.partition("_")[0], 10)
    return max(1.0, frames / action_repeat)
