"""What counts as a number: all that ``float`` takes, but text."""

from __future__ import annotations

from typing import Any, SupportsFloat

from torch import Tensor

Number = SupportsFloat
"""A number of any kind: Python's, numpy's, a tensor of one element."""

NUMBERS = ("lr", "hypergrad_lr", "weight_decay", "momentum", "eps", "lop_momentum", "lop_eps")
PAIRS = ("betas", "lop_betas", "lr_bounds")


def as_float(name: str, value: Any) -> float:
    """Return ``value`` as a number of Python's.

    Args:
        name: what the message calls it.
        value: a number of any kind, such as one of numpy's, or a tensor of one element.

    Raises:
        ValueError: if ``float`` does not take ``value``, or it is text.
    """
    if type(value) is float:
        return value
    if not isinstance(value, str | bytes | bytearray):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise ValueError(f"{name} must be a number, got {value!r}")


def as_floats(name: str, values: Any) -> Any:
    """Return ``values``, a pair of numbers, as a list if it is one, else as a tuple.

    Raises:
        ValueError: if it is no pair of numbers.
    """
    if isinstance(values, str | bytes | bytearray) or not hasattr(values, "__len__") or len(values) != 2:
        raise ValueError(f"{name} must be two numbers, got {values!r}")
    if all(type(value) is float for value in values):
        return values
    floats = [as_float(name, value) for value in values]
    return floats if isinstance(values, list) else tuple(floats)


def with_floats(options: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``options`` in which each number is Python's; what is none is left for a check.

    A learning rate that is a tensor stays one: it may be one α per parameter tensor.
    """
    plain = dict(options)
    for name, convert in [*((name, as_float) for name in NUMBERS), *((name, as_floats) for name in PAIRS)]:
        value = options.get(name)
        if value is None or (name == "lr" and isinstance(value, Tensor)):
            continue
        try:
            plain[name] = convert(name, value)
        except ValueError:
            continue
    return plain
