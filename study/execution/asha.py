"""Asynchronous successive halving (ASHA), which stops points of a search early.

Source: Li et al., *A System for Massively Parallel Hyperparameter Tuning*, MLSys 2020,
https://arxiv.org/abs/1810.05934, in the stopping variant: a point that does not stop is never paused.
"""

from __future__ import annotations

import numpy as np

from study.config.search_section import Asha


class SuccessiveHalving:
    """Decides after each epoch whether a point stops.

    Rungs lie at ``grace`` epochs, then at ``grace`` × ``reduction``, ``grace`` × ``reduction``² and so on. A
    point stops at a rung if its value is above the 1/``reduction`` quantile of the values of the points that
    reached the rung before it. The first point at a rung always continues.

    Args:
        asha: The study's ``scheduler`` section.

    Example:
        >>> from study.config.search_section import Asha
        >>> halving = SuccessiveHalving(Asha(grace=1, reduction=2))
        >>> [halving.stops(point, epoch=1, value=value) for point, value in enumerate([0.5, 0.9, 0.4])]
        [False, True, False]
    """

    def __init__(self, asha: Asha) -> None:
        self._grace, self._reduction = asha.grace, asha.reduction
        self._rungs: dict[int, dict[int, float]] = {}

    def stops(self, point: int, *, epoch: int, value: float) -> bool:
        """Record a point's value after an epoch, and return whether the point stops.

        A worker that was restarted reports its epochs again; a rung decides only once about a point.

        Args:
            point: Number of the point.
            epoch: Number of epochs that the point has trained, from 1.
            value: Score of the point so far; smaller is better.
        """
        if not self._is_rung(epoch):
            return False
        before = self._rungs.setdefault(epoch, {})
        if point in before:
            return False
        stops = bool(before) and value > float(np.percentile(list(before.values()), 100 / self._reduction))
        before[point] = value
        return stops

    def _is_rung(self, epoch: int) -> bool:
        rung = self._grace
        while rung < epoch:
            rung *= self._reduction
        return rung == epoch
