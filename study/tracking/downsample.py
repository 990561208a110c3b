"""Downsamples a curve to a few points that still show every spike of the full curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from study.storage.records import Array


def thin_indices(values: Array, total: int, closed: bool, points: int) -> NDArray[np.intp]:
    """Return the iterations of a curve to keep, so that a plot of it looks the same.

    The curve is split into buckets whose width depends only on ``total``. Each bucket keeps its smallest and
    its largest value, and the curve its first and its last; values that are not finite are left out. While
    the curve grows, only its full buckets count, so the result for a longer curve starts with the result for
    a shorter one.

    Args:
        values: The curve so far, shape (n,), n ≤ total.
        total: The largest number of iterations that the curve may reach.
        closed: Whether the curve ends here, so that its last, partial bucket counts too.
        points: About how many iterations to keep; the result has at most ``points + 2``.

    Returns:
        Indices into ``values``, from 0, ascending.

    Raises:
        ValueError: There are more values than ``total``, or ``points`` is below 2.
    """
    if points < 2:
        raise ValueError(f"points must be 2 or more; got {points}")
    if len(values) > total:
        raise ValueError(f"a curve has at most total={total} values; got {len(values)}")
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
