"""Reads a YAML file of a person's making, and knows on which line everything in it stands.

YAML as people expect it: the scalars of YAML 1.2, in which ``1e-7`` is a number and ``no`` is text, without
merge keys and tags. Whatever is wrong becomes a line ``FILE:LINE: path.to.key: what is wrong; what would
be right``; no input raises anything but :class:`ConfigError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from study.config.messages import one_line

MAX_BYTES = 1_000_000
MAX_PROBLEMS = 100

Loc = tuple[int | str, ...]
"""Where in a document: keys of mappings and indices of sequences, from the top."""


class ConfigError(ValueError):
    """What is wrong with a study file: ``problems``, one line each; ``str()`` joins them with newlines."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: list[str] = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*$")
_FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(~|null|Null|NULL|)$")
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "null", "bool", "int", "float")
_RESOLVERS = (
    ("null", _NULL, ["~", "n", "N", ""]),
    ("bool", _BOOL, list("tTfF")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - filled below; empty, or YAML 1.1's would be inherited


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our reader would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, _pattern, _first)


def dump(value: Any) -> str:
    """``value`` as YAML that :func:`read` reads back equal; keys keep their order."""
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=100
    )


@dataclass
class Document:
    """A file's contents, its structural problems so far, and the lines of it all."""

    label: str
    """The file's name as the person wrote it."""
    root: yaml.Node
    value: Any
    problems: list[tuple[Loc, int, str]]
    """What is wrong whatever the schema: where, on which line, and what."""

    def error(self, found: Iterable[tuple[Loc, str]]) -> ConfigError:
        """The structural problems and what else was ``found``, in the order of the file's lines."""
        located = list(self.problems)
        known = {loc for loc, _, _ in located}
        for loc, message in islice(found, MAX_PROBLEMS):
            line, path = self._locate(loc)
            if path not in known:  # what could not be read is not reported again as missing or wrong
                known.add(path)
                located.append((path, line, message))
        located = sorted(located, key=lambda problem: problem[1])[:MAX_PROBLEMS]
        label = one_line(self.label, 1000)
        return ConfigError(
            f"{label}:{line}: {one_line(f'{_dotted(path)}: {message}' if path else message)}"
            for path, line, message in located
        )

    def _locate(self, loc: Loc) -> tuple[int, Loc]:
        """The line of ``loc``, from 1, and the part of it that the file really has.

        Follows only this one path, so that nested aliases cost nothing. A part that a normalisation put in
        (an index where the file has a single value) is passed over; a missing key stays, at its mapping.
        """
        node, line = self.root, self.root.start_mark.line
        path: list[int | str] = []
        for i, part in enumerate(loc):
            if isinstance(node, yaml.MappingNode):
                for key, child in node.value:
                    if isinstance(key, yaml.ScalarNode) and key.value == part:
                        node, line = child, key.start_mark.line
                        path.append(part)
                        break
                else:
                    if isinstance(part, str) and i == len(loc) - 1:
                        path.append(part)
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
                path.append(part)
        return line + 1, tuple(path)


def _dotted(path: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part, 60)}" for part in path)[1:]


