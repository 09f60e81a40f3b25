"""Nested, immutable, typed configuration, and the presets that come with it."""

import contextlib
import copy
import difflib
import functools
import importlib.resources
import math
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ruamel.yaml import YAML

from dreamerv2.common.errors import UsageError
from dreamerv2.common.files import write_atomically

Leaf = bool | int | float | str | tuple

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATTERN_CHAR = re.compile(r"[^A-Za-z0-9_.-]")
# Groups that may get keys more, of the type of the others: one for each observation.
_OPEN = ("loss_scales",)
_KINDS = {
    bool: "True or False",
    int: "a whole number (such as 3 or 1e6)",
    float: "a number (such as 0.5 or 1e-4)",
    str: "a string",
}


class Config(Mapping):
    """Nested, immutable mapping of dotted keys to bools, ints, floats, strings, and
    non-empty tuples of one of these; UsageError for others.

    Reading: `config.rssm.deter`, `config["rssm.deter"]`, `MLP(**config.critic)`.
    Iterating gives the keys of the top level; `flat` has all the dotted ones."""

    def __init__(self, mapping: Mapping | None = None, /, **kwargs: Any) -> None:
        flat = {}
        for key, value in _flatten({**(mapping or {}), **kwargs}):
            if not _PLAIN_KEY.fullmatch(key):
                raise UsageError(
                    f"Config key {key!r} is not made of letters, digits, '_', '-' and "
                    "'.'; rename it."
                )
            if key in flat:
                raise UsageError(f"Config key {key!r} is given twice; remove one.")
            flat[key] = _leaf(key, value)
        object.__setattr__(self, "_flat", flat)
        object.__setattr__(self, "_nested", self._nest(flat))

    @classmethod
    def _nest(cls, flat: Mapping[str, Leaf]) -> dict[str, Any]:
        """Group dotted keys by their first part, each group becoming a Config."""
        nested: dict[str, Any] = {}
        for key, value in flat.items():
            head, _, rest = key.partition(".")
            if hasattr(cls, head):
                raise UsageError(
                    f"Config key {key!r} hides Config's own {head!r}; rename it."
                )
            if rest and head in flat:
                raise UsageError(
                    f"Config key {head!r} is both a value and a group; remove one."
                )
            if rest:
                nested.setdefault(head, {})[rest] = value
            else:
                nested[head] = value
        return {k: cls(x) if isinstance(x, dict) else x for k, x in nested.items()}

    @property
    def flat(self) -> dict[str, Leaf]:
        """Return a new dict from each dotted key to its value, in order."""
        return dict(self._flat)

    def to_dict(self) -> dict[str, Any]:
        """Return new nested dicts of plain values, with lists for tuples."""
        return {key: _plain(value) for key, value in self._nested.items()}

    def update(self, mapping: Mapping | None = None, /, **kwargs: Any) -> "Config":
        """Return a copy with some values replaced, of the same types; UsageError for
        unknown keys and values that do not fit.

        Keys are dotted or nested, or a regular expression (with a character outside
        `A-Za-z0-9_.-`) for whole dotted keys. Strings such as '1e6', 'True' and 'a,b'
        are turned into numbers, bools and lists, whole floats into ints."""
        flat = dict(self._flat)
        for key, value in _flatten({**(mapping or {}), **kwargs}):
            matches = self.match(key)
            if not matches:
                raise UsageError(f"Unknown config key {key!r}; {self.unknown(key)}")
            for match in matches:
                flat[match] = _convert(match, self._like(match), value)
        return type(self)(flat)

    def fitted(self, other: Mapping) -> "Config":
        """Return a copy with those values of another version that it has a key for."""
        flat = Config(other).flat
        return self.update({k: v for k, v in flat.items() if self.match(k)})

    def match(self, key: str) -> list[str]:
        """Return the dotted keys that a key or pattern stands for, maybe none."""
        if not _PATTERN_CHAR.search(key):
            return [] if self._like(key) is None else [key]
        try:
            pattern = re.compile(key)
        except re.error as error:
            raise UsageError(
                f"Config pattern {key!r} is no regular expression ({error}); name a "
                "key or mend the pattern."
            ) from None
        return [name for name in self._flat if pattern.fullmatch(name)]

    def _like(self, key: str) -> Leaf | None:
        """Return the value of the key's type; None if there can be no such key."""
        group = key.rpartition(".")[0]
        if key in self._flat or group not in _OPEN or group not in self._nested:
            return self._flat.get(key)
        return next(iter(self._nested[group].values()))

    def unknown(self, key: str, prefix: str = "") -> str:
        """Return the end of a message about a key that matches none."""
        if _PATTERN_CHAR.search(key):
            return "as a pattern it must match a whole key; '.*' stands for any text."
        members = [prefix + name for name in self._flat if name.startswith(key + ".")]
        if members:
            return f"it is a group, so set one of its keys: {', '.join(members)}."
        return did_you_mean(key, self._flat, prefix=prefix)

    def save(self, path: str | os.PathLike) -> None:
        """Write as YAML, atomically. Raises UsageError if it cannot be written."""
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style, yaml.width = None, 1000  # One line for each group.
        yaml.sort_base_mapping_type_on_output = False
        write_atomically(path, lambda file: yaml.dump(self.to_dict(), file))

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Config":
        """Read what `save` wrote. Raises UsageError where that is not possible."""
        return cls(read_yaml(path))

    def __getitem__(self, key: str) -> Any:
        if not isinstance(key, str):
            raise KeyError(key)
        if key in self._flat:
            return self._flat[key]
        head, dot, rest = key.partition(".")
        value = self._nested.get(head)
        if isinstance(value, Config):
            return value[rest] if dot else value
        raise KeyError(key)

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are not found otherwise. Private ones are asked
        # for by copy and pickle, before there are any values.
        if not name.startswith("_") and name in self._nested:
            return self._nested[name]
        raise AttributeError(f"Config has no key {name!r}")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"Config is immutable; use update({name}=...)")

    def __iter__(self) -> Iterator[str]:
        return iter(self._nested)

    def __len__(self) -> int:
        return len(self._nested)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Config):
            return self._flat == other._flat
        if isinstance(other, Mapping):
            return self.to_dict() == other
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple:
        return type(self), (self.to_dict(),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.to_dict()})"

    def __str__(self) -> str:
        return "\n".join(f"{k}: {format_value(v)}" for k, v in self._flat.items())


