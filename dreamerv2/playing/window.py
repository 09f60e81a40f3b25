"""Drive a player: in a pygame window, or by a script of keys without a screen."""

import math
import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import writing
from dreamerv2.common.outputs.pictures import GIF_END, encode_png, gif_frame, gif_head
from dreamerv2.common.suites.packages import require
from dreamerv2.playing.keys import Script
from dreamerv2.playing.player import KeyPlayer

DISPLAY_HZ = 60
# One of these says on Linux where there is a screen.
SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")


def play(
    player: KeyPlayer, title: str, keys: Script, steps: int, headless: bool, record: str
) -> None:
    """Play until the person leaves, or for `steps` steps (0: no limit); UsageError for
    a `record` that cannot be written, and without pygame or a screen."""
    if headless and not steps:
        steps = keys.last + 1
    try:
        with recorder(record, min(player.rate * player.speed, 50)) as add:
            if headless:
                _headless(player, keys, steps, add)
            else:
                _window(player, keys, steps, add, title)
    finally:
        player.close()


def _headless(player: KeyPlayer, script: Script, steps: int, add: Any) -> None:
    for step in range(steps):
        pressed = script.apply(player, step)
        player.tick()
        if add:
            add(player.frame())
        if pressed:
            print(f"step {step}, {' '.join(pressed)}: {player.strip()}")
        if player.done:
            break
    print(f"Ended after {player.steps} steps: {player.strip()}")


def _window(
    player: KeyPlayer, script: Script, steps: int, add: Any, title: str
) -> None:
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pygame = require("pygame", "play")
    try:
        screen = _open(pygame, player.canvas.size, title)
        clock = pygame.time.Clock()
        due, changed = 0.0, True
        script.apply(player, 0)
        while not player.done:
            changed |= _events(pygame, player)
            due += clock.tick(DISPLAY_HZ) / 1000
            for _ in range(_ticks(player, due)):
                due -= 1 / (player.rate * player.speed)
                changed |= player.tick()
                script.apply(player, player.steps)
                if add:
                    add(player.frame())
                player.done |= bool(steps and player.steps >= steps)
            # A slow computer makes the game slow: it has nothing to catch up on.
            due = min(max(due, 0.0), 1 / (player.rate * player.speed))
            if changed:
                picture = np.ascontiguousarray(player.frame().swapaxes(0, 1))
                pygame.surfarray.blit_array(screen, picture)
                pygame.display.flip()
                changed = False
    finally:
        pygame.display.quit()


def _ticks(player: KeyPlayer, due: float) -> int:
    """Return how many steps to do now, if the last was `due` seconds ago."""
    if player.done or player.idle:
        return 0
    if player.paused:
        return 1
    most = max(1, math.ceil(player.rate * player.speed / DISPLAY_HZ))
    return min(int(due * player.rate * player.speed + 1e-6), most)


def _events(pygame: Any, player: KeyPlayer) -> bool:
    events = pygame.event.get()
    for event in events:
        if event.type == pygame.QUIT:
            player.done = True
        elif event.type == pygame.KEYUP:
            player.release(pygame.key.name(event.key))
        elif event.type == pygame.KEYDOWN:
            # Where "+" is on the keyboard depends on the country.
            typed = event.unicode in ("+", "-", ".")
            player.press(event.unicode if typed else pygame.key.name(event.key))
    return bool(events)


def _open(pygame: Any, size: tuple[int, int], title: str) -> Any:
    """Open the window; raise UsageError where there is no screen for it."""
    height, width = size
    sorry = "There is no display to open a window on"
    advice = "set DISPLAY to one, or use --headless with --keys and --record FILE.gif."
    if sys.platform == "linux" and not any(name in os.environ for name in SCREENS):
        raise UsageError(f"{sorry}: {advice}")
    try:
        pygame.display.init()
        # Without a screen, SDL may draw into memory, where no one sees it.
        driver = pygame.display.get_driver()
        if driver in ("offscreen", "dummy") and "SDL_VIDEODRIVER" not in os.environ:
            raise UsageError(f"{sorry}: {advice}")
        flags = pygame.SCALED | pygame.RESIZABLE if driver != "dummy" else 0
        pygame.display.set_caption(title)
        screen = pygame.display.set_mode((width, height), flags)
    except pygame.error as error:
        raise UsageError(f"{sorry} ({error}): {advice}") from error
    pygame.key.set_repeat()  # Held keys are told by their release.
    return screen


@contextmanager
def recorder(file: str, fps: float) -> Iterator[Any]:
    """Yield a function that adds frames (H, W, 3) uint8 to a file; None without one."""
    if not file:
        yield None
        return
    path, kinds = Path(file).expanduser(), {".gif": _gif, ".mp4": _mp4, ".png": _png}
    kind = path.suffix.lower()
    if kind not in kinds:
        raise UsageError(
            f"--record {file} has an unknown ending: expected {', '.join(kinds)}."
        )
    if kind == ".mp4":
        require("imageio_ffmpeg", "play")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    try:
        with kinds[kind](path, fps) as add:
            yield add
    finally:
        seen = path.exists() and path.stat().st_size > len(GIF_END)
        if not seen:
            path.unlink(missing_ok=True)
    if seen:
        print(f"Wrote {path}.")


@contextmanager
def _gif(path: Path, fps: float) -> Iterator[Any]:
    with path.open("wb") as file:

        def add(frame: np.ndarray) -> None:
            if not file.tell():
                file.write(gif_head(*frame.shape[:2]))
            file.write(gif_frame(frame, fps))

        try:
            yield add
        finally:  # What was recorded before an error can be watched.
            file.write(GIF_END)


@contextmanager
def _png(path: Path, fps: float) -> Iterator[Any]:
    last: deque[np.ndarray] = deque(maxlen=1)
    yield last.append
    if last:
        path.write_bytes(encode_png(last[0]))


@contextmanager
def _mp4(path: Path, fps: float) -> Iterator[Any]:
    settings = {"fps": fps, "macro_block_size": 2, "codec": "libx264"}
    with require("imageio.v2", "play").get_writer(path, **settings) as writer:
        yield writer.append_data
