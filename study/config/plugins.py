"""The one place where code that a study file names is imported: workloads and optimizers of one's own.

Whoever runs a study runs what it names, with all their rights. To run a file from a stranger, have it
refused: ``--no-imports``, or ``HYPERGRAD_STUDY_NO_IMPORTS=1`` in the environment, which worker processes
inherit. Then only the catalogue's workloads and the optimizers of ``hypergrad`` and ``torch.optim`` are
used. Imports neither torch nor anything else of a study's by itself.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from study.config.messages import describe_error, did_you_mean

VARIABLE = "HYPERGRAD_STUDY_NO_IMPORTS"

EXTRAS = {"prodigyopt": "rivals", "schedulefree": "rivals"}
"""Packages that one of this package's extras installs."""


class PluginImportError(ValueError):
    """What is named cannot be had; the message is one line."""


def imports_disabled() -> bool:
    """Whether code that a study file names is refused."""
    return os.environ.get(VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


@contextmanager
def disable_imports() -> Iterator[None]:
    """Refuse it for a while: what only looks at a study runs none of its code."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def find(
    module: str, name: str, wanted: Callable[[object], bool], what: str, *, trusted: bool = False
) -> Any:
    """Import a module and return one of its attributes.

    The module is installed, or in a folder on ``PYTHONPATH``, or in the current folder while
    :func:`current_folder` is in use.

    Args:
        module: dotted path of the module.
        name: the attribute.
        wanted: whether an attribute is of the kind that is looked for; for hints alone.
        what: that kind, for messages: ``"function"``.
        trusted: the name is not from a study file, or can lead nowhere but to code that is in use anyway.

    Raises:
        PluginImportError: refused, not installed, not importable, or without such an attribute.
    """
    if imports_disabled() and not trusted:
        raise PluginImportError(
            f"code that a study names is not imported here (--no-imports, {VARIABLE}); "
            "left are the catalogue's workloads and the optimizers of hypergrad and torch.optim"
        )
    found = _module(module)
    if not hasattr(found, name):
        near = did_you_mean(name, [key for key, value in vars(found).items() if wanted(value)])
        raise PluginImportError(f"{module} has no {what} {name!r}{near}")
    return getattr(found, name)


def _module(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise PluginImportError(f"importing {module}: {describe_error(error)}") from error
        if extra := EXTRAS.get(error.name):
            hint = f"not installed; pip install 'hypergrad-study[{extra}]', on every node of a cluster"
            raise PluginImportError(f"{error.name} is {hint}") from None
        raise PluginImportError(
            f"no module {error.name!r} installed, on PYTHONPATH, or in {os.getcwd()}"
        ) from None
    except Exception as error:
        raise PluginImportError(f"importing {module}: {describe_error(error)}") from error


@contextmanager
def current_folder() -> Iterator[None]:
    """Search the current folder last, so that a file in it cannot stand in for an installed module."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)
