"""What a tuning budget buys: the expected best of K points, chosen on some seeds and reported on others.

Exact expectations, no simulation. numpy only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def expected_best(scores: ArrayLike, values: ArrayLike, k: int) -> float:
    """Return the expected value of the best of ``k`` points drawn at random without replacement.

    The best is the one with the lowest score; of equal ones each is as likely. Of P points sorted by score,
    all k drawn lie beyond the first i with probability (P−i choose k) / (P choose k); the differences of that
    are the probabilities of each point being the best. With ``values`` = ``scores`` it is the mean of the
    minima of all subsets of k points, the unbiased estimator of Dodge et al. 2021 (*Expected validation
    performance and estimation of a random variable's maximum*), whose with-replacement one is optimistic.

    Args:
        scores: what the choice is made by, lower is better, shape (P,); +inf is worse than all.
        values: what is reported of the chosen point, shape (P,).
        k: 1 … P.

    Raises:
        ValueError: shapes differ, or there are fewer than ``k`` points.
    """
    score, value = (np.asarray(given, dtype=np.float64) for given in (scores, values))
    points = len(score)
    if score.shape != value.shape:
        raise ValueError(f"scores and values must belong together; got shapes {score.shape}, {value.shape}")
    if not 1 <= k <= points:
        raise ValueError(f"k must be 1 to {points}, the number of points; got {k}")
    _, place, equal = np.unique(score, return_inverse=True, return_counts=True)
    of_level = np.bincount(place, weights=value) / equal
    before = [0, *np.cumsum(equal)]
    beyond = np.array([math.comb(points - int(first), k) / math.comb(points, k) for first in before])
    chance = beyond[:-1] - beyond[1:]
    possible = chance > 0  # 0 · ∞ is no expectation
    return float(chance[possible] @ of_level[possible])


def held_out_best(costs: ArrayLike, k: int) -> NDArray[np.float64]:
    """Return, for every seed, the expected cost there of the best of ``k`` points chosen on all other seeds.

    Choosing and reporting on the same seeds flatters whoever had more, or noisier, points to choose from.
    Leaving out one seed at a time uses every seed for both and no trial twice at once. The entries share most
    of the seeds that they were chosen on, so they are close to independent, not independent.

    Args:
        costs: of every seed and point, lower is better, shape (seeds, points); +inf for none.
        k: as in :func:`expected_best`.

    Returns:
        Shape (seeds,). A single seed has to serve for both: its value is optimistic for ``k`` > 1.
    """
    cost = np.asarray(costs, dtype=np.float64)
    if len(cost) == 1:
        return np.array([expected_best(cost[0], cost[0], k)])
    return np.array(
        [
            expected_best(np.delete(cost, seed, axis=0).mean(axis=0), cost[seed], k)
            for seed in range(len(cost))
        ]
    )
