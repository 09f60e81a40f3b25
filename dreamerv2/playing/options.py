"""The command lines of play.py and play_test.py: own flags, and a run's config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamerv2.common.config import Config, load_presets
from dreamerv2.common.errors import UsageError
from dreamerv2.common.flags import Flags, parse_config
from dreamerv2.common.limits import check_limits
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


def split_flags(
    argv: Sequence[str], options: Mapping[str, tuple[Any, str]], doc: str
) -> tuple[Config, list[str]]:
    """A program's own options, and the arguments that are for the run's config.

    The options' names are those of the flags, but for RENAMED.

    Args:
      options: name -> (default, meaning).
      doc: for the top of --help, which prints all and leaves with code 0.
    """
    defaults = {RENAMED.get(k, k): default for k, (default, _) in options.items()}
    config = Config(defaults)
    if any(argument in ("--help", "-h") for argument in argv):
        print(f"{doc.strip()}\n")
        for name, (default, meaning) in options.items():
            shown = "" if default == "" else f" (default: {default})"
            print(f"--{name:10} {meaning}{shown}")
        print("\nAll of the run's own flags (see train.py --help) are taken, too.")
        raise SystemExit(0)
    given, rest = Flags(config).parse_known(_with_values(argv, options))
    if given.steps < 0 or not 1 <= given.scale <= 20:
        raise UsageError("--steps must be 0 or more, and --scale 1 to 20.")
    return given, rest


def run_config(argv: Sequence[str]) -> Config:
    """The config of a run: --configs if given, else the logdir's config.yaml, else the
    task's preset; then the other flags. Nothing is compiled."""
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
    check_limits(config)
    return config.update(jit=False)


def _with_values(argv: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """--headless alone means --headless True; the words of --keys are one value."""
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
