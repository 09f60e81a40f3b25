"""Two small tasks of our own, which know their best action (`oracle()`)."""

from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete

from dreamerv2.common.suites.interface import Action, Obs, signal_spaces, with_signals


class ToyCatch:
    """A ball falls, a paddle catches it: pixels, three discrete actions.

    The board has 8 by 8 cells. A ball appears in the top row at a random column and
    falls one row a step; the paddle in the bottom row moves left, stays or moves right.
    When the ball reaches the bottom row, the reward is +1 if the paddle is there, else
    -1. After `balls` balls the episode ends, terminally, 8 * balls - 1 steps after its
    reset. Observations: `image` (*size, 1) uint8, 0 or 255."""

    CELLS = 8
    action_names = ("left", "stay", "right")
    RANDOM_RETURN = -2.25  # With 3 balls.
    BEST_RETURN = 3.0

    def __init__(
        self, seed: int | None = None, balls: int = 3, size: tuple[int, int] = (64, 64)
    ):
        self._size, self._balls = tuple(size), balls
        self._random = np.random.default_rng(seed)
        self._left = self._row = self._column = self._paddle = 0
        image = Box(0, 255, (*self._size, 1), np.uint8)
        self.obs_space = {"image": image, **signal_spaces()}
        self.act_space = {"action": Discrete(3)}

    def reset(self) -> Obs:
        self._left = self._balls
        self._paddle = int(self._random.integers(self.CELLS))
        self._drop()
        return with_signals({"image": self._image()}, is_first=True)

    def step(self, action: Action) -> Obs:
        bottom = self.CELLS - 1
        self._paddle = min(max(self._paddle + int(action["action"]) - 1, 0), bottom)
        if self._row == bottom:
            self._drop()
        else:
            self._row += 1
        reward = 0.0
        if self._row == bottom:
            reward = 1.0 if self._paddle == self._column else -1.0
            self._left -= 1
        over = self._left == 0
        return with_signals({"image": self._image()}, reward, False, over, over)

    def oracle(self) -> int:
        # Towards the ball; while none falls, to the centre.
        goal = self._column if self._row < self.CELLS - 1 else self.CELLS // 2
        return int(np.sign(goal - self._paddle)) + 1

    def render(self) -> np.ndarray:
        return np.repeat(self._image(), 3, -1)

    def state_dict(self) -> dict[str, Any]:
        board = [self._left, self._row, self._column, self._paddle]
        return {"random": self._random.bit_generator.state, "board": board}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.bit_generator.state = state["random"]
        self._left, self._row, self._column, self._paddle = state["board"]

    def _drop(self) -> None:
        self._row = 0
        self._column = int(self._random.integers(self.CELLS))

    def _image(self) -> np.ndarray:
        board = np.zeros((self.CELLS, self.CELLS), np.uint8)
        board[self._row, self._column] = 255
        board[-1, self._paddle] = 255
        rows, columns = (np.arange(n) * self.CELLS // n for n in self._size)
        return board[np.ix_(rows, columns)][..., None]


class ToyReach:
    """A point moves to a target in the square [-1, 1] x [-1, 1]: continuous actions.

    The action (2,), clipped to [-1, 1], moves the point by SPEED times itself; the
    reward is 1 - distance to the target. Episodes end after 25 steps, never terminally.
    Observations: `position` and `target`, (2,) float32; with `image` also `image`
    (*size, 3) uint8, the target green, the point red, y upwards."""

    SPEED = 0.2
    STEPS = 25
    RANDOM_RETURN = -1.54  # Means over a million starts.
    BEST_RETURN = 22.65

    def __init__(
        self,
        seed: int | None = None,
        image: bool = False,
        size: tuple[int, int] = (64, 64),
    ):
        self._size, self._with_image = tuple(size), image
        self._random = np.random.default_rng(seed)
        self._left = 0
        self._position = self._target = np.zeros(2)
        places = {key: Box(-1, 1, (2,), np.float32) for key in ("position", "target")}
        self.obs_space = {**places, **signal_spaces()}
        if image:
            self.obs_space["image"] = Box(0, 255, (*self._size, 3), np.uint8)
        self.act_space = {"action": Box(-1, 1, (2,), np.float32)}

    def reset(self) -> Obs:
        self._left = self.STEPS
        self._position, self._target = self._random.uniform(-1, 1, (2, 2))
        return with_signals(self._obs(), is_first=True)

    def step(self, action: Action) -> Obs:
        move = np.clip(np.asarray(action["action"], np.float64), -1, 1)
        self._position = np.clip(self._position + self.SPEED * move, -1, 1)
        self._left -= 1
        reward = 1.0 - np.linalg.norm(self._position - self._target)
        return with_signals(self._obs(), reward, is_last=self._left == 0)

    def oracle(self) -> np.ndarray:
        gap = (self._target - self._position) / self.SPEED
        return np.clip(gap, -1, 1).astype(np.float32)

    def render(self) -> np.ndarray:
        y, x = (np.linspace(-1.1, 1.1, n) for n in self._size)
        image = np.zeros((*self._size, 3), np.uint8)
        discs = (self._target, 0.18, (0, 255, 0)), (self._position, 0.12, (255, 0, 0))
        for place, radius, color in discs:
            near = (x - place[0]) ** 2 + (-y[:, None] - place[1]) ** 2 < radius**2
            image[near] = color
        return image

    def state_dict(self) -> dict[str, Any]:
        return {
            "random": self._random.bit_generator.state,
            "left": self._left,
            "position": self._position.copy(),
            "target": self._target.copy(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._random.bit_generator.state = state["random"]
        self._left = state["left"]
        self._position, self._target = state["position"], state["target"]

    def _obs(self) -> dict[str, np.ndarray]:
        obs = {
            "position": self._position.astype(np.float32),
            "target": self._target.astype(np.float32),
        }
        if self._with_image:
            obs["image"] = self.render()
        return obs
