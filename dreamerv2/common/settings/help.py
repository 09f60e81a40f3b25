"""The text of --help: every key, its value in force, type, bounds and meaning."""

import functools
import importlib.resources
import re
import textwrap
from collections.abc import Sequence

from dreamerv2.common.config import Config, format_value, type_name
from dreamerv2.common.errors import UsageError
from dreamerv2.common.settings.rules import rule_of

WIDTH = 80


def help_text(config: Config, wanted: Sequence[str] = ()) -> str:
    """Return an entry for each key, by sections, or for the wanted keys, groups,
    patterns, or last parts of keys; UsageError for others."""
    found = {key for name in wanted for key in _find(config, name)}
    sections, _ = _read_comments()
    lines, last = [], ""
    for key in (key for key in config.flat if key in found or not wanted):
        section = sections.get(key.partition(".")[0], "")
        if section != last:
            lines += ["", section, ""]
            last = section
        lines += _entry(key, config)
    return "\n".join(lines)


def _find(config: Config, name: str) -> list[str]:
    found = [key for key in config.match(name) if key in config.flat]
    found = found or [key for key in config.flat if key.startswith(f"{name}.")]
    found = found or [key for key in config.flat if key.endswith(f".{name}")]
    if not found:
        raise UsageError(f"There is no key {name!r}; {config.unknown(name)}")
    return found


def _entry(key: str, config: Config) -> list[str]:
    kind = ": ".join(filter(None, (type_name(config[key]), rule_of(key).allowed())))
    head = f"  --{key} {format_value(config[key])}  ({kind})"
    wrap = functools.partial(textwrap.wrap, width=WIDTH, break_on_hyphens=False)
    indent = " " * 6
    return [
        *wrap(head, subsequent_indent=indent, break_long_words=False),
        *wrap(meaning(key), initial_indent=indent, subsequent_indent=indent),
    ]


def meaning(key: str) -> str:
    """Return a key's comment in configs.yaml, or of one with its row of keys.yaml."""
    _, comments = _read_comments()
    if key in comments:
        return comments[key]
    row = rule_of(key).keys
    alike = (text for other, text in comments.items() if re.fullmatch(row, other))
    return next(alike, "")


@functools.cache
def _read_comments() -> tuple[dict[str, str], dict[str, str]]:
    """Return the sections of top keys, by lines "  # Title", and each key's comment."""
    path = importlib.resources.files("dreamerv2") / "configs.yaml"
    text = path.read_text(encoding="utf-8").partition("\ndefaults:\n")[2]
    sections, comments, section, group = {}, {}, "", ""
    for line in text.splitlines():
        if re.match(r"\S", line):
            break  # The first preset, or the comment above it.
        if heading := re.fullmatch(r"  # (.+)", line):
            section = heading[1]
        if found := re.fullmatch(r"(  |    )(\w+):(.*?)(?:  # (.+))?", line):
            indent, name, value, comment = found.groups()
            if indent == "  ":
                sections[name], group = section, name
            if comment and value.strip():
                comments[name if indent == "  " else f"{group}.{name}"] = comment
    return sections, comments
