"""The command lines of play.py and play_test.py: own flags, and a run's config."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import Flags, OptionParser, parse_config, run_command
from dreamerv2.common.settings.rules import checked
from dreamerv2.playing.keys import Script
from dreamerv2.playing.player import KeyPlayer
from dreamerv2.playing.window import play

SHARED = {
    "headless": (False, "without a window, by --keys alone"),
    "steps": (0, "leave after so many steps; 0: never, or headless, after the keys"),
    "keys": ((), 'keys at steps: "i 100:k 120:left*20 200:m"'),
    "record": ("", "write what is seen to a .gif or .mp4, or the end to a .png"),
    "scale": (5, "screen pixels for each pixel of a picture"),
}


def run_player(
    name: str,
    doc: str,
    argv: Sequence[str] | None,
    options: Mapping[str, tuple[Any, str]],
    make: Callable[[argparse.Namespace, list[str]], tuple[KeyPlayer, str]],
) -> int:
    """Run play.py or play_test.py; return the exit code: 2 for what the user can mend.
    `options` are {name: (default, meaning)}, beside the flags of the run's config;
    `make` turns their values and the other arguments into player and title."""

    def work() -> None:
        given, rest = split_flags(argv, options, doc)
        script = Script(given.keys)
        play(*make(given, rest), script, given.steps, given.headless, given.record)

    return run_command(name, work)


def split_flags(
    argv: Sequence[str] | None, options: Mapping[str, tuple[Any, str]], doc: str
) -> tuple[argparse.Namespace, list[str]]:
    """Return the values of a program's own options, and all other arguments."""
    also = "All of the run's own flags (see train.py --help) are taken, too."
    parser = OptionParser(doc, epilog=also)
    for name, (default, meaning) in options.items():
        more: dict[str, Any] = {"type": type(default)}
        if default is False:
            more = {"nargs": "?", "const": True, "type": "True".__eq__}
        elif name == "keys":
            more = {"nargs": "+"}
        parser.add_argument(f"--{name}", default=default, help=meaning, **more)
    given, rest = parser.parse_known_args(argv)
    given.keys = " ".join(given.keys)
    if given.steps < 0 or not 1 <= given.scale <= 20:
        raise UsageError("--steps must be 0 or more, and --scale 1 to 20.")
    return given, rest


def run_config(argv: Sequence[str]) -> Config:
    """Return the config of a run, uncompiled: it begins with --configs, else the
    logdir's config.yaml, else the task's preset."""
    presets = load_presets()
    if not any(a.partition("=")[0] == "--configs" for a in argv):
        defaults = Config(presets["defaults"])
        rough, _ = Flags(defaults).parse_known(argv)
        saved = Path(rough.logdir).expanduser() / "config.yaml"
        if saved.is_file():
            return uncompiled(Flags(defaults.fitted(Config.read(saved))).parse(argv))
        suite = rough.task.partition("_")[0]
        preset = suite if suite in ("atari", "crafter") else "defaults"
        argv = ["--configs", preset, *argv]
    return uncompiled(parse_config(argv, presets))


def uncompiled(config: Config) -> Config:
    """Check a config, in which nothing is to be compiled."""
    return checked(config.update(jit=False))
