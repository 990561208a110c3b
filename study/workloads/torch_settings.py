"""Settings of the whole process, mostly of torch, that a workload's code may change.

Each workload has its own settings: those that its code changes, such as
``torch.set_default_dtype(torch.float64)`` in ``load``, are in force whenever that workload is loaded, built
or trained, and never for another workload of the same process. The previous settings are restored afterwards.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

__all__ = [
    "AUTOTUNED",
    "FLOAT32",
    "TF32",
    "Changes",
    "changed",
    "describe_precision",
    "hand_on",
    "in_force",
    "keeping",
    "kept",
    "random_kept",
]

Changes = dict[str, Any]
"""Settings by name, those that differ from the process's."""

_backends: Any = torch.backends
_PRECISIONS: dict[str, Any] = {
    "matmul": _backends.cuda.matmul,
    "convolution": _backends.cudnn.conv,
    "rnn": _backends.cudnn.rnn,
    "cpu matmul": _backends.mkldnn.matmul,
    "cpu convolution": _backends.mkldnn.conv,
    "cpu rnn": _backends.mkldnn.rnn,
}
"""The objects in which torch keeps the precision of float32, by operation."""

FLOAT32: Changes = {"precision": ("highest", False, ("ieee",) * len(_PRECISIONS))}
"""Computes float32 in float32 everywhere; torch's own default allows TF32 in convolutions on a GPU."""
TF32: Changes = {
    "precision": ("high", True, tuple("ieee" if name.startswith("cpu") else "tf32" for name in _PRECISIONS))
}
"""On a GPU, rounds float32 factors to TF32, which has bfloat16's range and three more bits of precision; a
CPU still computes in float32."""
AUTOTUNED: Changes = {"cudnn": (True, True, False)}
"""Lets cuDNN try its algorithms for each shape and keep the fastest."""


def _precision() -> tuple[Any, ...]:
    # torch has each setting twice, and raises an error if code reads the older one and the newer contradicts
    # it.
    matmul = convolution = None
    with suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        convolution = _backends.cudnn.allow_tf32
    return matmul, convolution, tuple(operation.fp32_precision for operation in _PRECISIONS.values())


def _set_precision(value: tuple[Any, ...]) -> None:
    matmul, convolution, newer = value
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolution is not None:
        _backends.cudnn.allow_tf32 = convolution
    for operation, wanted in zip(_PRECISIONS.values(), newer, strict=True):
        if operation.fp32_precision != wanted:
            operation.fp32_precision = wanted


def _set_default_device(device: torch.device) -> None:
    # None is the CPU, without the overhead that torch has for any default device.
    torch.set_default_device(None if device.type == "cpu" else device)


def _set_cudnn(value: tuple[bool, bool, bool]) -> None:
    _backends.cudnn.enabled, _backends.cudnn.benchmark, _backends.cudnn.deterministic = value


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # the folder was removed
        return None


def _set_working_folder(folder: str | None) -> None:
    if folder is not None:
        with suppress(OSError):
            os.chdir(folder)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, _set_default_device),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "cudnn": (
        lambda: (_backends.cudnn.enabled, _backends.cudnn.benchmark, _backends.cudnn.deterministic),
        _set_cudnn,
    ),
    "precision": (_precision, _set_precision),
    "working folder": (_working_folder, _set_working_folder),
}
"""Functions that read and write each setting, by name."""

_kept: dict[int | str, tuple[object, Changes]] = {}
"""By owner: the owner, so that its id stays unique, and its changes."""


@contextmanager
def in_force(changes: Changes) -> Iterator[None]:
    """Put ``changes`` in force; restore the previous settings afterwards, and add the code's own changes.

    Args:
        changes: Settings of a workload. They are updated, so that with the same dictionary the next time, the
            code finds the settings that it left.
    """
    before = _read()
    inside = before | changes
    _write(inside, before)
    try:
        yield
    finally:
        after = _read()
        _write(before, after)
        changes.update({name: value for name, value in after.items() if value != inside[name]})


def kept(*owners: object) -> Changes:
    """Return the settings that the code of ``owners`` changed, over ``FLOAT32``; later owners win."""
    return FLOAT32 | changed(*owners)


def changed(*owners: object) -> Changes:
    """Return the settings that the code of ``owners`` changed, as a copy; later owners win."""
    changes: Changes = {}
    for owner in owners:
        changes |= _kept.get(_id(owner), (owner, {}))[1]
    return changes


@contextmanager
def keeping(owner: object, *others: object) -> Iterator[None]:
    """Run code of ``owner`` with its own and the ``others``' changes in force, and keep its new changes.

    Random generators are restored as well: torch's on the CPU, numpy's global one and Python's.

    Args:
        owner: A workload, its ``load`` function, or the name of a module.
        others: Owners whose changes are in force, too.
    """
    before = kept(*others, owner)
    changes = dict(before)
    try:
        with random_kept(), in_force(changes):
            yield
    finally:
        own = {name: value for name, value in changes.items() if value != before.get(name)}
        _kept[_id(owner)] = owner, _kept.get(_id(owner), (owner, {}))[1] | own


def hand_on(owner: object, *others: object) -> None:
    """Add all changes of ``others`` to those of ``owner``."""
    _kept[_id(owner)] = owner, changed(owner, *others)


@contextmanager
def random_kept() -> Iterator[None]:
    """Restore the global random generators of torch on the CPU, numpy and Python at the end."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def describe_precision(device: torch.device) -> str:
    """Return how float32 is computed on ``device`` now: ``float32``, or ``float32 (tf32 in convolution)``."""
    on_gpu = device.type == "cuda"
    found = {
        name.removeprefix("cpu "): operation.fp32_precision
        for name, operation in _PRECISIONS.items()
        if name.startswith("cpu ") != on_gpu
    }
    reduced = [f"{value} in {name}" for name, value in found.items() if value not in ("none", "ieee")]
    return f"float32 ({', '.join(reduced)})" if reduced else "float32"


def _read() -> Changes:
    return {name: read() for name, (read, _) in _SETTINGS.items()}


def _write(wanted: Changes, now: Changes) -> None:
    for name, (_, write) in _SETTINGS.items():
        if wanted[name] != now[name]:
            write(wanted[name])


def _id(owner: object) -> int | str:
    return owner if isinstance(owner, str) else id(owner)
