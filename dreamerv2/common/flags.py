"""The command line, as changes to a config."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from dreamerv2.common.config import Config, did_you_mean
from dreamerv2.common.errors import UsageError

_HELP = ("--help", "-h")


class Flags:
    """Turn `--key value` arguments into an updated copy of a config.

    Also `--key=value`, `--list a b`, `--list a,b`, and `--pattern value`, where the
    pattern is a regular expression for dotted keys. Later flags win over earlier ones.
    Everything up to the next argument that begins with `--` is a value, negative
    numbers too; a value that begins with `--` itself needs `--key=value`.
    """

    def __init__(self, config: Mapping, usage: str = "") -> None:
        """`usage` is text for the top of --help."""
        self._config = config if isinstance(config, Config) else Config(config)
        self._usage = usage

    def parse(self, argv: Sequence[str] | None = None) -> Config:
        """Apply the arguments (by default the program's) and return the new config.

        Raises UsageError for an unknown flag or a value of the wrong type. With
        `--help` prints every key with its value and type and exits with code 0.
        """
        argv = sys.argv[1:] if argv is None else list(argv)
        if any(argument in _HELP for argument in argv):
            print(self.help())
            raise SystemExit(0)
        config, remaining = self.parse_known(argv)
        if not remaining:
            return config
        name = remaining[0].partition("=")[0]
        if not name.startswith("--"):
            wanted = f"--{name.lstrip('-')}" if name.startswith("-") else "--key value"
            raise UsageError(
                f"Argument {name!r} belongs to no flag; flags begin with two dashes, "
                f"as in {wanted}."
            )
        hint = self._config.unknown(name[2:], prefix="--")
        raise UsageError(f"Unknown flag {name!r}; {hint}")

    def parse_known(
        self, argv: Sequence[str] | None = None
    ) -> tuple[Config, list[str]]:
        """Like `parse`, but also return the arguments that belong to no known flag.

        `--help` is one of these.
        """
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

    def help(self) -> str:
        """The text for --help: every key with its value and type."""
        flags = [f"--{line}" for line in str(self._config).splitlines()]
        return "\n".join([self._usage, *flags] if self._usage else flags)


def parse_config(
    argv: Sequence[str] | None, presets: Mapping[str, Mapping[str, Any]]
) -> Config:
    """Build a run's config: the defaults, then presets, then flags.

    Args:
        argv: Arguments; None for the program's. `--configs a b` names the presets.
        presets: `defaults` and named overrides of it, as load_presets returns them.

    Raises UsageError for unknown presets and for what Flags refuses.
    """
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
        if name == "defaults":
            continue  # They are the start already, wherever they are named.
        try:
            config = config.update(presets[name])
        except UsageError as error:
            raise UsageError(f"Preset {name!r}: {error}") from None
    usage = (
        "Flags, with their values in force and their types. Lists are written\n"
        "--key a b or --key a,b. These presets are applied first:\n\n"
        f"--configs NAME ...  ({', '.join(presets)})\n"
    )
    return Flags(config, usage).parse(remaining)


def _group(argv: Sequence[str]) -> list[list[str]]:
    """Split arguments so that each group begins with a flag, but maybe the first."""
    groups: list[list[str]] = []
    for argument in argv:
        if argument.startswith("--") or argument in _HELP or not groups:
            groups.append([])
        groups[-1].append(argument)
    return groups
