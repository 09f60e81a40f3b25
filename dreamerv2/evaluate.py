"""Score a finished agent.

    python dreamerv2/evaluate.py --logdir ~/logdir/pong/1 --episodes 100 --envs 4

prints mean, standard deviation, quartiles, lowest and highest return of whole episodes,
on the human-normalised scale where that is known. --logdir takes a run's folder, an
agent that comes along (freeway), the folder of an exported one, or hf://ORG/REPO. The
same command gives the same numbers again."""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from dreamerv2.agent import Agent
from dreamerv2.common.counter import Counter
from dreamerv2.common.driver import Driver
from dreamerv2.common.envs import make_env
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically
from dreamerv2.common.flags import OptionParser, run_command
from dreamerv2.common.outputs.pictures import as_video, encode_gif
from dreamerv2.common.outputs.progress import progress
from dreamerv2.common.plots.scores import load_baselines, normalize
from dreamerv2.running.exported import ExportedAgent, RunAgent, open_agent
from dreamerv2.running.seeds import derive_env_seed

FPS = 15  # Of the game: four frames of 60 Hz are one policy step.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code: 2 for what the user can mend."""
    return run_command("dreamerv2-evaluate", lambda: _score(parse(argv)))


def _score(options: argparse.Namespace) -> None:
    agent = open_agent(options.logdir)
    with tempfile.TemporaryDirectory() as scratch:
        keep = Path(scratch) if options.video else None
        played = options.episodes, options.envs, options.seed, options.device
        returns, lengths = evaluate(agent, *played, keep)
        result = summarize(agent, returns, lengths, options.seed)
        print_summary(result)
        if options.video:
            write_videos(keep, returns, Path(options.video).expanduser())
    if options.json:
        text = json.dumps(result, indent=2) + "\n"
        path = Path(options.json).expanduser()
        write_atomically(path, lambda file: file.write(text.encode()))
        print(f"Wrote {path}.")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags; UsageError for what is wrong in them."""
    parser = OptionParser(__doc__, prog="dreamerv2-evaluate")
    add = parser.add_argument
    add("--logdir", required=True, help="run, shipped agent, exported folder, or hf://")
    add("--episodes", type=int, default=20, help="whole episodes to play (default: 20)")
    add("--envs", type=int, default=1, help="environments side by side (default: 1)")
    add("--seed", type=int, default=0, help="of environments and latents (default: 0)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    add("--json", default="", help="write the numbers, every return among them, there")
    add("--video", default="", help="a folder for GIFs of the best and median episode")
    options = parser.parse_args(argv)
    if min(options.episodes, options.envs) < 1:
        parser.error("--episodes and --envs must be 1 or more")
    return options


def evaluate(
    trained: ExportedAgent | RunAgent,
    episodes: int,
    envs: int = 1,
    seed: int = 0,
    device: str = "auto",
    videos: Path | None = None,
) -> tuple[list[float], list[int]]:
    """Play whole episodes; return returns and lengths. `videos` gets the images. All
    environments play as many, up to one, so that short ones count no more than long."""
    changes = {"jit": False, "device": device, "seed": seed, "load": "", "offline": ""}
    config, count = trained.config.update(changes), min(envs, episodes)
    made: list[Any] = []
    with ExitStack() as stack:
        for index in range(count):
            env_seed = derive_env_seed(seed, False, index)
            made.append(make_env(config, env_seed, train=False))
            stack.callback(made[-1].close)
        spaces = made[0].obs_space, made[0].act_space
        agent = Agent(config, *spaces, Counter(), learns=False)
        trained.restore(agent)
        returns, lengths = [], []
        with progress("Evaluate", total=episodes, unit="episodes") as bar:

            def finished(episode: dict[str, np.ndarray], worker: int) -> None:
                images = [key for key, x in episode.items() if x.ndim == 4]
                if videos and images:
                    video = episode["image" if "image" in images else images[0]]
                    np.savez_compressed(videos / f"{len(returns)}.npz", video=video)
                returns.append(float(episode["reward"].astype(np.float64).sum()))
                lengths.append(len(episode["reward"]) - 1)
                bar.advance(1)

            policy = functools.partial(agent.policy, mode="eval")
            each, rest = divmod(episodes, count)
            driver = Driver(made)
            driver.on_episode(finished)
            driver(policy, episodes_per_env=[each + (i < rest) for i in range(count)])
    return returns, lengths


def summarize(
    agent: ExportedAgent | RunAgent, returns: list[float], lengths: list[int], seed: int
) -> dict[str, Any]:
    """Return all figures of an evaluation, as JSON takes them."""
    names = ("lowest", "quartile_1", "median", "quartile_3", "highest")
    quantiles = np.quantile(returns, [0, 0.25, 0.5, 0.75, 1]).tolist()
    result = {
        "agent": agent.name,
        "task": agent.config.task,
        "episodes": len(returns),
        "seed": seed,
        "mean": float(np.mean(returns)),
        "std": float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0,
        **dict(zip(names, quantiles, strict=True)),
        "mean_length": float(np.mean(lengths)),
        "returns": returns,
    }
    baselines = load_baselines().get(result["task"], {})
    if (human := normalize(result["mean"], baselines, "human_gamer")) is not None:
        result["human_normalised"] = float(human)
    return result


def print_summary(result: dict[str, Any]) -> None:
    """Print the figures in a few lines."""
    print(
        f"{result['task']}: mean {result['mean']:.1f}, standard deviation "
        f"{result['std']:.1f}, of {result['episodes']} episodes."
    )
    print(
        f"Lowest {result['lowest']:g}, quartiles {result['quartile_1']:g}, "
        f"{result['median']:g}, {result['quartile_3']:g}, highest "
        f"{result['highest']:g}; {result['mean_length']:.0f} steps on average."
    )
    if (human := result.get("human_normalised")) is not None:
        print(f"Human-normalised: {human:.2f} (0 is a random player, 1 a human gamer).")


def write_videos(pictures: Path, returns: list[float], folder: Path) -> None:
    """Write GIFs of the best and of the median episode from what `evaluate` kept."""
    order = np.argsort(returns, kind="stable")
    chosen = {"best": order[-1], "median": order[(len(order) - 1) // 2]}
    for name, index in chosen.items():
        source = pictures / f"{index}.npz"
        if not source.exists():
            raise UsageError("There is nothing to see: this task has no images.")
        with np.load(source) as file:
            gif = encode_gif(as_video(file["video"]), FPS)
        path = folder / f"{name}_{returns[index]:g}.gif"
        write_atomically(path, lambda file, gif=gif: file.write(gif))
        print(f"Wrote {path}.")


if __name__ == "__main__":
    sys.exit(main())
