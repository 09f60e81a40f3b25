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

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.episodes.offline import Recordings
from dreamerv2.common.errors import UsageError
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.playing.dreamplayer import DreamPlayer, EnvSource, EpisodeSource
from dreamerv2.playing.keys import GameKeys, action_names
from dreamerv2.playing.options import SHARED, run_command, run_config
from dreamerv2.playing.player import step_rate
from dreamerv2.playing.stepper import Stepper
from dreamerv2.running.loading import read_agent, restore_behavior
from dreamerv2.running.seeds import derive_seed

OPTIONS = {
    **SHARED,
    "episode": ("", "start from this stored episode (.npz) instead of the game"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 2 for what the user can mend."""
    return run_command("dreamerv2-play", __doc__, argv, OPTIONS, _make)


def _make(options: Config, rest: list[str]) -> tuple[DreamPlayer, str]:
    config = run_config(rest)
    player = make_player(config, options.episode, options.scale)
    return player, f"Dreaming of {config.task}"


def make_player(config: Config, episode: str = "", scale: int = 5) -> DreamPlayer:
    """Make the agent of config.logdir play its game, or a stored episode.

    An episode takes the game's place if one is named, and, with a sentence, if the
    environment cannot be made here.

    Raises:
      UsageError: Neither is there, or the checkpoint is missing, damaged, or of
        another agent.
    """
    if config.logdir in ("", os.devnull):
        raise UsageError("No --logdir was given: name the folder of a trained agent.")
    logdir = Path(config.logdir).expanduser()
    saved = read_agent(logdir, resolve_device(config.device))
    env, spaces = None, None
    if not episode:
        try:
            seed = derive_seed(config.seed, "play_env", bits=32)
            env = make_env(config, seed, train=False)
        except UsageError as error:
            episode = _newest_episode(logdir, config.task)
            if not episode:
                raise
            print(f"{error} Until then, the dream starts from the episode {episode}.")
    if env is not None:
        source, names = EnvSource(env), action_names(env)
        spaces = env.obs_space, env.act_space
    else:
        path = Path(episode).expanduser()
        recordings = Recordings([path])
        aspect = 160 / 210 if config.task.startswith("atari_") else 1.0
        source, names = EpisodeSource(recordings.load(path), aspect), []
        spaces = recordings.spaces
    agent = Agent(config, *spaces, Counter())
    restore_behavior(agent, saved, logdir)
    return DreamPlayer(
        Stepper(agent, derive_seed(config.seed, "play_noise")),
        source,
        GameKeys(spaces[1]["action"], names),
        step_rate(config.task, config.action_repeat, env),
        spaces[1]["action"],
        scale,
    )


def _newest_episode(logdir: Path, task: str) -> str:
    """Return the path of a run's newest episode; empty if there is none of the task."""
    saved = logdir / "config.yaml"
    if not saved.is_file() or Config.read(saved).flat.get("task") != task:
        return ""  # The task's name may have a mistake in it.
    for folder in ("eval_episodes", "train_episodes"):
        names = sorted((logdir / folder).glob("*.npz"))
        if names:
            return str(names[-1])
    return ""


if __name__ == "__main__":
    sys.exit(main())
