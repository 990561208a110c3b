"""Compares a method with its baseline seed by seed: the independent observations behind a claim.

A seed sets the initial weights and the order of the data, the same for every α₀. So the trials of one seed at
several α₀ are not independent, and a seed is one observation: the mean over α₀ of log(new / baseline).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from study.analysis.pairing import MethodPair
from study.analysis.sensitivity import costs, seed_widths
from study.analysis.stats import Ratio, held_out_best, paired_log_ratio, sign_test, wilcoxon

ENOUGH_ALPHA0 = 3
"""The smallest number of α₀ that gives a width."""

_TIE = 1e-12  # in logarithms: a sum of logs that should cancel is not always exactly 0

Floats = NDArray[np.float64]


class Seeds(NamedTuple):
    """The observation of each complete seed; arrays of shape (seeds,), in ascending order of seeds.

    ``low`` and ``high`` bound the log-ratio, oriented so that below 0 is better: they are equal if both
    values are known, and infinite if one of the two has only a bound. ``new`` and ``base`` are geometric
    means over α₀, NaN if no α₀ has both.
    """

    seeds: Sequence[int]
    new: Floats
    base: Floats
    low: Floats
    high: Floats
    exact: NDArray[np.bool_]
    """Whether all of the seed's values are known, so that a small difference is certain to be small."""
    alpha0s: int = 0
    missed: int = 0
    """Trials without a value (the threshold was not reached) whose partner has one."""
    baseline_missed: int = 0
    both_missed: int = 0
    by_alpha0: tuple[float, ...] = ()
    """The mean over seeds of the log-ratio at each α₀, ascending; below 0 is better."""

    @property
    def better(self) -> int:
        """Number of seeds that are certainly better."""
        return int((self.high < -_TIE).sum())

    @property
    def worse(self) -> int:
        """Number of seeds that are certainly worse."""
        return int((self.low > _TIE).sum())

    @property
    def equal(self) -> int:
        """Number of seeds that are exact ties."""
        return int(((abs(self.low) <= _TIE) & (abs(self.high) <= _TIE)).sum())

    @property
    def unclear(self) -> int:
        """Number of seeds that may be better or worse."""
        return len(self.seeds) - self.better - self.worse - self.equal

    def tests(self) -> tuple[float, float]:
        """Return the one-sided p of the sign test for better, and for worse.

        An unclear seed counts against both.
        """
        return (
            sign_test(self.better, self.worse + self.unclear),
            sign_test(self.worse, self.better + self.unclear),
        )

    def test_within(self, margin: float) -> float:
        """Return the p for a median log-ratio within ±``margin``: the larger of two one-sided sign tests."""
        below = int((self.exact & (self.high < margin)).sum())
        above = int((self.exact & (self.low > -margin)).sum())
        return max(sign_test(count, len(self.seeds) - count) for count in (below, above))

    def test_ranks(self) -> float:
        """Return the one-sided p of Wilcoxon's test for better, over the seeds with a ratio; NaN without."""
        known = np.isfinite(self.new) & np.isfinite(self.base)
        return wilcoxon(np.log(self.new[known] / self.base[known])) if known.any() else math.nan

    def log_ratios(self) -> dict[int, float]:
        """Return log(new / base) of every seed that has both."""
        known = np.isfinite(self.new) & np.isfinite(self.base)
        logs = np.log(self.new[known] / self.base[known])
        return dict(
            zip((s for s, has in zip(self.seeds, known, strict=True) if has), map(float, logs), strict=True)
        )

    def ratio(self) -> Ratio:
        """Return the geometric mean of new / base over the seeds that have both, with its interval."""
        known = np.isfinite(self.new) & np.isfinite(self.base)
        return paired_log_ratio(self.new[known], self.base[known])


def seed_ratios(pair: MethodPair, measure: str, cap: float = math.inf) -> Seeds:
    """Compare a method's measure with its baseline's, seed by seed, over the α₀ of both.

    Only complete seeds count: those in which both ended at every α₀ that the study tries with both. A seed
    depends only on its own trials, so a further seed changes no other.

    With a ``cap``, the budget, it compares min(N, cap): a restricted time, which needs only observed values.
    The ratio is conservative if one of the two missed the threshold, and 1, without information, if both did.
    Directions are stricter: if one of the two missed it, the true log-ratio has a bound on one side only, and
    a seed counts as better or worse only if it is so for any unknown N. Without a cap, a missing value (a
    trial that diverged before its first validation) is worse than every other.

    Args:
        pair: A method and its baseline.
        measure: A column of positive values in which lower is better.
        cap: The largest value that counts.

    Raises:
        ValueError: A value is not positive.
    """
    shared = set(pair.new["alpha0"]) & set(pair.base["alpha0"])
    new, base = (
        costs(trials[trials["alpha0"].isin(shared)], measure, ["alpha0"]) for trials in (pair.new, pair.base)
    )
    seeds = new.index.intersection(base.index)
    above, below = (table.loc[seeds].to_numpy(dtype=np.float64) for table in (new, base))
    if (above <= 0).any() or (below <= 0).any():
        raise ValueError(f"{measure} has values of 0 or less, which have no ratio")
    none_above, none_below = np.isinf(above), np.isinf(below)
    with np.errstate(invalid="ignore"):  # ∞ − ∞: unclear
        logs = np.log(np.minimum(above, cap)), np.log(np.minimum(below, cap))
        value = np.where(none_above & none_below, 0.0, logs[0] - logs[1])
        low = np.where(none_below & ~none_above, -math.inf, value).mean(axis=1)
        high = np.where(none_above & ~none_below, math.inf, value).mean(axis=1)
        by_alpha0 = tuple(map(float, value.mean(axis=0))) if len(seeds) else ()
    both = np.isfinite(logs[0]) & np.isfinite(logs[1])
    return Seeds(
        seeds=list(seeds),
        new=_geometric(logs[0], both),
        base=_geometric(logs[1], both),
        low=low,
        high=high,
        exact=~(none_above | none_below).any(axis=1),
        alpha0s=len(shared),
        missed=int((none_above & ~none_below).sum()),
        baseline_missed=int((none_below & ~none_above).sum()),
        both_missed=int((none_above & none_below).sum()),
        by_alpha0=by_alpha0,
    )


