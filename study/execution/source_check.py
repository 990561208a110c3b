"""Looks up a module and a name in it without running any code, for study files from strangers."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

from study.config import plugins
from study.config.messages import did_you_mean

_MAKES_NAMES = re.compile(r"\b(globals|vars|setattr|exec|__getattr__|__dict__)\b|import\s*\*")
"""Parts of a module's source that may define names which the source does not show."""


def missing(module: str, name: str) -> str | None:
    """Return why ``name`` cannot be imported from ``module``; None if it can, or if the source cannot tell.

    The module is searched in the places from which ``study.config.plugins.find`` would import it.

    Args:
        module: Dotted path of the module.
        name: Name that the module should define.
    """
    with plugins.current_folder():
        spec, absent = _find(module)
    if absent is not None:
        return f"no module {absent!r} installed, on PYTHONPATH, or in {os.getcwd()}"
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    try:
        source = Path(spec.origin).read_text(encoding="utf-8")
        tree = ast.parse(source, spec.origin)
    except SyntaxError as error:
        return f"importing {module}: SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    except (OSError, ValueError, RecursionError, MemoryError):
        return None
    names = set(_names(tree))
    if name in names or _MAKES_NAMES.search(source):
        return None
    return f"{module} has no {name!r}{did_you_mean(name, sorted(names))}"


def _find(module: str) -> tuple[ModuleSpec | None, str | None]:
    """Return the spec of a module, without importing its parents, and the first name that is absent."""
    path = None
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        spec = _spec(name, path)
        if spec is None:
            return None, name
        if depth < len(parts):
            if spec.submodule_search_locations is None:
                return None, ".".join(parts[: depth + 1])
            path = list(spec.submodule_search_locations)
    return spec, None


def _spec(name: str, path: list[str] | None) -> ModuleSpec | None:
    if name in sys.modules and (known := sys.modules[name].__spec__) is not None:
        return known
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None if find is None else find(name, path)
        if spec is not None:
            return spec
    return None


def _names(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module defines at its top level, also under ``if``, ``try`` and the like."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield child.name
            case ast.Import() | ast.ImportFrom():
                for alias in child.names:
                    yield alias.asname or alias.name.partition(".")[0]
            case ast.Name(ctx=ast.Store()):
                yield child.id
            case _:
                yield from _names(child)
