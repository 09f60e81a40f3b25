"""The command lines of play.py and play_test.py: own flags, and a run's config."""

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import HELP, Flags, parse_config
from dreamerv2.common.outputs.stdout import print_anything
from dreamerv2.common.settings.rules import checked
from dreamerv2.playing.keys import Script
from dreamerv2.playing.player import KeyPlayer
from dreamerv2.playing.window import play
from dreamerv2.running.logdir import config_of_run

SHARED = {
    "headless": (False, "without a window, by --keys alone"),
    "steps": (0, "leave after so many steps; 0: never, or headless, after the keys"),
    "keys": ("", 'keys at steps: "i 100:k 120:left*20 200:m"'),
    "record": ("", "write what is seen to a .gif or .mp4, or the end to a .png"),
    "scale": (5, "screen pixels for each pixel of a picture"),
}

# These are methods of a Config already.
RENAMED = {"keys": "script", "save": "folder"}

# What a suite is trained with, where no --configs says so.
SUITE_PRESETS = {"atari": "atari", "crafter": "crafter"}


def run_command(
    name: str,
    doc: str,
    argv: Sequence[str] | None,
    options: Mapping[str, tuple[Any, str]],
    make: Callable[[Config, list[str]], tuple[KeyPlayer, str]],
) -> int:
    """Run play.py or play_test.py; return the exit code: 2 for what the user can mend.

    Args:
      name, doc: for messages and for --help.
      options: name -> (default, meaning), beside the flags of the run's config.
      make: takes the options' values and other arguments; gives player and title.
    """
    print_anything()
    try:
        argv = sys.argv[1:] if argv is None else list(argv)
        given, rest = split_flags(argv, options, doc)
        script = Script(given.script)
        player, title = make(given, rest)
        play(player, script, given.steps, given.headless, given.record, title)
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def split_flags(
    argv: Sequence[str], options: Mapping[str, tuple[Any, str]], doc: str
) -> tuple[Config, list[str]]:
    """Return a program's own options, named as RENAMED says, and all other arguments.

    Args:
      options: name -> (default, meaning).
      doc: for the top of --help, which prints all and leaves with code 0.
    """
    defaults = {RENAMED.get(k, k): default for k, (default, _) in options.items()}
    config = Config(defaults)
    if any(argument in HELP for argument in argv):
        print(f"{doc.strip()}\n")
        for name, (default, meaning) in options.items():
            shown = "" if default == "" else f" (default: {default})"
            line = f"--{name:10} {meaning}{shown}"
            print(textwrap.fill(line, 80, subsequent_indent=" " * 13))
        print("\nAll of the run's own flags (see train.py --help) are taken, too.")
        raise SystemExit(0)
    given, rest = Flags(config).parse_known(_with_values(argv, options))
    if given.steps < 0 or not 1 <= given.scale <= 20:
        raise UsageError("--steps must be 0 or more, and --scale 1 to 20.")
    return given, rest


def run_config(argv: Sequence[str]) -> Config:
    """Return the config of a run, in which nothing is compiled.

    It begins with --configs, else the logdir's config.yaml, else the task's preset.
    """
    presets = load_presets()
    if any(a.partition("=")[0] == "--configs" for a in argv):
        return _checked(parse_config(argv, presets))
    defaults = Config(presets["defaults"])
    rough, _ = Flags(defaults).parse_known(argv)
    saved = Path(rough.logdir).expanduser() / "config.yaml"
    if not saved.is_file():
        preset = SUITE_PRESETS.get(rough.task.partition("_")[0], "defaults")
        return _checked(parse_config(["--configs", preset, *argv], presets))
    return _checked(Flags(config_of_run(saved, defaults)).parse(argv))


def _checked(config: Config) -> Config:
    return checked(config.update(jit=False))


def _with_values(argv: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Give --headless alone the value True, and join the words of --keys."""
    result: list[str] = []
    argv = list(argv)
    while argv:
        flag = argv.pop(0)
        values = []
        while argv and not (argv[0].startswith("--") and len(argv[0]) > 2):
            values.append(argv.pop(0))
        name, equals, value = flag.removeprefix("--").partition("=")
        if name in options and equals:
            values.insert(0, value)
        if name == "headless" and not values:
            values = ["True"]
        if name == "keys" and values:
            values = [" ".join(values)]
        if name in options:
            if not values:
                raise UsageError(f"Flag --{name} has no value; write --{name} VALUE.")
            flag = f"--{RENAMED.get(name, name)}={values.pop(0)}"
        result += [flag, *values]
    return result
