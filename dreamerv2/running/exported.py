"""Finished agents in three small files, with which anyone can play, score and act.

    NAME.safetensors  parameters by the reference's names and layouts, in 16 bits
    NAME.yaml         config, spaces, what the actions mean, and where it comes from
    NAME.npz          a short recorded episode, from which a dream can start

They hold world model, actor and critic, and nothing that runs when it is read."""

import contextlib
import functools
import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from ruamel.yaml import YAML

from dreamerv2.agent import Agent
from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import first_line
from dreamerv2.common.suites.packages import require
from dreamerv2.common.suites.wrappers import OneHotSpace
from dreamerv2.common.torchutils import resolve_device
from dreamerv2.running import loading
from dreamerv2.running.reference import load_reference, to_reference

SUFFIXES = (".safetensors", ".yaml", ".npz")
PATTERNS = [f"*{suffix}" for suffix in SUFFIXES]
HUB = "hf://"
ACTS = ("actor/", "critic/", "target_critic/")  # Of the actor-critic's parameters.

Spaces = tuple[dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class ExportedAgent:
    """A finished agent's files."""

    base: Path  # Of the three files, without their suffix.
    config: Config  # The whole one that it was trained with.
    spaces: Spaces  # Of observations and of actions.
    action_names: list[str]  # What its discrete actions mean; may be empty.
    story: dict[str, Any]  # Commit, frames, hours, score, as far as they are known.

    @property
    def name(self) -> str:
        """Return the name of its files."""
        return self.base.name

    @property
    def episode(self) -> Path:
        """Return the path of the recorded episode."""
        return _file(self.base, ".npz")

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Read the parameters, once; UsageError if they are damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = _file(self.base, ".safetensors")
        try:
            tensors = load(path.read_bytes())
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"The file {path} cannot be read ({error}): copy the agent's three "
                "files anew."
            ) from error
        return {name: value.astype(np.float32) for name, value in tensors.items()}

    @property
    def shapes(self) -> loading.Shapes:
        """Return the shapes of what the agent learned from."""
        return loading.shapes_of(*self.spaces)

    def restore(self, agent: Agent, parts: Sequence[str] = ("all",)) -> None:
        """Give an agent of this config its parameters; UsageError if they misfit."""
        critic = {k: v for k, v in self.weights.items() if k.startswith("critic/")}
        params = self.weights | {f"target_{k}": v for k, v in critic.items()}
        if "all" not in parts:
            wanted = {True: "actor_critic" in parts, False: "world_model" in parts}
            params = {k: v for k, v in params.items() if wanted[k.startswith(ACTS)]}
        load_reference(agent, to_reference(agent) | params)


@dataclass(frozen=True)
class RunAgent:
    """The agent in a run's checkpoint, by the interface of an ExportedAgent."""

    folder: Path
    config: Config
    spaces: None = None  # Its environment tells.

    @property
    def name(self) -> str:
        """Return the folder."""
        return str(self.folder)

    @property
    def episode(self) -> Path | None:
        """Return the newest episode, of an evaluation if there is one."""
        for name in ("eval_episodes", "train_episodes"):
            if found := sorted((self.folder / name).glob("*.npz")):
                return found[-1]
        return None

    @functools.cached_property
    def weights(self) -> dict[str, Any]:
        """Read the checkpoint, once; UsageError if it is missing or damaged."""
        return loading.read_agent(self.folder, resolve_device(self.config.device))

    @property
    def shapes(self) -> loading.Shapes | None:
        """Return the shapes of what the agent learned from, if episodes are there."""
        return loading.shapes_of_run(self.folder)

    def restore(self, agent: Agent) -> None:
        """Give an agent of this config the checkpoint's world model, actor, critic."""
        names = "world_model", "actor_critic"
        loading.copy_weights(agent, self.weights, names, self.folder)


