"""Measures how wide a range of α₀ works.

Everything comes from ``tables.trial_table``, rows in any order. N is ``iterations_to_threshold``. Sums over
several α₀ count only complete seeds: those whose trials ended at every α₀ of the method (and β, if β is
tuned). Otherwise methods would be judged on different α₀.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.analysis.metrics import MEASURED
from study.analysis.pairing import METHOD, SETUP, cells, censored, ended

FACTOR = 2.0
"""An α₀ works for a method if N ≤ FACTOR × the method's best N."""


WIDTH_COLUMNS: dict[str, type] = {
    **dict.fromkeys(("best_alpha0", "best_iterations", "low", "high", "decades"), float),
    **dict.fromkeys(("edge", "at_budget"), bool),
}

Floats = NDArray[np.float64]


def costs(trials: pd.DataFrame, measure: str, by: list[str]) -> pd.DataFrame:
    """Return a measure of the complete seeds: one row per seed, one column per point, both ascending.

    Trials that are equal in ``by`` belong to one point. A missing value, such as a threshold that was not
    reached, is +inf.

    Args:
        trials: Trials of one setup and method, or of all methods to tune over.
        measure: A column in which lower is better.
        by: ``["alpha0"]``, or further columns of the method as well.
    """
    point = trials[by[0]] if len(by) == 1 else trials.groupby(by, dropna=False).ngroup()
    points = np.unique(point.to_numpy())
    is_done = trials["outcome"].isin(MEASURED).to_numpy()
    seeds, row = np.unique(trials["seed"].to_numpy()[is_done], return_inverse=True)
    column = np.searchsorted(points, point.to_numpy()[is_done])
    if len(np.unique(row * len(points) + column)) < len(row):
        raise ValueError("two trials of one seed at one point")
    table = np.full((len(seeds), len(points)), math.nan)
    value = censored(trials, measure)[is_done]
    table[row, column] = np.where(np.isnan(value), math.inf, value)
    whole = ~np.isnan(table).any(axis=1)
    index, columns = pd.Index(seeds[whole], name="seed"), pd.Index(points, name="point")
    return pd.DataFrame(table[whole], index=index, columns=columns)


def seed_widths(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the width of α₀ of every complete seed of one setup and method.

    See ``alpha0_widths``. If no α₀ reached the threshold, ``decades`` is 0 and all other columns are NaN.
    α₀ = 0 has no place on a logarithmic axis and is left out.
    """
    table = costs(trials[trials["alpha0"] > 0], "iterations_to_threshold", ["alpha0"])
    alphas = table.columns.to_numpy(dtype=np.float64)
    rows = [_width(alphas, row, trials["budget"].iloc[0]) for row in table.to_numpy(dtype=np.float64)]
    return pd.DataFrame(np.array(rows, dtype=list(WIDTH_COLUMNS.items())), index=table.index)


def alpha0_widths(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the width of the range of α₀ that works, one row per setup and method that has a threshold.

    An α₀ works if its median N over seeds is ≤ 2 × the best α₀'s. The range runs from ``low`` to ``high``,
    the ends of the unbroken run of α₀ tried around ``best_alpha0``: log10(high / low) ``decades`` wide.
    Nothing is interpolated, so the true width is larger by up to one step of the grid on either side.
    ``edge`` says that an end of the run is an end of the α₀ tried, ``at_budget`` that 2 × the best N is
    beyond the budget, so that an α₀ next to the run may work too: in both cases the width is a lower bound.
    ``decades_mean`` is the mean over the complete ``seeds`` of each seed's own width, the number that
    ``claims`` compares.

    The width is relative to a method's own best: a slow method can be insensitive, so read it together with
    ``best_iterations``. If no α₀ works, every column is NaN.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
    """
    rows: list[dict[str, Any]] = []
    for setup, group in cells(trials, SETUP):
        for method, these in cells(group, METHOD):
            these = these[these["alpha0"] > 0]
            done = ended(these)
            if these["threshold"].isna().all() or done.empty:
                continue
            medians = done["iterations_to_threshold"].fillna(math.inf).groupby(done["alpha0"]).median()
            grid = np.sort(these["alpha0"].unique())
            width = _width(grid, medians.reindex(grid).to_numpy(dtype=np.float64), setup["budget"])
            by_seed = seed_widths(these)
            rows.append(
                {
                    **setup,
                    **method,
                    **dict(zip(WIDTH_COLUMNS, width, strict=True)),
                    "decades": width[4] if math.isfinite(width[0]) else math.nan,
                    "decades_mean": by_seed["decades"].mean(),
                    "seeds": len(by_seed),
                    "tried": ", ".join(f"{alpha:g}" for alpha in medians.index),
                }
            )
    return pd.DataFrame(
        rows, columns=[*SETUP, *METHOD, *WIDTH_COLUMNS, "decades_mean", "seeds", "tried"]
    ).astype(WIDTH_COLUMNS)


def _width(
    alphas: Floats, hits: Floats, budget: float
) -> tuple[float, float, float, float, float, bool, bool]:
    """Return the ``WIDTH_COLUMNS`` of N over ascending α₀; +inf means not reached, NaN unknown."""
    known = hits[~np.isnan(hits)]
    best = known.min() if len(known) else math.inf
    if not math.isfinite(best):
        return math.nan, math.nan, math.nan, math.nan, 0.0, False, False
    works = np.append(hits <= FACTOR * best, False)
    runs = []  # start, end (inclusive), of unbroken runs that hold a best α₀
    start = 0
    for end in np.flatnonzero(~works):
        if end > start and (hits[start:end] == best).any():
            runs.append((start, int(end) - 1))
        start = int(end) + 1
    low, high = max(runs, key=lambda run: alphas[run[1]] / alphas[run[0]])
    place = low + int(np.argmin(hits[low : high + 1]))
    beside = [hits[place] if 0 <= place < len(hits) else math.nan for place in (low - 1, high + 1)]
    at_edge = any(map(math.isnan, beside))
    at_budget = FACTOR * best > budget and any(map(math.isinf, beside))
    ends = float(alphas[low]), float(alphas[high])
    return float(alphas[place]), float(best), *ends, math.log10(ends[1] / ends[0]), at_edge, at_budget


def ratios(table: pd.DataFrame, best: pd.Series[float]) -> Floats:
    """Return N over the best N of its row; +inf if N is, even if the whole row is."""
    values = table.to_numpy(dtype=np.float64)
    scale = np.broadcast_to(best.to_numpy(dtype=np.float64)[:, None], values.shape)
    ratios = np.full_like(values, math.inf)
    np.divide(values, scale, out=ratios, where=np.isfinite(values))
    return ratios
