"""Play an environment yourself, through the wrappers that the agent trains with.

    python dreamerv2/play_test.py --task atari_pong
    python dreamerv2/play_test.py --env SpaceInvaders-v0

The real screen is beside what the agent sees. --env takes any of Gymnasium's
ids, --task one of ours. --save DIR keeps the episodes, to be trained on. F1
lists the keys."""

import re
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from dreamerv2.common.config import Config
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.replay import Replay
from dreamerv2.common.suites.actions import action_names
from dreamerv2.common.suites.atari import find_rom
from dreamerv2.playing.canvas import Canvas, Scene, bars
from dreamerv2.playing.keys import GameKeys
from dreamerv2.playing.options import SHARED, run_config, run_player
from dreamerv2.playing.player import KeyPlayer, screen_aspect, screen_of, step_rate
from dreamerv2.running.seeds import derive_seed

PERSON, CHANCE = (30, 74, 120), (96, 78, 28)

OPTIONS = {
    **SHARED,
    "env": ("", "a Gymnasium id, such as CartPole-v1, in place of --task"),
    "save": ("", "keep the episodes in this folder, in the replay's format"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 2 for what the user can mend."""
    return run_player("dreamerv2-play-test", __doc__, argv, OPTIONS, _make)


def _make(options: Namespace, rest: list[str]) -> tuple["EnvPlayer", str]:
    if options.env:
        rest += ["--task", task_of(options.env)]
    config = run_config(rest)
    return make_player(config, options.save, options.scale), f"Playing {config.task}"


def task_of(env_id: str) -> str:
    """Return the task of a Gymnasium id; old ids of Atari lead to our own Atari."""
    if env_id in gymnasium.registry:
        return f"gym_{env_id}"
    game = re.sub(r"(-ram)?(NoFrameskip|Deterministic)?-v\d+$", "", env_id)
    try:
        find_rom(game)
    except UsageError:
        return f"gym_{env_id}"
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", game).lower()
    print(f"Gymnasium has no {env_id} any more: playing our atari_{name}.")
    return f"atari_{name}"


def make_player(config: Config, save: str = "", scale: int = 5) -> "EnvPlayer":
    """Seat a person at the environment of config.task."""
    seed = derive_seed(config.seed, "play_env", bits=32)
    env = make_env(config, seed, train=True)
    replay = Replay(save) if save else None
    keys = GameKeys(env.act_space["action"], action_names(env))
    rate = step_rate(config.task, config.action_repeat, env)
    return EnvPlayer(env, keys, rate, replay, scale)


class EnvPlayer(KeyPlayer):
    """Lets a person, or chance, play an environment, wrapped as for the agent; `replay`
    gets the episodes, the last one cut short."""

    HINT = "arrows and space play    l random    p pause    + - speed    F1 all keys"

    def __init__(
        self, env: Any, keys: GameKeys, rate: float, replay: Replay | None, scale: int
    ):
        super().__init__(keys, rate)
        self.view = "both"  # Or screen, or agent.
        self.saved = 0
        self._env, self._replay = env, replay
        self._episode: list[dict[str, np.ndarray]] = []
        _let_render(env)
        toggle = self._toggle
        self.commands = {
            "m": (toggle("view", "agent", "screen"), "real screen or agent's image"),
            "v": (toggle("view", "both", "screen"), "both side by side"),
            "l": (toggle("control", "person", "random"), "random or person plays"),
            "r": (self._begin, "a new episode"),
            "f": (self._begin, "a new episode"),
            **self.commands,
        }
        self._begin()
        self.canvas = Canvas(3, scale, screen_aspect(self.picture))

    def close(self) -> None:
        """Keep the episode at hand and free the environment."""
        self._keep()
        self._env.close()

    def _begin(self) -> None:
        self._keep()
        self.obs = self._env.reset()
        self.total = 0.0
        self.action = np.zeros(self.game_keys.space.shape, np.float32)
        self._episode = [self._transition()]
        self.picture = self._render()

    def _step(self) -> None:
        if self.obs["is_last"]:
            self._begin()
            return
        self.action = self._by_hand()
        self.obs = self._env.step({"action": self.action})
        self.total += float(self.obs["reward"])
        self._episode.append(self._transition())
        self.picture = self._render()
        if self.obs["is_last"]:
            self.note = f"The episode ended with a return of {self.total:g}."

    def _transition(self) -> dict[str, np.ndarray]:
        return {k: np.array(v) for k, v in {**self.obs, "action": self.action}.items()}

    def _keep(self) -> None:
        """Save the episode; one left in the middle ends there, and is not terminal."""
        steps, self._episode = self._episode, []
        if self._replay is None or len(steps) < 2:
            return
        episode = {k: np.stack([step[k] for step in steps]) for k in steps[0]}
        episode["is_last"][-1] = True
        self._replay.add_episode(episode)
        self.saved += 1
        print(f"Saved an episode of {len(steps) - 1} steps, return {self.total:g}.")

    def _render(self) -> np.ndarray | None:
        try:
            return screen_of(self._env)
        except gymnasium.error.DependencyNotInstalled as error:
            self.note = f"No screen: {error}"
            return None

    def _agent_view(self) -> tuple[str, np.ndarray]:
        arrays = {k: np.asarray(v) for k, v in self.obs.items() if k[:4] != "log_"}
        images = {k: v for k, v in arrays.items() if v.ndim == 3}
        if images:
            image = images.get("image", next(iter(images.values())))
            return f"agent: {image.shape[0]}x{image.shape[1]}", image
        vectors = {k: v for k, v in arrays.items() if v.ndim == 1}
        return f"agent: {', '.join(vectors)}", bars(np.hstack([[], *vectors.values()]))

    def _scene(self) -> Scene:
        panes = {"screen": ("screen", self.picture), "agent": self._agent_view()}
        shown = panes if self.view == "both" else [self.view]
        step = len(self._episode) - 1
        over = "   episode over" if self.obs["is_last"] else ""
        return Scene(
            f"{self.control.upper()} PLAYS   step {step}{over}{self._pace()}",
            PERSON if self.control == "person" else CHANCE,
            [panes[name] for name in shown if panes[name][1] is not None],
            [
                ("reward", f"{float(self.obs['reward']):+.2f}"),
                ("return", f"{self.total:.2f}"),
                ("step", str(step)),
                ("in control", self.control),
                ("action", self.game_keys.name(self.action)),
                *([("saved", str(self.saved))] if self._replay else []),
            ],
            self.note,
        )


def _let_render(env: Any) -> None:
    """Have a Gymnasium environment made for training give its screen, too."""
    base = getattr(env, "unwrapped", None)
    modes = (getattr(base, "metadata", None) or {}).get("render_modes", ())
    lacks = isinstance(base, gymnasium.Env) and base.render_mode is None
    if lacks and "rgb_array" in modes:
        base.render_mode = "rgb_array"


if __name__ == "__main__":
    sys.exit(main())
