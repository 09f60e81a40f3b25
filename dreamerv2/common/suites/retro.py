"""Games of old consoles, by stable-retro."""

import re

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.resize import AreaResize
from dreamerv2.common.suites.spelling import find_spelt, letters
from dreamerv2.common.suites.wrappers import Wrapper

_STICKY = 0.25  # How likely a frame ignores its action.


class Retro(Wrapper):
    """A game of stable-retro; Airstriker-Genesis comes with it. A process can hold one.

    Frames and sticky actions as of Atari; the last frame is shown, each pixel the mean
    over its area. The end of the game is terminal. Actions are indexes into the
    combinations of buttons that the game can tell apart. Observations: `image` (*size,
    1 or 3) uint8; `render` gives the screen in full size and colour."""

    def __init__(
        self,
        name: str,
        action_repeat: int,
        size: tuple[int, int],
        grayscale: bool,
        seed: int,
    ):
        retro = require("stable_retro", "retro")
        game, kind = find_game(name), retro.Actions.DISCRETE
        shown = {"render_mode": "rgb_array"}
        self._random = np.random.default_rng(seed)
        self._repeat, self._gray = action_repeat, grayscale
        try:
            made = retro.make(game, use_restricted_actions=kind, **shown)
        except FileNotFoundError as error:
            raise UsageError(
                f"The game {game} does not come with stable-retro: import your own "
                "copy with python -m stable_retro.import FOLDER."
            ) from error
        super().__init__(made)
        self._resize = AreaResize(made.observation_space.shape[:2], size)
        self._shape = (*size, 1 if grayscale else 3)
        self._held = 0  # What the last frame did.
        image = Box(0, 255, self._shape, np.uint8)
        self.obs_space = {"image": image, **signal_spaces()}
        self.act_space = {"action": Discrete(int(made.action_space.n))}

    def reset(self) -> Obs:
        frame, _ = self._env.reset()
        self._held = 0  # No button.
        return with_signals(self._obs(frame), is_first=True)

    def step(self, action: Action) -> Obs:
        reward, chosen = 0.0, int(action["action"])
        for draw in self._random.random(self._repeat):
            if draw >= _STICKY:
                self._held = chosen
            frame, gained, terminal, truncated, _ = self._env.step(self._held)
            reward += float(gained)
            if last := bool(terminal or truncated):
                break
        return with_signals(self._obs(frame), reward, False, last, terminal)

    def _obs(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        image = self._resize(frame)
        if self._gray:
            weights = np.float32([0.299, 0.587, 0.114])  # Of brightness, by ITU-R 601.
            image = np.rint(image @ weights).astype(np.uint8)
        return {"image": image.reshape(self._shape)}


def find_game(name: str) -> str:
    """Return a game's id; UsageError for an unknown one, naming the nearest."""
    games = require("stable_retro", "retro").data.list_games()
    known: dict[str, str] = {}
    # Sorted, so that the last version wins where it is left out.
    for game in sorted(games):
        known[letters(game)] = known[letters(re.sub("-v[0-9]+$", "", game))] = game
    return find_spelt("game of stable-retro", name, known)