def read(path: Path, label: str | None = None) -> Document:
    """Reads one YAML document.

    Args:
        path: the file; at most 1 MB of UTF-8.
        label: what messages call it; default ``path`` as it is.

    Returns:
        The document; ``problems`` holds duplicate keys, keys that are not text, tags, and self-references.

    Raises:
        ConfigError: unreadable, not UTF-8, not YAML, empty, or more than one document.
    """
    label = str(path) if label is None else label
    text = _text(path, label)
    problems: list[tuple[Loc, int, str]] = []
    value = None
    try:
        root = _Loader(text).get_single_node()
        if root is not None:
            value = _Builder(problems).build(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _failure(label, _yaml_message(error), mark.line + 1 if mark else 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _failure(label, "a control character; remove it", line) from None
    except RecursionError:
        raise _failure(label, "nested too deeply; a study file has four levels") from None
    except (ValueError, OverflowError) as error:
        # PyYAML turns escapes such as "\UFFFFFFFF" into characters unchecked.
        raise _failure(label, f"not valid YAML ({error})") from None
    if root is None:
        raise _failure(label, "the file is empty; write a study, or copy a preset")
    return Document(label, root, value, problems)


def _failure(label: str, message: str, line: int | None = None) -> ConfigError:
    where = one_line(label, 1000) + (f":{line}" if line else "")
    return ConfigError([f"{where}: {one_line(message)}"])


def _text(path: Path, label: str) -> str:
    try:
        if path.is_dir():
            raise _failure(label, "is a folder; give a study file")
        if path.exists() and not path.is_file():
            raise _failure(label, "is not a regular file; give a study file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _failure(label, f"cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise _failure(label, f"larger than {MAX_BYTES // 1_000_000} MB; a study file has a few lines")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _failure(label, "not UTF-8 text; save the file as UTF-8", line) from None


def _yaml_message(error: yaml.MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or error)
    if "\\t" in problem:
        return "a tab; indent with spaces"
    if "another document" in problem:
        return "a second document begins; write one study per file"
    context = f" {error.context}" if error.context and error.problem else ""
    return f"not valid YAML{context}: {problem}"


def _is_text(value: str) -> bool:
    """Whether it can be written anywhere; escapes can make lone surrogates, which cannot."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _scalar(tag: str, text: str) -> Any:
    """The value of a scalar. Raises ValueError if the text is not what its tag says."""
    match tag:
        case "str" if _is_text(text):
            return text
        case "null" if _NULL.match(text):
            return None
        case "bool" if _BOOL.match(text):
            return text.lower() == "true"
        case "int" if _INT.match(text):
            # Python refuses to parse thousands of digits; nothing here needs more than 64 bits.
            return int(text) if len(text) <= 20 else float(text)
        case "float" if _FLOAT.match(text):
            return float(text.lower().replace(".i", "i").replace(".n", "n"))
    raise ValueError(f"{text!r} is no {tag}")


class _Builder:
    """Plain values from nodes. An alias is built once, so that nested ones cannot explode."""

    def __init__(self, problems: list[tuple[Loc, int, str]]) -> None:
        self.problems = problems
        self.built: dict[int, Any] = {}
        self.open: set[int] = set()

    def build(self, node: yaml.Node, loc: Loc = ()) -> Any:
        if id(node) in self.built:
            return self.built[id(node)]
        line = node.start_mark.line + 1
        if id(node) in self.open:
            self.problems.append((loc, line, "an alias to what contains it; write the value out"))
            return None
        self.open.add(id(node))
        kind = node.tag.removeprefix(_TAG)
        value: Any = None
        if isinstance(node, yaml.MappingNode) and kind == "map":
            value = self._mapping(node, loc)
        elif isinstance(node, yaml.SequenceNode) and kind == "seq":
            value = [self.build(item, (*loc, i)) for i, item in enumerate(node.value)]
        elif isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            try:
                value = _scalar(kind, node.value)
            except ValueError:
                message = f"{one_line(node.value, 40)} cannot be read as {kind}; write plain text or a number"
                self.problems.append((loc, line, message))
        else:
            tag = one_line(node.tag.replace(_TAG, "!!"), 60)
            message = f"the tag {tag} is not allowed; write the value without a tag"
            self.problems.append((loc, line, message))
        self.open.discard(id(node))
        self.built[id(node)] = value
        return value

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        value: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not (isinstance(key, str) and key_node.tag == _TAG + "str" and _is_text(key)):
                shown = one_line(key, 40) if isinstance(key, str) else "a list or mapping"
                self.problems.append((loc, line, f"the key {shown} is not text; write a name"))
            elif key in value:
                message = f"written on line {lines[key]} already; keep one of the two"
                self.problems.append(((*loc, key), line, message))
            else:
                lines[key] = line
                value[key] = self.build(value_node, (*loc, key))
        return value
