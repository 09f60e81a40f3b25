"""What is to be trained: games, sets of settings, seeds; and what is there already."""

import itertools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import parse_config
from dreamerv2.common.plots.curves import find_runs, natural
from dreamerv2.common.plots.scores import load_published
from dreamerv2.common.settings.rules import checked, rule_of
from dreamerv2.common.suites.atari import find_rom
from dreamerv2.common.suites.spelling import letters
from dreamerv2.running.logdir import changes

# One evaluation of one episode per 1e5 frames makes ten in each million, which is what
# the published figures are means of.
EVAL_FRAMES = 100_000

# Flags that a job gets from the plan.
_PLANNED = {
    "task": "--games",
    "steps": "--frames",
    "seed": "--seeds",
    "logdir": "--out",
    "configs": "--configs before the --",
}


@dataclass(frozen=True)
class Method:
    """A set of settings: its name, and the flags of train.py that make it."""

    name: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One run: where it belongs, its configuration, and how it is started.

    Attributes:
      task, method, seed: As in the folder, OUT/TASK/METHOD/SEED.
      frames: After which it is done.
      flags: Of train.py; none of a run that was found and not asked for.
    """

    task: str
    method: str
    seed: str
    folder: Path
    config: Config
    frames: int
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """TASK/METHOD/SEED."""
        return f"{self.task}/{self.method}/{self.seed}"

    @property
    def frames_per_update(self) -> float:
        """Frames between two updates."""
        every = self.config.train_every * self.config.action_repeat
        return every / max(1, self.config.train_steps)


def task_of(game: str) -> str:
    """The task of a game, as the published figures call it: Space Invaders ->
    atari_space_invaders. Raises UsageError for a game that there is not."""
    rom = find_rom(game.removeprefix("atari_"))
    known = {letters(task): task for task in load_published()}
    name = f"atari_{Path(rom).stem}"
    return known.get(letters(name), name)


def make_methods(
    sets: Sequence[Sequence[str]], names: Sequence[str] = ()
) -> list[Method]:
    """Methods of sets of presets and KEY=VALUE, such as `atari train_every=4`.

    Without names they are called dreamerv2, and what a set has beyond the preset
    atari: dreamerv2_train_every4. Raises UsageError for too few or equal names.
    """
    if names and len(names) != len(sets):
        raise UsageError(
            f"--methods has {len(names)} names for {len(sets)} sets of --configs: give "
            "one for each."
        )
    methods = []
    for index, parts in enumerate(sets):
        presets = [part for part in parts if "=" not in part]
        more = [part for part in parts if part not in ("defaults", "atari")]
        plain = (re.sub(r"[^\w.,-]+", "", part) for part in more)
        name = names[index] if names else "_".join(["dreamerv2", *plain])
        if not re.fullmatch(r"\w[\w.,-]*", name):
            raise UsageError(
                f"--methods has {name!r}, which is no name for a folder: use letters, "
                "digits, and _ - . between them."
            )
        settings = [f"--{part}" for part in parts if "=" in part]
        flags = ("--configs", *(presets or ["atari"]), *settings)
        methods.append(Method(name, flags))
    if len({method.name for method in methods}) < len(methods):
        raise UsageError(
            "Two sets of --configs have one name: give them other ones with --methods."
        )
    return methods


def make_jobs(
    out: Path,
    games: Sequence[str],
    methods: Sequence[Method],
    seeds: Sequence[int],
    frames: float,
    passed: Sequence[str] = (),
) -> list[Job]:
    """All runs that are asked for: the first seed of each game and method, then the
    next one.

    Args:
      out: Folder of all of them.
      games, methods, seeds: Each with each.
      frames: To train for, rounded up to a whole policy step.
      passed: More flags of train.py, for all of them.

    Raise UsageError for games, presets and flags that there are not.
    """
    for flag in passed:
        key = flag.removeprefix("--").partition("=")[0]
        if flag.startswith("--") and key in _PLANNED:
            raise UsageError(
                f"Flag --{key} behind the -- is set for each run: use {_PLANNED[key]}."
            )
    tasks = list(dict.fromkeys(task_of(game) for game in games))
    presets = load_presets()
    jobs = []
    for seed, task, method in itertools.product(dict.fromkeys(seeds), tasks, methods):
        folder = out / task / method.name / str(seed)
        repeat = parse_config([*method.flags, *passed], presets).action_repeat
        flags = (
            *method.flags[: _presets_end(method.flags)],
            f"--eval_every={max(1, EVAL_FRAMES // repeat)}",
            *method.flags[_presets_end(method.flags) :],
            *passed,
            f"--task={task}",
            f"--seed={seed}",
            f"--steps={math.ceil(frames / repeat)}",
            f"--logdir={folder}",
        )
        config = checked(parse_config(flags, presets))
        end = config.steps * config.action_repeat
        jobs.append(Job(task, method.name, str(seed), folder, config, end, flags))
    return jobs


def refuse_other_settings(jobs: Sequence[Job]) -> None:
    """Raise UsageError for a run that is there with other settings: a curve is made
    with one setting from its beginning to its end."""
    for job in jobs:
        path = job.folder / "config.yaml"
        if not path.exists() or not (job.folder / "metrics.jsonl").exists():
            continue
        before = Config.read(path)
        other = [
            f"{key} {old} instead of {new}"
            for key, (old, new) in changes(before, job.config).items()
            # What only one version of this project knows is left alone.
            if key in before.flat and key in job.config.flat and not rule_of(key).free
        ]
        if other:
            raise UsageError(
                f"The run in {job.folder} was made with {', '.join(other)}: give the "
                "same settings to go on with it, or these another name (--methods) or "
                "folder (--out)."
            )


def find_jobs(out: Path) -> list[Job]:
    """The runs that lie below a folder, by name, as their config.yaml has them."""
    jobs = []
    for run in find_runs(out) if out.is_dir() else ():
        folder = run.path.parent
        if not (folder / "config.yaml").exists():
            print(f"Left out {folder}: it has no config.yaml.", file=sys.stderr)
            continue
        config = Config.read(folder / "config.yaml")
        end = config.steps * config.action_repeat
        jobs.append(Job(run.task, run.method, run.seed, folder, config, end))
    return sorted(jobs, key=lambda job: natural(job.name))


def merge(asked: Sequence[Job], found: Sequence[Job]) -> list[Job]:
    """Those that are asked for, with the settings of those that were found, and the
    others that were found."""
    known = {job.name: job for job in found}
    names = {job.name for job in asked}
    return [
        *(replace(known.get(job.name, job), frames=job.frames) for job in asked),
        *(job for job in found if job.name not in names),
    ]


def _presets_end(flags: Sequence[str]) -> int:
    return next((i for i, x in enumerate(flags) if "=" in x), len(flags))
