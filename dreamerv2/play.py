"""Play inside the dream of a trained agent.

    python dreamerv2/play.py --logdir ~/logdir/atari_pong/dreamerv2/1

opens a window on the agent in that folder, with the config.yaml of the folder. F1 lists
the keys. Without a screen, a script of keys plays:

    python dreamerv2/play.py --logdir DIR --headless --steps 300 \\
        --keys "50:i 100:k 120:up*20" --record dream.gif
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from dreamerv2.agent import Agent
from dreamerv2.common.checkpoint import load_checkpoint
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.dream import Stepper
from dreamerv2.common.dreamplayer import DreamPlayer, EnvSource, EpisodeSource
from dreamerv2.common.envs import OneHotSpace, make_env
from dreamerv2.common.episodes import convert
from dreamerv2.common.errors import UsageError
from dreamerv2.common.keys import GameKeys, Script, action_names
from dreamerv2.common.logdir import CHECKPOINT
from dreamerv2.common.player import step_rate
from dreamerv2.common.playflags import SHARED, run_config, split_flags
from dreamerv2.common.storage import from_bytes
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.common.window import play

OPTIONS = {
    **SHARED,
    "episode": ("", "start from this stored episode (.npz) instead of the game"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 2 for what the user can mend."""
    try:
        argv = sys.argv[1:] if argv is None else list(argv)
        options, rest = split_flags(argv, OPTIONS, __doc__)
        script = Script(options.script)
        config = run_config(rest)
        player = make_player(config, options.episode, options.scale)
        title = f"Dreaming of {config.task}"
        flags = options.steps, options.headless, options.record
        play(player, script, *flags, title)
    except UsageError as error:
        print(f"dreamerv2-play: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def make_player(config: Config, episode: str = "", scale: int = 5) -> DreamPlayer:
    """The agent of config.logdir on its game, or on a stored episode.

    An episode takes the game's place if one is named, and, with a sentence, if the
    environment cannot be made here. Raises UsageError where there is neither, and for
    a checkpoint that is missing, damaged, or of another agent.
    """
    if config.logdir in ("", os.devnull):
        raise UsageError("No --logdir was given: name the folder of a trained agent.")
    logdir = Path(config.logdir).expanduser()
    saved = _load_agent(logdir, config)
    env, spaces = None, None
    if not episode:
        try:
            env = make_env(config, config.seed, train=False)
        except UsageError as error:
            episode = _newest_episode(logdir, config.task)
            if not episode:
                raise
            print(f"{error} Until then, the dream starts from the episode {episode}.")
    if env is not None:
        source, spaces, names = (
            EnvSource(env),
            (env.obs_space, env.act_space),
            action_names(env),
        )
    else:
        arrays = load_episode(episode)
        source, spaces, names = EpisodeSource(arrays), episode_spaces(arrays), []
    agent = Agent(config, *spaces, Counter())
    _restore(agent, saved, logdir)
    return DreamPlayer(
        Stepper(agent, config.seed),
        source,
        GameKeys(spaces[1]["action"], names),
        step_rate(config.task, config.action_repeat, env),
        spaces[1]["action"],
        scale,
    )


def load_episode(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an episode's file; UsageError if it is none."""
    path = Path(path).expanduser()
    try:
        content = from_bytes(path.read_bytes(), convert)
        arrays = {key: value.copy() for key, value in content.arrays.items()}
    except OSError as error:
        raise UsageError(
            f"Cannot read the episode {path} ({error.strerror}): name an .npz file of "
            "a run's train_episodes."
        ) from error
    except Exception as error:  # Damaged bytes raise nearly anything.
        raise UsageError(
            f"The file {path} is damaged or no episode: name an .npz file of a run's "
            "train_episodes."
        ) from error
    missing = {"action", "reward", "is_first", "is_last", "is_terminal"} - {*arrays}
    if missing:
        raise UsageError(
            f"The file {path} is no episode, it lacks {', '.join(sorted(missing))}: "
            "name an .npz file of a run's train_episodes."
        )
    return arrays


def episode_spaces(arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """The observations' and actions' spaces, as far as an episode tells them."""
    obs_space = {k: _box(v) for k, v in arrays.items() if k != "action"}
    action = arrays["action"][1:]  # The first is zero.
    discrete = np.isin(action, (0, 1)).all() and (action.sum(-1) == 1).all()
    size = action.shape[-1]
    space = OneHotSpace(size) if discrete else Box(-1, 1, (size,), np.float32)
    return obs_space, {"action": space}


def _box(values: np.ndarray) -> Box:
    if values.dtype == np.uint8:
        return Box(0, 255, values.shape[1:], np.uint8)
    if values.dtype == bool:
        return Box(0, 1, values.shape[1:], bool)
    return Box(-np.inf, np.inf, values.shape[1:], np.float32)


def _newest_episode(logdir: Path, task: str) -> str:
    """The path of a run's newest episode; empty if there is none of this task."""
    saved = logdir / "config.yaml"
    if not saved.is_file() or Config.load(saved).flat.get("task") != task:
        return ""  # The task's name may have a mistake in it.
    for folder in ("eval_episodes", "train_episodes"):
        names = sorted((logdir / folder).glob("*.npz"))
        if names:
            return str(names[-1])
    return ""


def _load_agent(logdir: Path, config: Config) -> dict[str, Any]:
    path = logdir / CHECKPOINT
    saved = load_checkpoint(path, resolve_device(config.device))
    agent = saved.get("agent") if isinstance(saved, dict) else None
    if not isinstance(agent, dict) or not {"wm", "task_behavior"} <= agent.keys():
        raise UsageError(
            f"The checkpoint {path} holds no agent: name the --logdir of a run of "
            "dreamerv2-train."
        )
    return agent


def _restore(agent: Agent, saved: dict[str, Any], logdir: Path) -> None:
    """What plays and dreams; exploration and random states are left as they are."""
    try:
        agent.wm.load_state_dict(saved["wm"])
        agent.task_behavior.load_state_dict(saved["task_behavior"])
    except UsageError as error:
        found = str(error).partition(", with ")[2].partition(": use the config")[0]
        raise UsageError(
            f"The agent in {logdir} is of another shape than this configuration, with "
            f"{found}: leave out --configs and the other flags, to take the "
            "config.yaml of its folder."
        ) from error


if __name__ == "__main__":
    sys.exit(main())
