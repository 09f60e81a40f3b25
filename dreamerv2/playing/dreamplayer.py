"""The core of play.py: a game, the model's view of it, and dreams that leave it."""

from collections import deque
from typing import Any

import numpy as np

from dreamerv2.common.networks.rssm import State
from dreamerv2.playing.canvas import Canvas, Scene
from dreamerv2.playing.keys import GameKeys
from dreamerv2.playing.player import KeyPlayer
from dreamerv2.playing.stepper import Stepper

REAL, DREAM = (24, 84, 58), (92, 44, 148)


class StoredEpisode:
    """A recorded episode in place of an environment, with its methods: it goes its own
    way, and each observation holds the action that led to it."""

    def __init__(self, episode: dict[str, np.ndarray]):
        self._episode = episode

    def reset(self) -> dict[str, Any]:
        self._index = -1
        return self.step({})

    def step(self, action: dict[str, np.ndarray]) -> dict[str, Any]:
        self._index += 1
        obs = {key: value[self._index] for key, value in self._episode.items()}
        last = self._index == len(self._episode["is_first"]) - 1
        return {**obs, "is_last": bool(obs["is_last"]) or last}

    def close(self) -> None:
        pass


class DreamPlayer(KeyPlayer):
    """Lets an agent, a person or chance play the real game, or a dream of it, which is
    imagined from the actions alone. Beside a dream the game goes on with the same
    actions, and stands still once the dream was rewound or the game is over."""

    HINT = "i dream    n four futures    k play yourself    p pause    F1 all keys"

    BRANCHES = 4
    REWIND = 10  # Steps for each press of the key.
    MEMORY = 2000  # Steps of a dream that are kept for rewinding.

    def __init__(
        self,
        stepper: Stepper,
        env: Any,
        keys: GameKeys,
        rate: float,
        scale: int,
        aspect: float,
    ):
        super().__init__(keys, rate)
        self.control = "agent"  # Or person, or random.
        self.view = "both"  # Or environment, or model.
        self.dream: State | None = None
        self.parted = False  # The real game stands still.
        self._stepper, self._env = stepper, env
        self._stored = isinstance(env, StoredEpisode)
        self._history: deque[tuple[State, np.ndarray]] = deque(maxlen=self.MEMORY)
        toggle = self._toggle
        self.commands = {
            "m": (toggle("view", "model", "environment"), "environment or model"),
            "v": (toggle("view", "both", "model"), "both, with their difference"),
            "k": (toggle("control", "agent", "person"), "agent or person plays"),
            "l": (toggle("control", "random", "person"), "random or person plays"),
            "i": (self._switch_dream, "real game or dream"),
            "c": (self._dream_from_here, "dream anew from the real game's frame"),
            "b": (self._rewind, f"take a dream back by {self.REWIND} steps"),
            "n": (self._branch, f"dream {self.BRANCHES} futures, or one again"),
            "r": (self._forget, "reset the model's latent state"),
            "f": (self._new_game, "reset the environment, too"),
            **self.commands,
        }
        self.state = stepper.initial(1)
        self._begin()
        self.canvas = Canvas(3, scale, aspect)

    @property
    def dreaming(self) -> bool:
        """Return whether what is played is a dream."""
        return self.dream is not None

    @property
    def futures(self) -> int:
        """Return how many are dreamed side by side; 0 in the real game."""
        return len(self.dream["deter"]) if self.dreaming else 0

    def close(self) -> None:
        self._env.close()

    def _begin(self) -> None:
        self.obs = self._env.reset()
        self.game_step, self.over = 0, False
        self.reward = self.total = 0.0
        self.action = np.zeros(self._stepper.action_size, np.float32)
        self._observe(True)
        self._read()

    def _step(self) -> None:
        if self.dreaming:
            action = self._choose(self.dream)
            self._history.append((self.dream, self.dream_total))
            self.dream = self._stepper.imagine(self.dream, action)
            self.dream_step += 1
            self.action = action[0]
            self.parted |= self.over or self._stored
            if not self.parted:
                self._real_step(self.action)
        elif self.over:
            self._begin()
        else:
            self._real_step(self._choose(self.state)[0])
        self._read()
        if self.dreaming:
            self.dream_total = self.dream_total + self.reading.reward

    def _choose(self, state: State) -> np.ndarray:
        if self.control == "agent":
            return self._stepper.act(state)
        return np.repeat(self._by_hand()[None], len(state["deter"]), 0)

    def _real_step(self, action: np.ndarray) -> None:
        self.obs = self._env.step({"action": action})
        self.action = self.obs.get("action", action)
        self.game_step += 1
        self.reward = float(self.obs["reward"])
        self.total += self.reward
        self.over = bool(self.obs["is_last"])
        self._observe(False)

    def _observe(self, is_first: bool) -> None:
        seen = self.state, self.action, self.obs
        self.state, self.kl = self._stepper.observe(*seen, is_first)

    def _read(self) -> None:
        self.reading = self._stepper.read(self.dream if self.dreaming else self.state)

    def _switch_dream(self) -> None:
        if not self.dreaming:
            self._dream_from_here()
            return
        self.dream = None
        if self.over:
            self._begin()
        self._read()
        self.note = "Back in the real game: the model sees again."

    def _dream_from_here(self) -> None:
        if self.over:
            self._begin()
        self._start_dream(self.state)
        self.note = "The dream begins: from here on the model sees nothing."

    def _start_dream(self, state: State) -> None:
        self.dream = state
        self.dream_step = 0
        self.dream_total = np.zeros(len(state["deter"]))
        self.parted = False
        self._history.clear()
        self._read()

    def _rewind(self) -> None:
        if not self.dreaming:
            self.note = "Only a dream can be taken back: i begins one."
            return
        steps = min(self.REWIND, len(self._history))
        for _ in range(steps):
            self.dream, self.dream_total = self._history.pop()
        self.dream_step -= steps
        self.parted |= steps > 0
        self._read()
        self.note = f"{steps} steps back; from here on another future."

    def _branch(self) -> None:
        if self.futures > 1:
            self.dream = self._stepper.repeat(self.dream, 1)
            self.dream_total = self.dream_total[:1]
            self.note = "On with the first future."
        else:
            if not self.dreaming:
                self._dream_from_here()
            self.dream = self._stepper.repeat(self.dream, self.BRANCHES)
            self.dream_total = np.repeat(self.dream_total, self.BRANCHES)
            self.note = f"{self.BRANCHES} futures of this moment, side by side."
        self._read()

    def _forget(self) -> None:
        if self.dreaming:
            self._history.append((self.dream, self.dream_total))
            self.dream_step += 1
            self.dream = self._stepper.initial(self.futures)
            self.parted = True
            self.note = "The dream goes on from a state of zeros."
        else:
            self._observe(True)
            self.note = "The model has forgotten all but this frame."
        self._read()

    def _new_game(self) -> None:
        dreaming, self.dream = self.dreaming, None
        self._begin()
        if dreaming:
            self._start_dream(self.state)
        self.note = "A new game."

    def _scene(self) -> Scene:
        over = "   game over" if self.over else ""
        title = "STORED EPISODE" if self._stored else "REAL GAME"
        title = f"{title}   step {self.game_step}{over}"
        if self.dreaming:
            title = f"DREAM   {self.dream_step} steps without looking"
        title, color = title + self._pace(), DREAM if self.dreaming else REAL
        return Scene(title, color, self._panes(), self._cells(), self.note)

    def _panes(self) -> list[tuple[str, np.ndarray]]:
        truth, models = self._stepper.picture(self.obs), self.reading.images
        parted = self.dreaming and self.parted
        still = ("\nover" if self.over else "\nstands still") if parted else ""
        real = [(f"environment{still}", truth)] if self.view != "model" else []
        if self.view == "environment":
            return real
        if self.futures > 1:
            rows = zip(models, self.dream_total, self.reading.value, strict=True)
            return real + [
                (f"future {i}: {total:+.2f}\nvalue {value:.2f}", image)
                for i, (image, total, value) in enumerate(rows, 1)
            ]
        panes = [*real, ("dream" if self.dreaming else "model", models[0])]
        if self.view == "both":
            difference = (models[0].astype(int) - truth) // 2 + 128
            if parted:
                difference = np.full_like(difference, 128)
            caption = "they have parted" if parted else "difference"
            panes.append((caption, difference.astype(np.uint8)))
        return panes

    def _cells(self) -> list[tuple[str, str]]:
        reading = self.reading
        parted = self.dreaming and self.parted
        control = "episode" if self._stored and not self.dreaming else self.control
        return [
            ("reward", "-" if parted else f"{self.reward:+.2f}"),
            ("predicted", f"{reading.reward[0]:+.2f}"),
            ("return", "-" if parted else f"{self.total:.2f}"),
            ("value", f"{reading.value[0]:.2f}"),
            ("discount", f"{reading.discount[0]:.3f}"),
            ("KL", "-" if self.dreaming else f"{self.kl:.2f}"),
            ("in control", control),
            ("action", self.game_keys.name(self.action)),
        ]
