"""Imports the code that a study file names: the user's own workloads and optimizers.

No other module imports it. If you run a study, this code runs with all your rights. To run a file from a
stranger, forbid it with ``--no-imports``, or with ``HYPERGRAD_STUDY_NO_IMPORTS=1`` in the environment, which
worker processes inherit. Then a study can use only the built-in workloads and the optimizers of ``hypergrad``
and ``torch.optim``.
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

EXTRAS = dict.fromkeys(("dadaptation", "dog", "prodigyopt", "schedulefree"), "rivals")
"""Packages that an extra of this package installs, and the extra's name."""


class PluginImportError(ValueError):
    """Code named in a study file cannot be imported; the message is one line."""


def imports_disabled() -> bool:
    """Return whether code that a study file names must not be imported."""
    return os.environ.get(VARIABLE, "").lower() not in ("", "0", "false", "no", "off")


@contextmanager
def disable_imports() -> Iterator[None]:
    """Forbid the user's code within the context, for a command that only reads a study."""
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

    The module must be installed, or in a folder on ``PYTHONPATH``, or in the current folder while
    ``current_folder`` is in use.

    Args:
        module: The dotted path of the module.
        name: The name of the attribute.
        wanted: Returns whether an attribute is of the right kind; used only for hints.
        what: The name of that kind for messages, such as ``"function"``.
        trusted: Whether the name is ours, not a study file's, so that its import is always allowed.

    Raises:
        PluginImportError: The import is refused or fails, or the module has no such attribute.
    """
    if imports_disabled() and not trusted:
        raise PluginImportError(
            f"--no-imports or {VARIABLE} forbids code that a study names; "
            "use the built-in workloads and the optimizers of hypergrad and torch.optim"
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
    """Search the current folder last, so that a file in it cannot replace an installed module."""
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
