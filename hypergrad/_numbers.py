"""What counts as a number: all that ``float`` takes, but text."""

from __future__ import annotations

from typing import Any, SupportsFloat

Number = SupportsFloat
"""A number of any kind: Python's, numpy's, a tensor of one element."""


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
