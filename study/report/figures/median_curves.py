"""Turns the trials of an optimizer into curves over iterations: the median over seeds, and the range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.storage.records import Array, TrialRecord

Quantity = Literal["alpha", "train_loss", "val_loss"]
Floats = NDArray[np.float64]

POINTS = 400
"""Largest number of points of a curve; a figure has no room for more."""
AVERAGED = 20
"""A training loss is averaged over one epoch, but at most over 1/20 of the budget."""


class Curve(NamedTuple):
    """The median over seeds and the range of one quantity; arrays of shape (points,)."""

    iteration: NDArray[np.int64]
    middle: Floats
    """The median; NaN if at most half of the seeds have a value, or the median is infinite."""
    low: Floats
    """The smallest finite value."""
    high: Floats
    ends_in_cross: bool
    """Whether half of the trials or more diverged."""

    @property
    def end(self) -> tuple[int, float]:
        """The end of the line: the iteration and the median."""
        last = int(np.flatnonzero(np.isfinite(self.middle))[-1])
        return int(self.iteration[last]), float(self.middle[last])


def median_curve(cell: Sequence[TrialRecord], quantity: Quantity) -> Curve | None:
    """Return the curve of an optimizer's trials, one per seed; None if it has no point.

    The loss of a trial counts as above all others after the trial diverged. The α of the epoch in which it
    diverged is left out, as it means nothing.

    Args:
        cell: Trials that differ only in their seeds; each has an epoch.
        quantity: The quantity. α and the training loss have a value per iteration, the latter as
            ``trailing_mean`` over ``window`` iterations; the validation loss has one per epoch.
    """
    points = _points(cell, quantity)
    values = np.array([_sampled(record, quantity, points) for record in cell])
    present = ~np.isnan(values)
    middle = np.full(len(points), np.nan)
    for place in np.flatnonzero(present.sum(axis=0) * 2 > len(cell)):
        middle[place] = np.median(values[present[:, place], place])
    middle[~np.isfinite(middle)] = np.nan
    if np.isnan(middle).all():
        return None
    low, high = np.full((2, len(points)), np.nan)
    for place in np.flatnonzero(np.isfinite(middle)):
        finite = values[np.isfinite(values[:, place]), place]
        low[place], high[place] = finite.min(), finite.max()
    diverged = sum(record.status == "diverged" for record in cell)
    return Curve(points, middle, low, high, 2 * diverged >= len(cell))


def trailing_mean(values: Array, count: int) -> Floats:
    """Return the mean of each value and those before it, ``count`` in all; at first of as many as there are.

    If ``count`` is the number of iterations in an epoch, the value after each epoch is the mean over the
    epoch.
    """
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(end - count, 0)
    return np.asarray((sums[end] - sums[start]) / (end - start))


def window(record: TrialRecord) -> int:
    """Return the number of iterations over which a training loss is averaged."""
    return max(min(record.epochs[0].iterations, (record.budget or 0) // AVERAGED), 1)


def _points(cell: Sequence[TrialRecord], quantity: Quantity) -> NDArray[np.int64]:
    """Return the iterations at which the curve has points, including the first and the last."""
    if quantity == "val_loss":
        return np.array(sorted({epoch.last_iteration for record in cell for epoch in record.epochs}))
    last = max(record.iterations for record in cell)
    spread = np.concatenate([np.linspace(1, last, POINTS * 3 // 4), np.geomspace(1, last, POINTS // 4)])
    return np.unique(np.round(spread).astype(np.int64))


def _sampled(record: TrialRecord, quantity: Quantity, points: NDArray[np.int64]) -> Floats:
    """Return a trial's values at the points: NaN for none, ∞ for the loss of a trial that has diverged."""
    values = np.full(len(points), np.nan)
    with np.errstate(invalid="ignore", over="ignore"):  # a trial that diverges
        for place, value in _QUANTITIES[quantity](record, points):
            values[place] = value if math.isfinite(value) else np.nan
    if record.status == "diverged" and quantity != "alpha":
        values[np.isnan(values)] = np.inf
    return values


def _iterations(values: Array, points: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    for place in np.flatnonzero(points <= len(values)):
        yield int(place), float(values[points[place] - 1])


def _alpha(record: TrialRecord, points: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    known = len(record.alpha) - (record.epochs[-1].iterations if record.status == "diverged" else 0)
    yield from _iterations(record.alpha[:known], points)


def _train_loss(record: TrialRecord, points: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    yield from _iterations(trailing_mean(record.train_loss, window(record)), points)


def _val_loss(record: TrialRecord, points: NDArray[np.int64]) -> Iterator[tuple[int, float]]:
    known = {epoch.last_iteration: epoch.val_loss for epoch in record.epochs}
    for place, point in enumerate(points):
        if int(point) in known:
            yield place, known[int(point)]


_QUANTITIES: dict[Quantity, Callable[[TrialRecord, NDArray[np.int64]], Iterator[tuple[int, float]]]] = {
    "alpha": _alpha,
    "train_loss": _train_loss,
    "val_loss": _val_loss,
}