def seed_spans(pair: MethodPair) -> Seeds:
    """Compare the widths of α₀ seed by seed; ``new`` and ``base`` are spans, 10^decades.

    Wider is better. Widths are those of ``sensitivity.seed_widths``, over the α₀ > 0 of both. If one of the
    two is cut off by the α₀ tried or by the budget, it is a lower bound, and the seed is better or worse only
    if it is so for any true width; if both are cut off, they are compared within the α₀ tried. If no α₀
    works, the width is 0 and worse than any other. Never ``exact``: a grid's step is coarser than any margin.

    Args:
        pair: A method and its baseline.
    """
    shared = {alpha for alpha in set(pair.new["alpha0"]) & set(pair.base["alpha0"]) if alpha > 0}
    new, base = (seed_widths(trials[trials["alpha0"].isin(shared)]) for trials in (pair.new, pair.base))
    seeds = new.index.intersection(base.index)
    new, base = new.loc[seeds], base.loc[seeds]
    none_new, none_base = (table["best_alpha0"].isna().to_numpy() for table in (new, base))
    cut_new, cut_base = ((table["edge"] | table["at_budget"]).to_numpy() for table in (new, base))
    value = math.log(10) * (base["decades"] - new["decades"]).to_numpy(dtype=np.float64)
    low = np.where(cut_new & ~cut_base, -math.inf, value)
    high = np.where(cut_base & ~cut_new, math.inf, value)
    for bound in (low, high):
        bound[none_new & ~none_base] = math.inf
        bound[none_base & ~none_new] = -math.inf
        bound[none_base & none_new] = 0.0
    return Seeds(
        seeds=list(seeds),
        new=10 ** new["decades"].to_numpy(dtype=np.float64),
        base=10 ** base["decades"].to_numpy(dtype=np.float64),
        low=low,
        high=high,
        exact=np.zeros(len(seeds), dtype=bool),
        alpha0s=len(shared),
        missed=int((none_new & ~none_base).sum()),
        baseline_missed=int((none_base & ~none_new).sum()),
        both_missed=int((none_base & none_new).sum()),
    )


def seed_ratios_tuned(pair: MethodPair, measure: str, cap: float = math.inf) -> Seeds | None:
    """Compare both at their own best α₀, chosen for every seed on all other seeds.

    The best α₀ has the lowest mean of min(value, cap). The choice for one seed depends on the others, so
    these observations are not independent, and they are not tested.

    Args:
        pair: A method and its baseline.
        measure: See ``seed_ratios``.
        cap: See ``seed_ratios``.

    Returns:
        The observations; None with fewer than two complete seeds, or fewer than two α₀.
    """
    chosen = []
    tables = [costs(trials, measure, ["alpha0"]) for trials in (pair.new, pair.base)]
    seeds = tables[0].index.intersection(tables[1].index)
    if len(seeds) < 2 or max(table.shape[1] for table in tables) < 2:
        return None
    for table in tables:
        capped = np.minimum(table.loc[seeds].to_numpy(dtype=np.float64), cap)
        chosen.append(held_out_best(capped, capped.shape[1]))
    new, base = (np.where(np.isfinite(values), values, math.nan) for values in chosen)
    with np.errstate(invalid="ignore"):
        value = np.where(
            np.isinf(chosen[0]) & np.isinf(chosen[1]), 0.0, np.log(chosen[0]) - np.log(chosen[1])
        )
    return Seeds(list(seeds), new, base, value, value, ~np.isnan(new + base))


def _geometric(logs: Floats, known: NDArray[np.bool_]) -> Floats:
    """Return the geometric mean over the known entries of every row; NaN if there are none."""
    counts = known.sum(axis=1)
    sums = np.where(known, logs, 0.0).sum(axis=1)
    means = np.full(len(sums), math.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return np.asarray(np.exp(means), dtype=np.float64)
