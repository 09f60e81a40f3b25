"""Games of old consoles, by stable-retro."""

import re

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.errors import UsageError
from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.resize import AreaResize
from dreamerv2.common.suites.spelling import find_spelt, letters


class Retro:
    """A game of stable-retro; Airstriker-Genesis comes with it.

    Frames, `action_repeat` and `sticky` as of Atari; the last frame is shown, each
    pixel the mean over the area it covers. The end of the game, as its scenario has it,
    is terminal. A process can hold one of these until it is closed. Actions are indexes
    into the combinations of buttons that the game can tell apart. Observations: `image`
    (*size, 1 or 3) uint8.
    """

    def __init__(
        self,
        name: str,
        action_repeat: int = 4,
        size: tuple[int, int] = (64, 64),
        grayscale: bool = False,
        sticky: bool = True,
        seed: int | None = None,
    ):
        retro = require("stable_retro", "retro")
        game = find_game(name)
        self._random = np.random.default_rng(seed)
        self._repeat = action_repeat
        self._sticky = 0.25 if sticky else 0.0
        self._gray = grayscale
        try:
            self._env = retro.make(
                game,
                use_restricted_actions=retro.Actions.DISCRETE,
                render_mode="rgb_array",
            )
        except FileNotFoundError as error:
            raise UsageError(
                f"The game {game} does not come with stable-retro: import your own "
                "copy with python -m stable_retro.import FOLDER."
            ) from error
        screen = self._env.observation_space.shape[:2]
        self._resize = AreaResize(screen, size)
        self._shape = (*size, 1 if grayscale else 3)
        self._held = 0  # What the last frame did.
        image = Box(0, 255, self._shape, np.uint8)
        self.obs_space = {"image": image, **signal_spaces()}
        self.act_space = {"action": Discrete(int(self._env.action_space.n))}

    def reset(self) -> Obs:
        """Begin the game."""
        frame, _ = self._env.reset()
        self._held = 0  # No button.
        return with_signals(self._obs(frame), is_first=True)

    def step(self, action: Action) -> Obs:
        """Hold `action["action"]`, an index, for action_repeat frames."""
        reward, chosen = 0.0, int(action["action"])
        for draw in self._random.random(self._repeat):
            if draw >= self._sticky:
                self._held = chosen
            frame, gained, terminal, truncated, _ = self._env.step(self._held)
            reward += float(gained)
            if last := bool(terminal or truncated):
                break
        return with_signals(self._obs(frame), reward, False, last, terminal)

    def render(self) -> np.ndarray:
        """Return the screen in full size and colour, (H, W, 3) uint8."""
        return np.array(self._env.render())

    def close(self) -> None:
        """Free the emulator, so that this process may hold another."""
        self._env.close()

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
