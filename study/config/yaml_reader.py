"""Reads a YAML file that a person wrote, and remembers the line of every value for error messages.

The scalars are those of YAML 1.2, in which ``1e-7`` is a number and ``no`` is text; there are no merge keys
and no tags. Every error becomes a line ``FILE:LINE: path.to.key: what is wrong; what would be right``.
No input raises anything but ``ConfigError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.representer import SafeRepresenter

from study.config.messages import one_line

MAX_BYTES = 1_000_000
MAX_PROBLEMS = 100

Loc = tuple[int | str, ...]
"""A place in a document: keys of mappings and indices of sequences, from the top."""

_TAG = "tag:yaml.org,2002:"
_TEXT = ("str", "timestamp", "merge", "value")
"""A date, ``<<`` and ``=`` are only text in a study file."""
_OPEN = object()


class ConfigError(ValueError):
    """A study file is wrong: ``problems`` has a line for each; ``str()`` joins them with newlines."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems: list[str] = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return type(self), (self.problems,)


def read(path: Path, label: str | None = None) -> Document:
    """Read one YAML document.

    Args:
        path: The file; at most 1 MB of UTF-8.
        label: The file's name in messages. Default: ``path`` as it is.

    Raises:
        ConfigError: The file cannot be read, or is not one YAML document in UTF-8.
    """
    label = str(path) if label is None else label
    return parse(_contents(path, label), label)


def parse(text: str, label: str) -> Document:
    """Parse one YAML document.

    Args:
        text: The document.
        label: The document's name in messages.

    Raises:
        ConfigError: The text is not one YAML document.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        root = yaml.compose(text)
        document = None if root is None else Document(label, root, yaml.constructor)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _failure(label, _advice(error), mark.line + 1 if mark else 1) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _failure(label, "a control character; remove it", line) from None
    except RecursionError:
        raise _failure(label, "nested too deeply; a study file has four levels") from None
    except (ValueError, OverflowError) as error:
        # The scanner turns escapes such as "\UFFFFFFFF" into characters unchecked.
        raise _failure(label, f"not valid YAML ({error})") from None
    if document is None:
        raise _failure(label, "the file is empty; write a study, or copy a preset")
    return document


class Document:
    """A file's content as plain values, the problems of its structure, and the line of every value.

    Problems are duplicate keys, keys that are not text, tags, and aliases to their own container. An alias is
    built once, so that nested ones cannot explode.
    """

    def __init__(self, label: str, root: Node, constructor: SafeConstructor) -> None:
        self.problems: list[tuple[Loc, int, str]] = []
        """Errors in any schema: the place, the line, and what is wrong."""
        self._label = label
        self._root = root
        self._constructor = constructor
        self._built: dict[int, Any] = {}
        self.value = self._build(root, ())

    def error(self, found: Iterable[tuple[Loc, str]]) -> ConfigError:
        """Return the problems of the structure and those ``found``, in the order of the file's lines."""
        located = list(self.problems)
        known = {loc for loc, _, _ in located}
        for loc, message in islice(found, MAX_PROBLEMS):
            line, path = self._locate(loc)
            if path not in known:  # a value that could not be read is not reported again as missing or wrong
                known.add(path)
                located.append((path, line, message))
        located = sorted(located, key=lambda problem: problem[1])[:MAX_PROBLEMS]
        return ConfigError(
            _problem(self._label, f"{dotted(path)}: {message}" if path else message, line)
            for path, line, message in located
        )

    def _locate(self, loc: Loc) -> tuple[int, Loc]:
        """Return the line of ``loc``, from 1, and the part of ``loc`` that exists in the file.

        It follows only this one path, so that nested aliases cost nothing. A part that a normalisation added
        (an index for a single value in the file) is skipped; a missing key stays, at its mapping.
        """
        node, line = self._root, _line(self._root)
        path: list[int | str] = []
        for i, part in enumerate(loc):
            if isinstance(node, MappingNode):
                found = next(((k, v) for k, v in node.value if k.value == part), None)
                if found is not None:
                    line, node = _line(found[0]), found[1]
                elif isinstance(part, int) or i < len(loc) - 1:
                    continue
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = _line(node)
            else:
                continue
            path.append(part)
        return line, tuple(path)

    def _build(self, node: Node, loc: Loc) -> Any:
        value = self._built.get(id(node))
        if value is _OPEN:
            return self._refuse(loc, node, "an alias to what contains it; write the value out")
        if id(node) not in self._built:
            self._built[id(node)] = _OPEN
            value = self._built[id(node)] = self._value(node, loc)
        return value

    def _value(self, node: Node, loc: Loc) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        if isinstance(node, MappingNode) and kind == "map":
            return self._mapping(node, loc)
        if isinstance(node, SequenceNode) and kind == "seq":
            return [self._build(item, (*loc, i)) for i, item in enumerate(node.value)]
        if isinstance(node, ScalarNode) and kind in (*_TEXT, "null", "bool", "int", "float"):
            return self._scalar(node, kind, loc)
        tag = one_line(str(node.tag).replace(_TAG, "!!"), 60)
        return self._refuse(loc, node, f"the tag {tag} is not allowed; write the value without a tag")

    def _scalar(self, node: ScalarNode, kind: str, loc: Loc) -> Any:
        with suppress(ValueError, LookupError):
            if _is_text(node):
                return node.value
            if kind == "int" and len(node.value) > 20:  # Python refuses to parse thousands of digits
                return float(node.value)
            if kind not in _TEXT:
                return self._constructor.construct_object(node)
        shown = one_line(node.value, 40)
        return self._refuse(loc, node, f"{shown} cannot be read as {kind}; write plain text or a number")

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        value: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not _is_text(key_node):
                shown = (one_line(key, 40) or "''") if isinstance(key, str) else "a list or mapping"
                self._refuse(loc, key_node, f"the key {shown} is not text; write a name")
            elif key in value:
                line = lines[key]
                self._refuse((*loc, key), key_node, f"written on line {line} already; keep one of the two")
            else:
                lines[key] = _line(key_node)
                value[key] = self._build(value_node, (*loc, key))
        return value

    def _refuse(self, loc: Loc, node: Node, message: str) -> Any:
        self.problems.append((loc, _line(node), message))


