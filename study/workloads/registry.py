"""Finds a workload by its name. Importing this module does not import torch.

A built-in workload and a user's own are found in the same way, by ``module:function``: a function that
returns a ``study.workloads.base.Workload``. To write one, see ``study.workloads.base``.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from study.config import plugins
from study.config.catalogue import CATALOGUE
from study.config.messages import describe_error, did_you_mean

if TYPE_CHECKING:
    from study.workloads.base import Workload

__all__ = ["CATALOGUE", "WorkloadError", "resolve"]


_MODULE_AND_FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")
_resolved: dict[str, Workload] = {}


class WorkloadError(ValueError):
    """A workload cannot be built from its name and arguments; the message is one line for their author."""


def resolve(name: str, args: Mapping[str, object]) -> Workload:
    """Return the workload ``name``: call its function with the keyword arguments ``args``.

    ``name`` is a name of ``CATALOGUE`` or ``module:function``. The module is imported as by any Python
    program: it is installed, or in a folder on ``PYTHONPATH``; the current folder is searched last. Every
    worker process imports it for itself. A module in the current folder is enough if the workers share
    that folder, as on one machine; on a cluster, install it on every node.

    Within a process the same name and arguments give the same object, so that trials share its data.

    Example::

        workload = resolve("spirals:spirals", {"hidden": 64})

    Args:
        name: A name of the catalogue or ``module:function``.
        args: Keyword arguments of the function, as JSON scalars.

    Raises:
        WorkloadError: There is no such workload, module or function, or it may not be imported here (see
            ``study.config.plugins``); the arguments do not fit; the module or the function raised an error;
            or it returned something other than a ``Workload``.
    """
    key = json.dumps([name, dict(args)], sort_keys=True, default=repr)
    if key not in _resolved:
        with plugins.current_folder():
            _resolved[key] = _make(name, args, key)
    return _resolved[key]


def _make(name: str, args: Mapping[str, object], key: str) -> Workload:
    module, function_name = _module_and_function(name)
    # These import torch, so only after the name is known to be valid.
    from study.workloads import torch_settings
    from study.workloads.base import Workload

    with torch_settings.keeping(module):
        function = _function(name, module, function_name)
    try:
        inspect.signature(function).bind(**args)
    except TypeError as error:
        takes = inspect.signature(function)
        raise WorkloadError(f"workload {name!r}: {error}; its arguments are {takes}") from None
    try:
        with torch_settings.keeping(key, module):
            workload = function(**args)
    except (Exception, SystemExit) as error:
        raise WorkloadError(f"workload {name!r}: {describe_error(error)}") from error
    if not isinstance(workload, Workload):
        returned = type(workload).__name__
        raise WorkloadError(
            f"workload {name!r}: the function returned {returned}, not study.workloads.base.Workload"
        )
    torch_settings.hand_on(workload, module, key)
    return workload


def _module_and_function(name: str) -> tuple[str, str]:
    built_in = CATALOGUE.get(name)
    match = _MODULE_AND_FUNCTION.fullmatch(built_in.function if built_in else name)
    if match is None:
        if ":" in name:
            raise WorkloadError(
                f"workload {name!r}: not of the form module:function, such as mymodule:spirals"
            )
        raise WorkloadError(
            f"unknown workload {name!r}{did_you_mean(name, CATALOGUE)}; there are {', '.join(CATALOGUE)},"
            " and your own as module:function"
        )
    return match["module"], match["function"]


def _function(name: str, module: str, function_name: str) -> Callable[..., Any]:
    try:
        function = plugins.find(
            module, function_name, inspect.isfunction, "function", trusted=name in CATALOGUE
        )
    except plugins.PluginImportError as error:
        raise WorkloadError(f"workload {name!r}: {error}") from error
    except SystemExit as error:
        raise WorkloadError(f"workload {name!r}: importing {module}: {describe_error(error)}") from error
    if not callable(function):
        raise WorkloadError(f"workload {name!r}: {function_name!r} is not a function")
    return function  # type: ignore[no-any-return]
