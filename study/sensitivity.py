"""How much depends on α₀ and on tuning: widths, profiles over step sizes, runtimes, best of K points.

From :func:`study.tables.trial_table` alone, rows in any order. N is ``iterations_to_threshold``. Where
several α₀ are summed up, only complete seeds count: those whose trials ended at every α₀ of the method (and
β, where β is tuned). A share of what happens to be there would be of other α₀ for every method.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.pairing import METHOD, SETUP, cells, ended
from study.statistics import mean_interval
from study.tuning import held_out_best

FACTOR = 2.0
"""An α₀ works for a method if N ≤ FACTOR × the method's best N."""

PROFILE_WORKLOADS = 5
"""A performance profile over fewer workloads is a bar chart in disguise."""

WIDTH_COLUMNS: dict[str, type] = {
    **dict.fromkeys(("best_alpha0", "best_iterations", "low", "high", "decades"), float),
    **dict.fromkeys(("edge", "at_budget"), bool),
}

Floats = NDArray[np.float64]


def costs(trials: pd.DataFrame, measure: str, by: list[str]) -> pd.DataFrame:
    """Return a measure of the complete seeds: one row per seed, one column per point, both ascending.

    A point is what is equal in ``by``. What has no value, such as a threshold that was not reached, is +inf.

    Args:
        trials: of one setup and method, or of all methods that one tunes over.
        measure: a column in which lower is better.
        by: ``["alpha0"]``, or also columns of the method.
    """
    point = trials[by[0]] if len(by) == 1 else trials.groupby(by, dropna=False).ngroup()
    done = ended(trials)
    columns = {"seed": done["seed"], "point": point.loc[done.index], "cost": done[measure].fillna(math.inf)}
    known = pd.DataFrame(columns).pivot(index="seed", columns="point", values="cost")
    return known.reindex(columns=np.sort(point.unique())).dropna()


