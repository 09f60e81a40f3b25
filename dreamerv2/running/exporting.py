"""Export a run's agent as the three files of `exported`, and send them to the hub."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from dreamerv2 import __version__
from dreamerv2.agent import Agent
from dreamerv2.common.config import Config
from dreamerv2.common.counter import Counter
from dreamerv2.common.envs import make_env
from dreamerv2.common.episodes.npz import to_bytes
from dreamerv2.common.episodes.offline import Recordings, find_episodes
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically
from dreamerv2.common.suites.actions import action_names
from dreamerv2.common.suites.packages import require
from dreamerv2.running import exported
from dreamerv2.running.reference import to_reference

EPISODE_STEPS = 60  # Enough to begin a dream anywhere in them.


def export_run(
    logdir: str | Path,
    folder: str | Path,
    name: str = "",
    episode: str | Path = "",
    **story: Any,
) -> exported.ExportedAgent:
    """Export the agent of a run, as it was at the last checkpoint; UsageError if there
    is no agent, no episode, or no room.

    folder, name: of the three files; by default, the task's name without its suite.
    episode: an .npz file whose beginning dreams can start from; by default the newest
      of the run's evaluations, else of its training.
    story: plain values for people, such as hours=2.5 and score={...}; version, commit
      and frames are found out."""
    run = exported.open_agent(logdir)
    if not isinstance(run, exported.RunAgent):
        raise UsageError(f"{logdir} is exported already: name the folder of a run.")
    config = run.config.update({"jit": False, "device": "cpu"})
    spaces, names = _spaces(config, run.folder)
    agent = Agent(config, *spaces, Counter(), learns=False)
    run.restore(agent)
    if not (episode := episode or run.episode):
        raise UsageError(f"{logdir} has no episode: name an .npz file as episode.")
    path = Path(episode).expanduser()
    arrays = Recordings([path]).load(path)
    name = name or config.task.partition("_")[2] or config.task
    base = Path(folder).expanduser() / name
    found = {"version": __version__, "commit": _commit(), **_progress(run.folder)}
    story = json.loads(json.dumps({**found, **story}))
    card = {"action_names": names, "story": story}
    _write_files(agent, spaces, card, arrays, base)
    return exported.read_agent_files(base)


def _spaces(config: Config, logdir: Path) -> tuple[exported.Spaces, list[str]]:
    """Return spaces and action names of a run's environment, or of its episodes where
    that cannot be made, as one that came from Python."""
    try:
        env = make_env(config, config.seed, train=False)
    except UsageError:
        return Recordings(find_episodes(logdir)).spaces, []
    try:
        return (env.obs_space, env.act_space), action_names(env)
    finally:
        env.close()


def _write_files(
    agent: Agent, spaces: exported.Spaces, card: dict, episode: dict, base: Path
) -> None:
    from safetensors.numpy import save  # Only who exports needs it.

    tensors = {
        name: np.ascontiguousarray(value, np.float16)
        for name, value in to_reference(agent).items()
        if not name.startswith(("target_critic/", "expl_"))
    }
    config = agent.config.update({"expl_behavior": "greedy", "logdir": "/dev/null"})
    card = {
        "config": config.to_dict(),
        "observations": {k: _describe(v) for k, v in spaces[0].items()},
        "action": _describe(spaces[1]["action"]),
        **card,
    }
    short = {k: v[: EPISODE_STEPS + 1] for k, v in episode.items()}
    contents = {
        ".safetensors": lambda file: file.write(save(tensors)),
        ".npz": lambda file: file.write(to_bytes(short)),
        ".yaml": lambda file: YAML(typ="safe", pure=True).dump(card, file),
    }
    for suffix, write in contents.items():
        write_atomically(base.with_name(base.name + suffix), write)


def push_agent(folder: str | Path, repo: str) -> str:
    """Upload an exported agent's folder to the hub as ORG/NAME; return its address.
    Needs the extra `hub`, and a token where huggingface_hub finds it."""
    if exported.find_agent(folder) is None:
        raise UsageError(f"The folder {folder} holds no agent: export one there first.")
    api = require("huggingface_hub", "hub").HfApi()
    path = Path(folder).expanduser()
    with exported.hub_errors(repo):
        api.create_repo(repo, exist_ok=True)
        files = {"folder_path": path, "allow_patterns": exported.PATTERNS}
        api.upload_folder(repo_id=repo, **files)
    return exported.HUB + repo


def _describe(space: Any) -> dict[str, Any]:
    if getattr(space, "discrete", False):
        return {"one_hot": int(space.shape[0])}
    # Bounds are one number each where all are the same.
    low, high = (
        bound.tolist() if (bound != bound.flat[0]).any() else bound.flat[0].item()
        for bound in (space.low, space.high)
    )
    shape = list(map(int, space.shape))
    return {"shape": shape, "dtype": str(space.dtype), "low": low, "high": high}


def _progress(logdir: Path) -> dict[str, Any]:
    path = logdir / "metrics.jsonl"
    frames, timed, seconds = 0, 0, 0.0
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        row = json.loads(line)
        frames = max(frames, row["step"])
        if row.get("fps"):
            seconds += (frames - timed) / row["fps"]
            timed = frames
    return {"frames": frames, "hours": round(seconds / 3600, 2)}


def _commit() -> str:
    command = ["git", "-C", Path(__file__).parent, "rev-parse", "HEAD"]
    try:
        none = subprocess.DEVNULL
        return subprocess.check_output(command, text=True, stderr=none).strip()
    except (OSError, subprocess.CalledProcessError):  # No git.
        return ""
