"""Studies that are written in Python, and single settings that replace those of a study file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from study.config import messages, yaml_reader
from study.config.validators import SELECTORS
from study.config.yaml_reader import ConfigError, Loc


class Source(Protocol):
    """The content of a study, from a file or from Python."""

    value: Any
    problems: list[tuple[Loc, int, str]]

    def error(self, found: Iterable[tuple[Loc, str]]) -> ConfigError:
        """Return an error with a line for each problem, which says where the problem is."""


class Written:
    """A study that is written as a mapping in Python. NumPy's numbers and arrays become plain ones."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.value = plain(content)
        self.problems: list[tuple[Loc, int, str]] = []

    def error(self, found: Iterable[tuple[Loc, str]]) -> ConfigError:
        """Return an error with the key of each problem: ``optimizers[1].name: …``."""
        located: dict[Loc, str] = {}
        for loc, message in found:
            located.setdefault(existing(loc, self.value), message)
        return ConfigError(
            messages.one_line(f"{yaml_reader.dotted(path)}: {message}" if path else message)
            for path, message in located.items()
        )


class Change(NamedTuple):
    """One setting that replaces a study's own."""

    loc: Loc
    value: Any
    """The new value; None to leave the key out."""
    text: str


class Changed:
    """A study some of whose settings are replaced.

    Thresholds of workloads and optimizers that a change leaves out are left out with them.

    Args:
        source: The study.
        changes: Changes from ``parse``. A later one overrides an earlier one.

    Raises:
        ConfigError: A change names a key below something that is not a mapping.
    """

    def __init__(self, source: Source, changes: Sequence[Change]) -> None:
        self.problems = source.problems
        self._source, self._changes = source, changes
        self.value = source.value
        for change in changes:
            self.value = _replaced(self.value, change, ())
        if isinstance(source.value, dict) and isinstance(self.value, dict):
            self.value = _without_idle_thresholds(source.value, self.value, changes)

    def error(self, found: Iterable[tuple[Loc, str]]) -> ConfigError:
        """Return an error with the place of each problem: in the study, or the change that made it."""
        own: dict[str, None] = {}
        rest = []
        for loc, message in found:
            change = next((c for c in reversed(self._changes) if loc[: len(c.loc)] == c.loc), None)
            if change is None:
                rest.append((loc, message))
                continue
            path = existing(loc, self.value)
            inside = f"{yaml_reader.dotted(path)}: " if len(path) > len(change.loc) else ""
            own[messages.one_line(f"--set {change.text}: {inside}{message}")] = None
        return ConfigError([*self._source.error(rest).problems, *own])


def parse(settings: Iterable[str]) -> list[Change]:
    """Return the changes that settings such as ``epochs=3``, ``search.points=5`` and ``epochs=`` mean.

    Args:
        settings: Settings, each a key, dots between the keys of nested mappings, ``=``, and a value as in a
            study file. An empty value leaves the key out.

    Raises:
        ConfigError: A setting has no key, or its value is not YAML; the error has a line for each.
    """
    changes, problems = [], []
    for text in settings:
        key, mark, written = text.partition("=")
        if not mark or not re.fullmatch(r"[^\s.=]+(\.[^\s.=]+)*", key.strip()):
            problems.append(messages.one_line(f"--set {text}: write KEY=VALUE, such as epochs=3"))
            continue
        loc = tuple(key.strip().split("."))
        try:
            value = yaml_reader.parse(written, f"--set {text}").value if written.strip() else None
        except ConfigError as error:
            problems += [line.replace(f"--set {text}:1: ", f"--set {text}: ") for line in error.problems]
            continue
        changes.append(Change(loc, value, text))
    if problems:
        raise ConfigError(problems)
    return changes


def plain(value: Any) -> Any:
    """Return a value made of dicts, lists and scalars, into which it converts tuples and NumPy's types."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def existing(loc: Loc, value: Any) -> Loc:
    """Return the part of ``loc`` that exists in ``value``; a key that is missing from a mapping stays."""
    path: list[int | str] = []
    for i, part in enumerate(loc):
        if isinstance(value, dict):
            if part in value:
                value = value[part]
            elif isinstance(part, int) or i < len(loc) - 1:
                continue
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _replaced(value: Any, change: Change, above: Loc) -> Any:
    """Return a copy of ``value`` in which the part of ``change.loc`` below ``above`` is replaced."""
    key, *below = change.loc[len(above) :]
    if not isinstance(value, dict):
        place = yaml_reader.dotted(above)
        raise ConfigError(
            [f"--set {change.text}: {place} is {messages.show(value)}, not a mapping; set {place} as a whole"]
        )
    copy = dict(value)
    if below:
        copy[str(key)] = _replaced(copy.get(str(key), {}), change, (*above, key))
    elif change.value is None:
        copy.pop(str(key), None)
    else:
        copy[str(key)] = change.value
    return copy


def _without_idle_thresholds(
    old: dict[Any, Any], new: dict[Any, Any], changes: Sequence[Change]
) -> dict[Any, Any]:
    """Return ``new`` without thresholds of workloads and optimizers that ``old`` has and ``new`` has not."""
    thresholds = new.get("threshold")
    changed = {change.loc[0] for change in changes} & {"workloads", "optimizers"}
    if not changed or not isinstance(thresholds, dict):
        return new
    gone = {name for key in changed for name in _names(old.get(key))}
    gone -= {name for key in ("workloads", "optimizers") for name in _names(new.get(key))}
    gone -= {change.loc[1] for change in changes if change.loc[0] == "threshold" and len(change.loc) > 1}
    gone -= set(SELECTORS)  # sgd is an op as well, whether or not the study has it
    return {**new, "threshold": {name: value for name, value in thresholds.items() if name not in gone}}


def _names(entries: Any) -> set[str]:
    """Return the names of workloads or optimizers as a study file lists them."""
    listed = entries if isinstance(entries, list) else [entries]
    named = (e.get("use", e.get("name")) if isinstance(e, dict) else e for e in listed)
    return {name for name in named if isinstance(name, str)}