def seed_widths(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the width of α₀ of every complete seed of one setup and method.

    See :func:`alpha0_widths`; ``best_alpha0`` and all else is NaN, and ``decades`` 0, where no α₀ reached the
    threshold. α₀ = 0 has no place on a logarithmic axis and is left out.
    """
    table = costs(trials[trials["alpha0"] > 0], "iterations_to_threshold", ["alpha0"])
    alphas = table.columns.to_numpy(dtype=np.float64)
    rows = [_width(alphas, row, trials["budget"].iloc[0]) for row in table.to_numpy(dtype=np.float64)]
    return pd.DataFrame(rows, index=table.index, columns=list(WIDTH_COLUMNS)).astype(WIDTH_COLUMNS)


def alpha0_widths(trials: pd.DataFrame) -> pd.DataFrame:
    """Return how wide a range of α₀ works, one row per setup and method that has a threshold.

    An α₀ works if its median N over seeds is ≤ 2 × the best α₀'s. The range runs from ``low`` to ``high``,
    the ends of the unbroken run of α₀ tried around ``best_alpha0``: log10(high / low) ``decades`` wide.
    Nothing is interpolated, so the true width is larger by up to one step of the grid on either side.
    ``edge`` says that an end of the run is an end of what was tried, ``at_budget`` that 2 × the best N lies
    beyond the budget, so that an α₀ next to the run may work too: either way the width is a lower bound.
    ``decades_mean`` is the mean over the complete ``seeds`` of each seed's own width, the number that
    ``claims`` compares.

    It is relative to a method's own best: a slow method can be insensitive, so read it beside
    ``best_iterations``. Where no α₀ works it is NaN throughout.
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


def step_size_profile(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the profile over step sizes: the share of α₀ at which N ≤ τ × the best N, a step function of τ.

    ``share`` is relative to the method's own best N of the same seed; it starts at τ = 1 and says how
    insensitive the method is. ``share_overall`` is relative to the best N of any method with the same
    threshold on that seed, and says at once how fast and how insensitive; after Asi & Duchi 2019 (*The
    importance of better models in stochastic optimization*), who profile over step sizes what Dolan & Moré
    2002 profile over problems. Both are means over the complete seeds, ``seeds`` of them. An α₀ from which
    the threshold is not reached is in no share.
    """
    rows: list[dict[str, Any]] = []
    for setup, group in cells(trials[trials["threshold"].notna()], SETUP):
        tables = [
            (method, these["threshold"].iloc[0], costs(these, "iterations_to_threshold", ["alpha0"]))
            for method, these in cells(group, METHOD)
        ]
        for method, threshold, table in tables:
            if table.empty:
                continue
            rivals = [other.min(axis=1) for _, same, other in tables if same == threshold]
            overall = pd.concat(rivals, axis=1).min(axis=1).loc[table.index]
            own = _ratios(table, table.min(axis=1))
            best = _ratios(table, overall)
            for tau in np.unique([1.0, *own[np.isfinite(own)], *best[np.isfinite(best)]]):
                shares = {"share": (own <= tau).mean(), "share_overall": (best <= tau).mean()}
                rows.append({**setup, **method, "tau": tau, **shares, "seeds": len(table)})
    return pd.DataFrame(rows, columns=[*SETUP, *METHOD, "tau", "share", "share_overall", "seeds"])


def runtime_distribution(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a method's trials that reached the threshold within so many iterations.

    A step function over all its α₀ and seeds that ended, ``trials`` of them, as if α₀ were drawn from those
    tried; the last row is at the budget. The run-time distribution of Hoos & Stützle 1998.
    """
    rows: list[dict[str, Any]] = []
    done = ended(trials)
    for setup, group in cells(done[done["threshold"].notna()], SETUP):
        for method, these in cells(group, METHOD):
            hits = these["iterations_to_threshold"].fillna(math.inf).to_numpy(dtype=np.float64)
            for iterations in np.unique([*hits[np.isfinite(hits)], setup["budget"]]):
                row = {"iterations": iterations, "share": (hits <= iterations).mean(), "trials": len(hits)}
                rows.append({**setup, **method, **row})
    return pd.DataFrame(rows, columns=[*SETUP, *METHOD, "iterations", "share", "trials"])


def best_of_k(trials: pd.DataFrame) -> pd.DataFrame:
    """Return what tuning with ``k`` random points buys an optimizer, the same ``k`` for all.

    An optimizer's points are all the α₀ × β (× granularity × options) that were tried with it, so β counts as
    tuned; ``points`` of them. ``k`` runs from 1 to the smallest number of points of any optimizer in the
    setup. ``value`` is the expected best of ``k`` points drawn without replacement, exact, each chosen by its
    mean over all complete seeds but one and reported on that one, then averaged over which one is left out
    (:mod:`study.tuning`; more seeds to choose on than half of them, and none is reported on itself). With a
    single seed ``held_out`` is False and the value optimistic. ``low`` and ``high`` are
    :func:`study.statistics.mean_interval` over the seeds, approximate, as those share what was chosen.

    ``measure`` is ``iterations_to_threshold``, as min(N, budget), or ``best_val_loss``, which is +inf if
    there is a chance that all ``k`` points drawn diverge before their first validation.

    The points are taken as a random sample or a grid. Points of an adaptive search are neither; and an
    optimizer with pruned trials has no rows, because the value of those is unknown and likely bad.
    """
    rows: list[dict[str, Any]] = []
    for setup, group in cells(trials, SETUP):
        by_optimizer = list(cells(group, ["optimizer"]))
        points = {
            of["optimizer"]: these.groupby([*METHOD, "alpha0"], dropna=False).ngroups
            for of, these in by_optimizer
        }
        for measure in ("iterations_to_threshold", "best_val_loss"):
            for of, these in by_optimizer:
                timed = measure == "iterations_to_threshold"
                if (these["outcome"] == "pruned").any() or (timed and these["threshold"].isna().any()):
                    continue
                table = costs(these, measure, [*METHOD, "alpha0"])
                if table.empty:
                    continue
                cost = np.minimum(table.to_numpy(), setup["budget"]) if timed else table.to_numpy()
                for k in range(1, min(points.values()) + 1):
                    values = held_out_best(cost, k)
                    low, high = mean_interval(values) if np.isfinite(values).all() else (math.nan, math.nan)
                    rows.append(
                        {
                            **setup,
                            **of,
                            "measure": measure,
                            "threshold": these["threshold"].iloc[0],
                            "k": k,
                            "value": values.mean(),
                            "low": low,
                            "high": high,
                            "points": points[of["optimizer"]],
                            "seeds": len(values),
                            "held_out": len(values) > 1,
                        }
                    )
    extra = ("measure", "threshold", "k", "value", "low", "high", "points", "seeds", "held_out")
    return pd.DataFrame(rows, columns=[*SETUP, "optimizer", *extra])


def performance_profile(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the share of workloads on which an optimizer is within τ × the fastest, a step function of τ.

    Dolan & Moré 2002 (*Benchmarking optimization software with performance profiles*). An optimizer's time on
    a workload is what the largest common tuning budget buys, ``best_of_k``'s value for iterations at the
    largest ``k``; a failure if no seed reached the threshold. Workloads count on which all optimizers have
    one and the same threshold and complete seeds. Empty under five: a share of four is not worth a curve.
    Where one optimizer leads, the order of the others can depend on it (Gould & Scott 2016).
    """
    best = best_of_k(trials)
    best = best[best["measure"] == "iterations_to_threshold"]
    optimizers = list(dict.fromkeys(trials.sort_index()["optimizer"]))
    ratios = []
    for setup, group in cells(best, SETUP):
        last = group[group["k"] == group["k"].max()].set_index("optimizer")
        if set(optimizers) <= set(last.index) and last["threshold"].nunique() == 1:
            times = last["value"].mask(last["value"] >= setup["budget"], math.inf)[optimizers].to_numpy()
            fastest = times.min()
            ratios.append(times / fastest if math.isfinite(fastest) else times)
    if len(ratios) < PROFILE_WORKLOADS:
        return pd.DataFrame(columns=["optimizer", "tau", "share", "workloads"])
    table = np.array(ratios)
    rows = [
        {"optimizer": optimizer, "tau": tau, "share": (column <= tau).mean(), "workloads": len(column)}
        for optimizer, column in zip(optimizers, table.T, strict=True)
        for tau in np.unique([1.0, *table[np.isfinite(table)]])
    ]
    return pd.DataFrame(rows)


def _width(
    alphas: Floats, hits: Floats, budget: float
) -> tuple[float, float, float, float, float, bool, bool]:
    """The :data:`WIDTH_COLUMNS` of N over ascending α₀; +inf is not reached, NaN unknown."""
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


def _ratios(table: pd.DataFrame, best: pd.Series[float]) -> Floats:
    """N over the best N of its row; +inf where N is, also if nothing is finite."""
    values = table.to_numpy(dtype=np.float64)
    scale = np.broadcast_to(best.to_numpy(dtype=np.float64)[:, None], values.shape)
    ratios = np.full_like(values, math.inf)
    np.divide(values, scale, out=ratios, where=np.isfinite(values))
    return ratios
