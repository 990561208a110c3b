"""The interface of ``cpu.c``: the layouts of its structures, its ops and lops, its functions' signatures.

All of it must match ``cpu.c``: change both together.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

from hypergrad import directions, rates
from hypergrad.kernels import build

REALS = {torch.float32: "float", torch.float64: "double"}
"""The C type of each dtype for which ``cpu.c`` can be compiled."""

CALL = struct.Struct("@10q6dq")
"""The layout of ``Call``: counts (tensors, members), addresses (sizes, theta, grad, direction, first, second,
step, trace), numbers (momentum, beta1, beta2, eps, weight_decay, sign), threads."""

RULE = struct.Struct("@7q4d")
"""The layout of ``Rule``: kind, granularity, addresses (alpha, h, first, second, step), numbers
(learning_rate, beta1, beta2, eps)."""

LOP_STATES: dict[type, tuple[str, ...]] = {
    rates.SGD: (),
    rates.SGDN: ("momentum_buffer",),
    rates.Adam: ("exp_avg", "exp_avg_sq", "step"),
}
"""The lops that ``cpu.c`` has, and the names of their states for the fields first, second and step of
``Rule``. It does not have their subclasses, which may override ``update``."""

GRANULARITIES = {"group": 0, "tensor": 1, "released": 2}
"""The numbers of the granularities in ``Rule``."""

Keys = tuple[str | None, str | None, str | None]
"""The op's names of the states in the fields direction, first and second of ``Call``; ``None`` for none."""


def describe_op(direction: directions.Direction) -> tuple[str, Keys, tuple[float, float, float, float]]:
    """Return the op's name in cpu.c, the names of its states, and its momentum, β₁, β₂ and ε.

    Raises:
        build.UnavailableError: cpu.c does not have the op.
    """
    if type(direction) in (directions.SGD, directions.Momentum, directions.Adam):
        if isinstance(direction, directions.Adam):
            return "adam", (None, "exp_avg", "exp_avg_sq"), (0.0, *direction.betas, direction.eps)
        if not isinstance(direction, directions.Momentum):
            return "sgd", ("direction", None, None), (0.0, 0.0, 0.0, 0.0)
        numbers = (direction.momentum, 0.0, 0.0, 0.0)
        if direction.nesterov:
            return "nesterov", ("direction", "momentum_buffer", None), numbers
        return "heavy_ball", (None, "momentum_buffer", None), numbers
    raise build.UnavailableError(f"there are none for {type(direction).__name__}")


def describe_lop(rate: rates.Rate) -> tuple[int, float, float, float]:
    """Return the lop's kind in cpu.c, and its β₁ (or momentum), β₂ and ε."""
    if isinstance(rate, rates.SGDN):
        return 1, rate.momentum, 0.0, 0.0
    if isinstance(rate, rates.Adam):
        return 2, *rate.betas, rate.eps
    return 0, 0.0, 0.0, 0.0


class Functions(NamedTuple):
    """The functions for one dtype and op. Each returns 0, or another number if it lacks memory."""

    products: Callable[..., int]
    move: Callable[..., int]
    step: Callable[..., int]
    traced: Callable[..., int]
    move_traced: Callable[..., int]


@cache
def functions(dtype: torch.dtype, name: str) -> Functions:
    """Return the functions of cpu.c for the op ``name``.

    Raises:
        build.UnavailableError: There are no kernels for ``dtype``, or no compiled ones.
    """
    if dtype not in REALS:
        raise build.UnavailableError(f"there are none for {dtype}")
    library = build.library(REALS[dtype])
    products, move, step = library[f"products_{name}"], library["move"], library[f"step_{name}"]
    products.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    move.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_double)
    step.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    traced, move_traced = library[f"traced_{name}"], library[f"move_traced_{name}"]
    traced.argtypes = (ctypes.c_char_p, ctypes.c_double, ctypes.c_void_p)
    move_traced.argtypes = (
        *(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),
        *(ctypes.c_double, ctypes.c_double),
    )
    return Functions(products, move, step, traced, move_traced)


def check(failed: int) -> None:
    """Raise an error if a function of cpu.c has failed.

    Args:
        failed: What the function returned.

    Raises:
        MemoryError: There is not enough memory for the sums.
    """
    if failed:
        raise MemoryError("not enough memory for the sums of a hypergradient step")
