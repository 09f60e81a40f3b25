"""What each key must be besides its type: keys.yaml, read and applied."""

import functools
import importlib.resources
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config, Leaf, read_yaml
from dreamerv2.common.episodes.minari import is_minari
from dreamerv2.common.errors import UsageError

PATHS = ("logdir", "load", "offline")


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
            shown, reason = element, ""
            if not isinstance(element, str):
                fits = self.least <= element <= self.most
            else:
                shown, fits = f"'{element}'", not self.names or element in self.names
            try:
                re.compile(element if self.pattern else "")
            except re.error as error:
                fits, reason = False, f" ({error}): '.*' takes every key and '$^' none"
            if not fits:
                raise UsageError(
                    f"--{key} is {shown}; it must be {self.allowed()}{reason}."
                )


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
    if len(config.render_size) != 2:
        raise UsageError("--render_size takes two numbers, the height and the width.")
    if config.async_training and config.offline:
        raise UsageError(
            "--async_training True lets updates go on beside environments, and with "
            "--offline there are none: leave one of the two out."
        )
    if config.load_parts != ("all",) and not config.load:
        raise UsageError(
            "--load_parts says what to take from the run that --load names, and there "
            "is none: add --load, or leave it out."
        )
    if config.disag_action_next and not config.disag_action_cond:
        raise UsageError(
            "--disag_action_next True says which action the ensemble is told, and with "
            "--disag_action_cond False it is told none: leave one of the two out."
        )
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
