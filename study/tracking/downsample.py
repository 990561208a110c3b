"""Which points of a curve to keep, so that its picture shows every spike that the full curve has."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.storage.records import Array

CURVE_POINTS = 320
"""Points that the MLflow UI draws of a curve."""


def thin_indices(values: Array, total: int, closed: bool, points: int = CURVE_POINTS) -> NDArray[np.intp]:
    """Return which iterations of a curve to keep, so that its picture stays the same.

    The curve is cut into buckets whose width depends on ``total`` alone. Kept are each bucket's smallest
    and largest value and the curve's first and last, never one that is not finite. While the curve grows,
    only whole buckets are answered for; so the answer for a longer curve starts with every earlier answer.

    Args:
        values: the curve so far, shape (n,), n ≤ total.
        total: iterations that the curve may come to have.
        closed: the curve ends here: answer for its last, partial bucket too.
        points: about as many are kept; at most ``points + 2``.

    Returns:
        Indices into ``values``, from 0, ascending.

    Raises:
        ValueError: more values than ``total``, or fewer than two points asked for.
    """
    if points < 2:
        raise ValueError(f"points must be 2 or more; got {points}")
    if len(values) > total:
        raise ValueError(f"a curve of at most total={total} values was promised; got {len(values)}")
    if not len(values):
        return np.empty(0, dtype=np.intp)
    width = -(-total // (points // 2))
    count = -(-len(values) // width) if closed else len(values) // width
    padded = np.full(count * width, np.nan)
    known = min(len(values), count * width)
    padded[:known] = values[:known]
    buckets = padded.reshape(count, width)
    finite = np.isfinite(buckets)
    starts = np.flatnonzero(finite.any(axis=1)) * width
    kept = finite.any(axis=1)
    lowest = np.where(finite, buckets, np.inf).argmin(axis=1)[kept]
    highest = np.where(finite, buckets, -np.inf).argmax(axis=1)[kept]
    ends = np.flatnonzero(finite)[[0, -1] if closed else [0]] if kept.any() else np.empty(0, dtype=np.intp)
    return np.unique(np.concatenate([ends, starts + lowest, starts + highest]))
