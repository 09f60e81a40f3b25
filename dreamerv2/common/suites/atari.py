"""Atari games, on the emulator itself."""

import threading
from typing import Any

import ale_py
import numpy as np
from ale_py import roms
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.resize import AreaResize
from dreamerv2.common.suites.spelling import find_spelt


class Atari:
    """An Atari game with the protocol of Machado et al. (2018).

    Each action is held for `action_repeat` frames, whose rewards are summed; each frame
    repeats with probability 0.25 what the one before did (`sticky`). A reset plays 1 to
    `noops` frames of doing nothing. The picture is the maximum over the last two
    frames, since games draw some sprites in every other one, then the mean over the
    area of each pixel of `size`. Losing a life ends nothing; there is no time limit.
    Actions are indexes into those that the game uses, or into all 18. Observations:
    `image` (*size, 1 or 3) and `ram` (128,), uint8."""

    # The emulator's settings and its lists of games are shared by all threads.
    LOCK = threading.Lock()

    def __init__(
        self,
        name: str,
        action_repeat: int = 4,
        size: tuple[int, int] = (64, 64),
        grayscale: bool = True,
        noops: int = 30,
        sticky: bool = True,
        all_actions: bool = False,
        seed: int | None = None,
    ):
        self._repeat, self._noops = action_repeat, noops
        self._sticky = 0.25 if sticky else 0.0
        self._held = 0  # What the last frame did.
        self._random = np.random.default_rng(seed)
        with self.LOCK:
            ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
            self._ale = ale_py.ALEInterface()
            self._ale.setInt("random_seed", int(self._random.integers(2**31)))
            # The emulator could do this, too, but its memory of the action that is
            # repeated is no part of the state that it gives.
            self._ale.setFloat("repeat_action_probability", 0.0)
            self._ale.loadROM(find_rom(name))
        ale, screen = self._ale, self._ale.getScreenDims()
        actions = ale.getLegalActionSet if all_actions else ale.getMinimalActionSet
        self._actions = actions()
        self.action_names = [action.name for action in self._actions]
        self._grab = ale.getScreenGrayscale if grayscale else ale.getScreenRGB
        self._frames = np.zeros((2, *screen, *(() if grayscale else (3,))), np.uint8)
        self._resize = AreaResize(screen, size)
        self._shape = (*size, 1 if grayscale else 3)
        shapes = {"image": self._shape, "ram": (128,)}
        self.obs_space = {k: Box(0, 255, v, np.uint8) for k, v in shapes.items()}
        self.obs_space.update(signal_spaces())
        self.act_space = {"action": Discrete(len(self._actions))}

    def reset(self) -> Obs:
        self._ale.reset_game()
        self._held = 0
        # A game that ends while nothing is done starts again.
        for _ in range(self._random.integers(1, self._noops + 1) if self._noops else 0):
            self._ale.act(0)
            if self._ale.game_over(with_truncation=False):
                self._ale.reset_game()
        self._grab(self._frames[0])
        self._frames[1] = self._frames[0]
        return with_signals(self._obs(), is_first=True)

    def step(self, action: Action) -> Obs:
        chosen = self._actions[int(action["action"])].value
        reward, last = 0, self._repeat - 1
        for frame, draw in enumerate(self._random.random(self._repeat)):
            if draw >= self._sticky:
                self._held = chosen
            reward += self._ale.act(self._held)
            over = self._ale.game_over(with_truncation=False)
            # Grabbing a frame costs a quarter of emulating it, so only what is shown.
            if frame >= last - 1 or over:
                self._grab(self._frames[frame % 2])
            if over:
                break
        if self._repeat == 1 or (over and frame < last):
            # There is one frame to show; the other place holds an old one.
            self._frames[1 - frame % 2] = self._frames[frame % 2]
        return with_signals(self._obs(), reward, is_last=over, is_terminal=over)

    def state_dict(self) -> dict[str, Any]:
        return {
            "emulator": self._ale.cloneSystemState().serialize(),
            "frames": self._frames.copy(),
            "random": self._random.bit_generator.state,
            "held": self._held,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises any exception for a state of another version of the emulator."""
        self._ale.restoreSystemState(ale_py.ALEState(state["emulator"]))
        self._frames[:] = state["frames"]
        self._random.bit_generator.state = state["random"]
        self._held = int(state["held"])

    def render(self) -> np.ndarray:
        return self._ale.getScreenRGB()

    def _obs(self) -> dict[str, np.ndarray]:
        image = self._resize(self._frames.max(0)).reshape(self._shape)
        return {"image": image, "ram": self._ale.getRAM()}


def find_rom(name: str) -> Any:
    """Return the path of a game's ROM; UsageError for what cannot be played."""
    games = {rom.replace("_", ""): rom for rom in roms.get_all_rom_ids()}
    game = find_spelt("Atari game", name, games)
    if game in ("combat", "joust", "maze_craze", "warlords"):
        # The emulator would end the whole program.
        raise UsageError(
            f"The Atari game {game!r} is for two players only: choose another."
        )
    return roms.get_rom_path(game)