def load_presets() -> dict[str, dict[str, Any]]:
    """Return `defaults` and the named overrides, from configs.yaml."""
    return copy.deepcopy(_presets())


@functools.cache
def _presets() -> dict[str, dict[str, Any]]:
    return read_yaml(importlib.resources.files("dreamerv2") / "configs.yaml")


def did_you_mean(
    name: str,
    known: Iterable[str],
    otherwise: str = "check its spelling.",
    prefix: str = "",
) -> str:
    """Return the end of a message: "did you mean", or `otherwise`. Known names that end
    in `.name` are the nearest, then those spelled alike."""
    found = [key for key in known if key.rpartition(".")[2] == name]
    found = dict.fromkeys(found + difflib.get_close_matches(name, known))
    shown = " or ".join(prefix + key for key in found)
    return f"did you mean {shown}?" if found else otherwise


def type_name(value: Leaf) -> str:
    """Return a value's type: bool, int, float, str, or list of one of these."""
    if isinstance(value, tuple):
        return f"list of {type(value[0]).__name__}"
    return type(value).__name__


def format_value(value: Leaf) -> str:
    """Return the value as it is written on a command line."""
    if isinstance(value, tuple):
        return ",".join(format_value(element) for element in value)
    return str(value) if value != "" else "''"


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def _flatten(mapping: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise UsageError(f"Config key {prefix}{key!r} is not a string; quote it.")
        if not isinstance(value, Mapping):
            yield prefix + key, value
        elif value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            raise UsageError(f"Config group {prefix + key!r} is empty; remove it.")


def _leaf(key: str, value: Any) -> Leaf:
    """Bring a new value to one of the types that a Config holds."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, list | tuple):
        elements = tuple(_leaf(key, element) for element in value)
        if not elements:
            raise UsageError(f"Config key {key!r} is an empty list; give an element.")
        if len(set(map(type, elements))) > 1:
            raise UsageError(
                f"Config key {key!r} mixes types: {value!r}; use one type of element."
            )
        if not isinstance(elements[0], tuple):
            return elements
    raise UsageError(
        f"Config key {key!r} has a value of type {type(value).__name__}; use a bool, "
        "int, float, string, or a list of one of these."
    )


def _convert(key: str, old: Leaf, new: Any) -> Leaf:
    if isinstance(old, tuple):
        return _convert_list(key, old, new)
    if isinstance(new, list | tuple):
        shown = " ".join(map(str, new))
        raise UsageError(
            f"Config key {key!r} takes one value, {_KINDS[type(old)]}, but got "
            f"{len(new)}: {shown}."
        )
    try:
        return _convert_one(type(old), new)
    except (KeyError, TypeError, ValueError, OverflowError):
        meant = str(new).capitalize()
        is_case = isinstance(old, bool) and meant in ("True", "False")
        hint = f"; write {meant}" if is_case else ""
        raise UsageError(
            f"Config key {key!r} takes {_KINDS[type(old)]}, but got {new!r}{hint}."
        ) from None


def _convert_list(key: str, old: tuple, new: Any) -> tuple:
    if isinstance(new, str):
        new = [part.strip() for part in new.split(",")] if new.strip() else []
    kind = type_name(old)
    if not isinstance(new, list | tuple):
        raise UsageError(
            f"Config key {key!r} takes a {kind}, but got {new!r}; write [{new}]."
        )
    if not new or "" in new:
        what = "element; remove a comma" if new else "one; give an element"
        raise UsageError(f"Config key {key!r} takes a {kind}, but got an empty {what}.")
    return tuple(_convert(key, old[0], element) for element in new)


def _convert_one(kind: type, value: Any) -> Leaf:
    """Turn a value into a bool, int, float or string, or raise one of many errors."""
    if kind is bool:
        return {"True": True, "False": False}[str(value)]
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
        raise TypeError(value)
    if kind is str:
        return str(value)
    if kind is int:
        with contextlib.suppress(ValueError):  # Exact beyond the 53 bits of a float.
            return int(str(value))
    number = float(value)
    if math.isnan(number) or (kind is int and not number.is_integer()):
        raise ValueError(value)
    return kind(number)


def read_yaml(path: Any) -> dict[str, Any]:
    """Read a YAML mapping from a path or a package resource, as plain values."""
    try:
        with (Path(path) if isinstance(path, str) else path).open("rb") as file:
            content = YAML(typ="safe", pure=True).load(file)
    except OSError as error:
        raise UsageError(
            f"Could not read the config {path}: {error.strerror}; check the path."
        ) from error
    except Exception as error:  # The reader of YAML may raise anything for damage.
        where = getattr(error, "problem_mark", None)
        place = f" in line {where.line + 1}" if where else ""
        raise UsageError(
            f"The config {path} is not valid YAML{place}; mend or remove it."
        ) from error
    if not isinstance(content, Mapping):
        raise UsageError(f"The config {path} holds no mapping; mend or remove it.")
    return dict(content)
