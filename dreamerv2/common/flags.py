"""The command line, as changes to a config."""

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from dreamerv2.common.config import Config, did_you_mean
from dreamerv2.common.errors import UsageError
from dreamerv2.common.outputs.stdout import ReaderMayLeave, print_anything
from dreamerv2.common.settings.help import help_text

HELP = ("--help", "-h")


def run_command(name: str, work: Callable[[], Any]) -> int:
    """Do a command's work; return the exit code: 2 for what the user can mend."""
    print_anything()
    try:
        work()
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class OptionParser(argparse.ArgumentParser):
    """For options that are none of a run's config; UsageError for wrong ones."""

    def __init__(self, doc: str | None, **more: Any):
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(
            description=doc, formatter_class=form, allow_abbrev=False, **more
        )

    def error(self, message: str) -> NoReturn:
        text = message[0].upper() + message[1:]
        raise UsageError(f"{text}; --help lists the options.")


class Flags:
    """Turns arguments into an updated copy of a config: `--key value`, `--key=value`,
    `--list a b`, `--list a,b`, `--REGEX value`. Later flags win. All up to the next
    `--` is a value, negative numbers too. `usage` is the top of --help."""

    def __init__(self, config: Mapping, usage: str = "") -> None:
        self._config = config if isinstance(config, Config) else Config(config)
        self._usage = usage

    def parse(self, argv: Sequence[str] | None = None) -> Config:
        """Apply the arguments (by default the program's) and return the new config;
        UsageError for unknown flags and values of the wrong type. `--help` shows every
        key, `--help KEY ...` these alone (keys, groups, patterns), and exits with 0."""
        config, remaining = self.parse_known(argv)
        wanted: list[str] | None = None
        for flag, *values in _group(remaining):
            name, _, value = flag.partition("=")
            if name not in HELP:
                raise UsageError(self._unknown(name))
            wanted = [*(wanted or ()), *filter(None, [value]), *values]
        if wanted is not None:
            usage = "" if wanted else self._usage
            text = usage + help_text(config, wanted).lstrip("\n")
            # Its reader may leave before the end, as `head` does.
            print(text, file=ReaderMayLeave(sys.stdout, lambda: None), flush=True)
            raise SystemExit(0)
        return config

    def _unknown(self, name: str) -> str:
        """Return what to say about an argument that is no flag of ours."""
        if name.startswith("--"):
            return f"Unknown flag {name!r}; {self._config.unknown(name[2:], '--')}"
        wanted = f"--{name.lstrip('-')}" if name.startswith("-") else "--key value"
        return (
            f"Argument {name!r} belongs to no flag; flags begin with two dashes, as in "
            f"{wanted}."
        )

    def parse_known(
        self, argv: Sequence[str] | None = None
    ) -> tuple[Config, list[str]]:
        """Like `parse`, but also return the arguments of no known flag, as --help."""
        argv = sys.argv[1:] if argv is None else list(argv)
        config, remaining = self._config, []
        for flag, *values in _group(argv):
            key, equals, value = flag.removeprefix("--").partition("=")
            if not flag.startswith("--") or not self._config.match(key):
                remaining += [flag, *values]
                continue
            values = [value, *values] if equals else values
            if not values:
                raise UsageError(f"Flag --{key} has no value; write --{key} VALUE.")
            if len(values) > 1:  # Spaces and commas may be mixed.
                values = [part for value in values for part in value.split(",") if part]
            config = config.update({key: values[0] if len(values) == 1 else values})
        return config, remaining


def parse_config(
    argv: Sequence[str] | None, presets: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Build a run's config: defaults, the presets of `--configs a b`, then flags."""
    argv = sys.argv[1:] if argv is None else list(argv)
    chosen, remaining = [], []
    for group in _group(argv):
        is_configs = group[0].partition("=")[0] == "--configs"
        (chosen if is_configs else remaining).extend(group)
    config = Config(presets["defaults"])
    for name in Flags({"configs": ["defaults"]}).parse(chosen).configs:
        if name not in presets:
            hint = did_you_mean(name, presets, "name one of these.")
            raise UsageError(
                f"Unknown preset {name!r}, not one of {', '.join(presets)}; {hint}"
            )
        try:
            # The defaults are the start already, wherever they are named.
            config = config.update(presets[name] if name != "defaults" else {})
        except UsageError as error:
            raise UsageError(f"Preset {name!r}: {error}") from None
    names = textwrap.fill(
        f"--configs NAME ...  ({', '.join(presets)})", 80, subsequent_indent=" " * 6
    )
    usage = (
        "Flags, with their values in force, their types, and what they must be.\n"
        "Lists are written --key a b or --key a,b. --help KEY ... shows some alone:\n"
        f"keys, groups, or patterns. Presets are applied first:\n\n{names}\n\n"
    )
    return Flags(config, usage).parse(remaining)


def _group(argv: Sequence[str]) -> list[list[str]]:
    """Split arguments so that each group begins with a flag, but maybe the first."""
    groups: list[list[str]] = []
    for argument in argv:
        if argument.startswith("--") or argument in HELP or not groups:
            groups.append([])
        groups[-1].append(argument)
    return groups
