"""Play inside the dream of a trained agent.

    python dreamerv2/play.py --logdir ~/logdir/atari_pong/dreamerv2/1

opens a window on the agent in that folder. Without --logdir, it is an agent
that comes along; --logdir also takes such an agent's name, the folder of an
exported one, or hf://ORG/NAME. F1 lists the keys. Without a screen, a script of
keys plays:

    python dreamerv2/play.py --logdir DIR --headless --steps 300 \\
        --keys "50:i 100:k 120:up*20" --record dream.gif
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.episodes.offline import Recordings
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import Flags
from dreamerv2.common.suites.actions import action_names
from dreamerv2.playing.dreamplayer import DreamPlayer, StoredEpisode
from dreamerv2.playing.keys import GameKeys
from dreamerv2.playing.options import SHARED, run_config, run_player, uncompiled
from dreamerv2.playing.player import screen_aspect, screen_of, step_rate
from dreamerv2.playing.stepper import Stepper
from dreamerv2.running.exported import (
    ExportedAgent,
    RunAgent,
    find_agent,
    shipped_agents,
)
from dreamerv2.running.seeds import derive_seed

OPTIONS = {
    "logdir": ("", "whose dream"),
    **SHARED,
    "episode": ("", "start from this stored episode (.npz) instead of the game"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 2 for what the user can mend."""
    return run_player("dreamerv2-play", __doc__, argv, OPTIONS, _make)


def _make(options: Namespace, rest: list[str]) -> tuple[DreamPlayer, str]:
    exported = find_agent(options.logdir or choose_shipped(not options.headless))
    if exported is None:
        config = run_config(["--logdir", options.logdir, *rest])
    else:
        config = uncompiled(Flags(exported.config).parse(rest))
    player = make_player(config, options.episode, options.scale, exported)
    return player, f"Dreaming of {config.task}"


def choose_shipped(asks: bool) -> str:
    """Return the name of a shipped agent, of several maybe the one that a person
    chooses; UsageError if none was shipped."""
    names = list(shipped_agents())
    if not names:
        raise UsageError("No --logdir was given: name the folder of a trained agent.")
    chosen = names[0]
    if asks and len(names) > 1 and sys.stdin is not None and sys.stdin.isatty():
        for number, name in enumerate(names, 1):
            print(f"{number}  {name}")
        answer = input(f"Whose dream (1 to {len(names)}, Enter for {chosen})? ").strip()
        for number, name in enumerate(names, 1):
            chosen = name if answer in (name, str(number)) else chosen
    return chosen


def make_player(
    config: Config,
    episode: str | Path | None = None,
    scale: int = 5,
    exported: ExportedAgent | None = None,
) -> DreamPlayer:
    """Make an agent, `exported` or of the run in config.logdir, play its game, or a
    stored episode where one is named, or, with a sentence, where the environment cannot
    be made here. UsageError for a missing, damaged or misfitting agent."""
    trained = exported or RunAgent(Path(config.logdir).expanduser(), config)
    _ = trained.weights  # What is wrong with them is told before anything is made.
    env, names = None, []
    if not episode:
        try:
            seed = derive_seed(config.seed, "play_env", bits=32)
            env = make_env(config, seed, train=False)
        except UsageError as error:
            episode = trained.episode
            path = Path(config.logdir).expanduser() / "config.yaml"
            saved = Config.read(path) if path.is_file() else {}
            if not (episode and (exported or saved.get("task") == config.task)):
                raise  # The task's name may have a mistake in it.
            print(f"{error} Until then, the dream starts from the episode {episode}.")
    if env is not None:
        game, names, spaces = env, action_names(env), (env.obs_space, env.act_space)
        images = any(len(space.shape) == 3 for space in env.obs_space.values())
        aspect = screen_aspect(screen_of(env) if images else None)
    else:
        path = Path(episode).expanduser()
        recordings = Recordings([path])
        game, spaces = StoredEpisode(recordings.load(path)), recordings.spaces
        aspect = 160 / 210 if config.task.startswith("atari_") else 1.0
        if exported:
            spaces, names = exported.spaces, exported.action_names
    agent = Agent(config, *spaces, Counter(), learns=False)
    trained.restore(agent)
    stepper = Stepper(agent, derive_seed(config.seed, "play_noise"))
    keys = GameKeys(spaces[1]["action"], names)
    rate = step_rate(config.task, config.action_repeat, env)
    return DreamPlayer(stepper, game, keys, rate, scale, aspect)


if __name__ == "__main__":
    sys.exit(main())