def dump(value: Any) -> str:
    """Return ``value`` as YAML that ``read`` reads back equal; keys keep their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


class _Representer(SafeRepresenter):
    """Writes only lists of numbers and words in one line: lists of other text might not be read back."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_list(self, data: list[Any]) -> SequenceNode:
        brief = all(isinstance(v, int | float) or re.fullmatch(r"[A-Za-z][\w.-]*", str(v)) for v in data)
        return self.represent_sequence(f"{_TAG}seq", data, flow_style=brief)


_Representer.add_representer(list, _Representer.represent_list)


def _contents(path: Path, label: str) -> str:
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise _failure(label, f"is {kind}; give a study file")
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


def _advice(error: MarkedYAMLError) -> str:
    problem = str(error.problem or error.context or error)
    if "\\t" in problem:
        return "a tab; indent with spaces"
    if "another document" in problem:
        return "a second document begins; write one study per file"
    if "<document start>" in problem:
        return "not valid YAML: the document ends above this line; write one mapping of keys and values"
    context = f" {error.context}" if error.context and error.problem else ""
    return f"not valid YAML{context}: {problem}"


def _failure(label: str, message: str, line: int | None = None) -> ConfigError:
    return ConfigError([_problem(label, message, line)])


def _problem(label: str, message: str, line: int | None) -> str:
    return one_line(label, 1000) + (f":{line}: " if line else ": ") + one_line(message)


def dotted(path: Loc) -> str:
    """Return a place as people write it, such as ``optimizers[1].name``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part, 60)}" for part in path)[1:]


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _is_text(node: Node) -> bool:
    """Return whether a node is text that can be written anywhere; escapes can make lone surrogates."""
    is_text = str(node.tag).removeprefix(_TAG) in _TEXT and isinstance(node.value, str)
    return is_text and not any("\ud800" <= c <= "\udfff" for c in node.value)
