"""Conversion of options to Python's own numbers, from any type that ``float`` takes except text."""

from __future__ import annotations

from typing import Any, SupportsFloat

Number = SupportsFloat
"""A number of any type: one of Python's or numpy's, a fraction, a tensor of one element."""


def as_float(name: str, value: Any) -> float:
    """Return ``value`` as one of Python's own numbers.

    Args:
        name: The option's name, for the message.
        value: A number of any type, such as a NumPy number or a tensor of one element.

    Raises:
        ValueError: ``float`` does not take ``value``, or ``value`` is text.
    """
    if type(value) is float:
        return value
    if not isinstance(value, (str, bytes, bytearray)):
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass
    raise ValueError(f"{name} must be a number, got {value!r}")


def as_floats(name: str, values: Any) -> Any:
    """Return a pair of numbers as a pair of Python's own numbers: a list stays a list, all else is a tuple.

    Args:
        name: The option's name, for the message.
        values: Two numbers of any type.

    Raises:
        ValueError: ``values`` is not a pair of numbers.
    """
    if isinstance(values, (str, bytes, bytearray)) or not hasattr(values, "__len__") or len(values) != 2:
        raise ValueError(f"{name} must be two numbers, got {values!r}")
    if all(type(value) is float for value in values):
        return values
    floats = [as_float(name, value) for value in values]
    return floats if isinstance(values, list) else tuple(floats)
