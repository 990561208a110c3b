"""What can be trained: a catalogue of workloads by name. Importing this package does not import torch.

A built-in workload and a user's own are found the same way, as ``module:function``: a function that
returns a :class:`study.workloads.base.Workload`. How to write one: see :mod:`study.workloads.base`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from study.workloads.base import Workload

__all__ = ["CATALOGUE", "WorkloadError", "resolve"]

CATALOGUE: dict[str, str] = {
    "digits-logreg": "study.workloads.digits:logreg",
    "digits-mlp": "study.workloads.digits:mlp",
    "mnist-logreg": "study.workloads.mnist:logreg",
    "mnist-mlp": "study.workloads.mnist:mlp",
    "cifar10-vgg16": "study.workloads.cifar:cifar10_vgg16",
    "imagefolder-vgg16": "study.workloads.cifar:imagefolder_vgg16",
}

_MODULE_AND_FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")
_resolved: dict[str, Workload] = {}


class WorkloadError(ValueError):
    """A workload's name or arguments lead nowhere; the message is one line for the person who wrote them."""


def resolve(name: str, args: Mapping[str, object]) -> Workload:
    """Return the workload ``name``, made by calling its function with the keyword arguments ``args``.

    ``name`` is a name of :data:`CATALOGUE` or ``module:function``. The module is imported as by any Python
    program: it is installed, or in a folder on ``PYTHONPATH``; the current folder is searched last. Trials
    run in worker processes, and each resolves its workload anew: a module in the current folder is enough
    where the workers share that folder (one machine); on a cluster, install it on every node.

    Within a process the same name and arguments give the same object, so that trials share its data.

    Args:
        name: a catalogue name or ``module:function``.
        args: keyword arguments of the function; JSON scalars.

    Raises:
        WorkloadError: no such workload, module or function; the arguments do not fit; the module or the
            function raised; or it returned something other than a ``Workload``.
    """
    key = json.dumps([name, dict(args)], sort_keys=True, default=repr)
    if key not in _resolved:
        with _current_folder_importable():
            _resolved[key] = _make(name, args)
    return _resolved[key]


def _make(name: str, args: Mapping[str, object]) -> Workload:
    function = _function(name)
    from study.workloads.base import Workload  # imports torch: only once the name is known to be right

    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        takes = inspect.signature(function)
        raise WorkloadError(f"workload {name!r}: {error}; its arguments are {takes}") from None
    try:
        workload = function(**args)
    except Exception as error:
        raise WorkloadError(f"workload {name!r}: {_one_line(error)}") from error
    if not isinstance(workload, Workload):
        returned = type(workload).__name__
        raise WorkloadError(
            f"workload {name!r}: the function returned {returned}, not study.workloads.base.Workload"
        )
    return workload


def _function(name: str) -> Callable[..., Any]:
    match = _MODULE_AND_FUNCTION.fullmatch(CATALOGUE.get(name, name))
    if match is None:
        if ":" in name:
            raise WorkloadError(
                f"workload {name!r}: not of the form module:function, such as mymodule:spirals"
            )
        raise WorkloadError(
            f"unknown workload {name!r}{_nearest(name, CATALOGUE)}; there are {', '.join(CATALOGUE)},"
            " and your own as module:function"
        )
    module = _module(name, match["module"])
    function = getattr(module, match["function"], None)
    if function is None:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        hint = _nearest(match["function"], functions)
        raise WorkloadError(
            f"workload {name!r}: {module.__name__} has no function {match['function']!r}{hint}"
        )
    if not callable(function):
        raise WorkloadError(f"workload {name!r}: {match['function']!r} is not a function")
    return function  # type: ignore[no-any-return]


def _module(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise WorkloadError(f"workload {name!r}: importing {module}: {_one_line(error)}") from error
        raise WorkloadError(
            f"workload {name!r}: no module {error.name!r} installed, on PYTHONPATH, or in {os.getcwd()}"
        ) from None
    except Exception as error:
        raise WorkloadError(f"workload {name!r}: importing {module}: {_one_line(error)}") from error


@contextmanager
def _current_folder_importable() -> Iterator[None]:
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


def _nearest(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
