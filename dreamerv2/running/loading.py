"""Trained agents on disk: read, and taken as the start of another."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config
from dreamerv2.common.envs import Env
from dreamerv2.common.episodes.recording import read_recording
from dreamerv2.common.errors import Misfit, UsageError, match_state
from dreamerv2.common.settings.rules import rule_of
from dreamerv2.common.suites.interface import signal_spaces
from dreamerv2.common.torchutils import named_tensors
from dreamerv2.running.logdir import CHECKPOINT, changes
from dreamerv2.running.statefile import load_checkpoint

Shapes = dict[str, tuple[int, ...]]

# What --load_parts names -> the agent's part.
PARTS = {
    "world_model": "wm",
    "actor_critic": "task_behavior",
    "exploration": "expl_behavior",
}


def read_agent(logdir: str | Path, device: torch.device) -> dict[str, Any]:
    """Return the state of the agent in a run's checkpoint, or raise UsageError."""
    path = Path(logdir).expanduser() / CHECKPOINT
    saved = load_checkpoint(path, device)
    agent = saved.get("agent") if isinstance(saved, dict) else None
    if not isinstance(agent, dict) or not {"wm", "task_behavior"} <= agent.keys():
        raise UsageError(
            f"The checkpoint {path} holds no agent: name the --logdir of a run of "
            "dreamerv2-train."
        )
    return agent


def refuse_other_spaces(source: str | Path, known: Shapes | None, env: Env) -> None:
    """Raise UsageError if an environment's shapes are not the agent's known ones."""
    shapes = shapes_of(env.obs_space, env.act_space)
    known = shapes if known is None else known
    pairs = {k: (known.get(k, "none"), shapes.get(k, "none")) for k in known | shapes}
    listed = ", ".join(
        f"{k!r} of shape {old} rather than {new}"
        for k, (old, new) in pairs.items()
        if old != new
    )
    if listed:
        raise UsageError(
            f"The agent in {source} learned from other spaces than this environment "
            f"has: {listed}; give that of its training, or choose another logdir."
        )


def refuse_unlike(envs: Sequence[Env]) -> None:
    """Raise UsageError if the environments of a run have not all the same spaces."""
    shapes = [shapes_of(env.obs_space, env.act_space) for env in envs]
    kinds = [hasattr(env.act_space["action"], "n") for env in envs]
    for shape, kind in zip(shapes, kinds, strict=True):
        if (shape, kind) != (shapes[0], kinds[0]):
            raise UsageError(
                f"The environments of a run differ in their spaces, {shapes[0]} and "
                f"{shape}: give environments of one kind, to train and to evaluate."
            )


def shapes_of(obs_space: Mapping[str, Any], act_space: Mapping[str, Any]) -> Shapes:
    """Return the shapes of the action and of what is learned from."""
    shapes = {k: tuple(v.shape) for k, v in obs_space.items() if _is_learned(k)}
    return {**shapes, "action": tuple(act_space["action"].shape)}


def shapes_of_run(logdir: Path) -> Shapes | None:
    """Return the same by the newest episode of a run; None if there is none."""
    for path in sorted((logdir / "train_episodes").glob("*.npz"), reverse=True):
        with contextlib.suppress(UsageError):  # Damaged; the replay tells of it.
            arrays, _ = read_recording(path)
            return {k: v.shape[1:] for k, v in arrays.items() if _is_learned(k)}
    return None


def _is_learned(key: str) -> bool:
    return not key.startswith("log_") and key not in signal_spaces()


def load_weights(agent: Agent, logdir: str | Path, parts: Sequence[str]) -> None:
    """Start an agent from the networks and reward norms of another run's, and say so.
    `parts` are of `PARTS`, or `all`: what both have. UsageError names what misfits."""
    logdir = Path(logdir).expanduser()
    saved = read_agent(logdir, agent.device)
    explores = set(agent.expl_behavior.parts)
    alike = explores and explores == set(saved.get("expl_behavior", {}))
    both = [name for name in PARTS if alike or name != "exploration"]
    wanted = [*parts, *both] if "all" in parts else parts
    chosen = [name for name in PARTS if name in wanted]
    try:
        copy_weights(agent, saved, chosen, logdir)
    except Misfit as error:
        path = logdir / "config.yaml"
        differ = changes(Config.read(path), agent.config) if path.is_file() else {}
        listed = ", ".join(
            f"{key} {old} rather than {new}"
            for key, (old, new) in differ.items()
            if rule_of(key).fixed == "networks"
        )
        advice = f"it has {listed}" if listed else "its spaces are others"
        raise UsageError(
            f"{error.where} does not fit this configuration, with {error.found}; "
            f"{advice}: use its settings, or another --load."
        ) from error
    print(f"Loaded the weights of {' and '.join(chosen)} from {logdir}.")


@torch.no_grad()
def copy_weights(
    agent: Agent, saved: Mapping[str, Any], chosen: Sequence[str], logdir: Path
) -> None:
    """Copy the weights of the chosen `PARTS`; Misfit, and no change, if one misfits."""
    pairs: list[tuple[Tensor, Tensor]] = []
    for name in chosen:
        own = _weights(getattr(agent, PARTS[name]).state_dict())
        found = _weights(saved.get(PARTS[name], {}))
        match_state(own, found, f"The {name} of {logdir}")
        pairs += [(own[key], found[key]) for key in own]
    for old, new in pairs:
        old.copy_(new)


def _weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a state's tensors, but for optimizers and counters, by dotted names."""
    left_out = re.compile(r"(^|[._])(opt|updates)(\.|$)")
    return {k: x for k, x in named_tensors(state).items() if not left_out.search(k)}
