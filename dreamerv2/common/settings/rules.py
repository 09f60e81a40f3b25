"""What each key must be besides its type: keys.yaml, read and applied."""

import functools
import importlib.resources
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config, Leaf, read_yaml
from dreamerv2.common.episodes.minari import is_minari
from dreamerv2.common.errors import UsageError

PATHS = ("logdir", "load", "offline")

CONFLICTS: dict[str, Callable[[Config], bool]] = {
    "--render_size takes two numbers, the height and the width.": lambda c: (
        len(c.render_size) != 2
    ),
    "--async_training True lets updates go on beside environments, and with --offline "
    "there are none: leave one of the two out.": lambda c: (
        c.async_training and c.offline
    ),
    "--load_parts says what to take from the run that --load names, and there is none: "
    "add --load, or leave it out.": lambda c: c.load_parts != ("all",) and not c.load,
    "--disag_action_next True says which action the ensemble is told, and with "
    "--disag_action_cond False it is told none: leave one of the two out.": lambda c: (
        c.disag_action_next and not c.disag_action_cond
    ),
}
"""What no run can work with -> whether a config has it."""


@dataclass(frozen=True)
class Rule:
    """A row of keys.yaml, where the columns are explained."""

    keys: str
    least: float = -math.inf
    most: float = math.inf
    names: Sequence[str] = ()
    pattern: bool = False
    fixed: str = ""
    free: bool = False

    def allowed(self) -> str:
        """Return what a value must be, to follow "it must be"; empty if it is free."""
        if self.names:
            return f"{', '.join(self.names[:-1])} or {self.names[-1]}"
        if self.pattern:
            return "a regular expression"
        if self.most < math.inf:
            return f"{self.least} to {self.most}"
        return f"{self.least} or more" if self.least > -math.inf else ""

    def check(self, key: str, value: Leaf) -> None:
        """Raise UsageError if the value, or an element of it, is not allowed."""
        for element in value if isinstance(value, tuple) else (value,):
            if (reason := self._refusal(element)) is not None:
                shown = f"'{element}'" if isinstance(element, str) else element
                raise UsageError(
                    f"--{key} is {shown}; it must be {self.allowed()}{reason}."
                )

    def _refusal(self, value: Any) -> str | None:
        """Return None for an allowed value, else what there is to say about it."""
        if not isinstance(value, str):
            return None if self.least <= value <= self.most else ""
        if self.names:
            return None if value in self.names else ""
        try:
            re.compile(value if self.pattern else "")
        except re.error as error:
            return f" ({error}): '.*' takes every key and '$^' none"
        return None


@functools.cache
def rules() -> tuple[Rule, ...]:
    """Return the rows of keys.yaml in their order."""
    table = read_yaml(importlib.resources.files("dreamerv2") / "keys.yaml")
    return tuple(Rule(keys, **row) for keys, row in table.items())


@functools.cache
def rule_of(key: str) -> Rule:
    """Return the row of a whole dotted key; one without bounds if there is none."""
    matching = (rule for rule in rules() if re.fullmatch(rule.keys, key))
    return next(matching, Rule(re.escape(key)))


def checked(config: Config) -> Config:
    """Return the config with absolute paths, as an environment may change the folder;
    UsageError for values of the right type with which no run can work."""
    for key, value in config.flat.items():
        rule_of(key).check(key, value)
    for sentence, conflict in CONFLICTS.items():
        if conflict(config):
            raise UsageError(sentence)
    paths = {key: os.path.expanduser(config[key]) for key in PATHS if config[key]}
    if is_minari(config.offline):
        del paths["offline"]
    if not os.path.exists(paths.get("load", "")):
        paths.pop("load", None)  # The name of an agent that comes along, or a hub's.
    return config.update({key: Path(path).absolute() for key, path in paths.items()})


def check_videos(config: Config, obs_space: Mapping[str, Any]) -> None:
    """Raise UsageError if log_keys_video was changed to what is no image."""
    images = [key for key, space in obs_space.items() if len(space.shape) == 3]
    for key in config.log_keys_video:
        if key not in (*images, "none", "image"):
            raise UsageError(
                f"--log_keys_video names '{key}', but the images are "
                f"{', '.join(images) or 'none'}: name some of these, or none."
            )