def start_from(agent: Agent, source: str, parts: Sequence[str]) -> None:
    """Start an agent from the weights of another, as `load_weights`, or exported."""
    exported = find_agent(source)
    if exported is None:
        loading.load_weights(agent, source, parts)
        return
    if "exploration" in parts:
        raise UsageError(
            f"The agent {exported.name} is an exported one, without exploration: leave "
            "it out of --load_parts."
        )
    exported.restore(agent, parts)
    print(f"Loaded the weights of {' and '.join(parts)} from {exported.base}.")


def open_agent(source: str | Path) -> ExportedAgent | RunAgent:
    """Open the agent of a run's folder, or as `find_agent`; UsageError without one."""
    folder = Path(source).expanduser()
    path = folder / "config.yaml"
    if path.is_file():
        defaults = Config(load_presets()["defaults"])
        return RunAgent(folder, defaults.fitted(Config.read(path)))
    agent = find_agent(source)
    if agent is None:
        shipped = ", ".join(shipped_agents()) or "none"
        raise UsageError(
            f"There is no agent in {source}: give the --logdir of a run, the folder of "
            f"an exported agent, or the name of one that comes along ({shipped})."
        )
    return agent


def shipped_agents() -> dict[str, Path]:
    """Return the agents that come with the package: name -> base of their files."""
    folder = Path(str(importlib.resources.files("dreamerv2") / "agents"))
    return {path.stem: path.with_suffix("") for path in sorted(folder.glob("*.yaml"))}


def find_agent(source: str | Path) -> ExportedAgent | None:
    """Find an exported agent by a shipped name, a folder, a file of it, or hf://; None
    for none, as in a run's folder. UsageError for bad files, and a hub's failures."""
    if str(source).startswith(HUB):
        repo = str(source).removeprefix(HUB)
        api = require("huggingface_hub", "hub").HfApi()
        with hub_errors(repo):
            source = Path(api.snapshot_download(repo, allow_patterns=PATTERNS))
    base = shipped_agents().get(str(source))
    if base is None:
        path = Path(source).expanduser()
        found = sorted(path.glob("*.safetensors")) if path.is_dir() else []
        if len(found) > 1:
            names = ", ".join(p.stem for p in found)
            raise UsageError(
                f"The folder {path} holds several agents ({names}): name one of them, "
                f"such as {found[0]}."
            )
        if not found and path.suffix not in SUFFIXES:
            return None
        base = (found[0] if found else path).with_suffix("")
    return read_agent_files(base)


def read_agent_files(base: Path) -> ExportedAgent:
    """Read an exported agent, but for its parameters; UsageError if files are bad."""
    for suffix in SUFFIXES:
        if not _file(base, suffix).is_file():
            raise UsageError(
                f"The agent {base} is incomplete, its file {base.name}{suffix} is "
                "missing: export it again, or copy all three files."
            )
    path = _file(base, ".yaml")
    try:
        card = YAML(typ="safe", pure=True).load(path.read_text("utf-8"))
        config = Config(load_presets()["defaults"]).fitted(card["config"])
        observations = {k: _space(v) for k, v in card["observations"].items()}
        spaces = observations, {"action": _space(card["action"])}
        names = [str(name) for name in card["action_names"]]
        story = dict(card["story"])
    except UsageError:
        raise
    except Exception as error:  # A reader of YAML may raise anything for damage.
        raise UsageError(
            f"The file {path} is damaged ({type(error).__name__}): export the agent "
            "again, or copy its three files anew."
        ) from error
    return ExportedAgent(base, config, spaces, names, story)


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    try:
        yield
    except Exception as error:
        raise UsageError(
            f"The hub does not give or take {repo} ({first_line(error)}): "
            "check the name, the network, and your token."
        ) from error


def _file(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)  # The name may have a dot in it.


def _space(card: Mapping[str, Any]) -> Any:
    if "one_hot" in card:
        return OneHotSpace(card["one_hot"])
    shape, dtype = tuple(card["shape"]), np.dtype(card["dtype"])
    low, high = (np.full(shape, card[key], dtype) for key in ("low", "high"))
    return Box(low, high, shape, dtype.type)
