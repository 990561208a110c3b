"""Profiles over all α₀ and seeds: step size, runtime, the best of K points, performance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.pairing import METHOD, SETUP, cells, ended
from study.analysis.sensitivity import Floats, costs, ratios
from study.analysis.stats import held_out_best, mean_interval

PROFILE_WORKLOADS = 5
"""Fewest workloads of a performance profile; with fewer it would be no more than a bar chart."""


def step_size_profile(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the profile over step sizes: the share of α₀ at which N ≤ τ × the best N, a step function of τ.

    ``share`` is relative to the method's own best N of the same seed; it starts at τ = 1 and shows how
    insensitive the method is. ``share_overall`` is relative to the best N of any method with the same
    threshold on that seed, and shows speed and insensitivity together; after Asi & Duchi 2019 (*The
    importance of better models in stochastic optimization*, https://arxiv.org/abs/1903.08619), who profile
    over step sizes as Dolan & Moré 2002 profile over problems. Both are means over the complete seeds,
    ``seeds`` of them. An α₀ that does not reach the threshold is in no share.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
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
            own = ratios(table, table.min(axis=1))
            best = ratios(table, overall)
            taus = np.unique([1.0, *own[np.isfinite(own)], *best[np.isfinite(best)]])
            for tau, share, overall in zip(taus, _shares(own, taus), _shares(best, taus), strict=True):
                shares = {"share": share, "share_overall": overall}
                rows.append({**setup, **method, "tau": tau, **shares, "seeds": len(table)})
    return pd.DataFrame(rows, columns=[*SETUP, *METHOD, "tau", "share", "share_overall", "seeds"])


def runtime_distribution(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a method's trials that reached the threshold within a number of iterations.

    It is a step function over all α₀ and seeds of the method that ended, ``trials`` of them, as if α₀ were
    drawn from those tried; the last row is at the budget. Source: the run-time distribution of Hoos & Stützle
    1998.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
    """
    rows: list[dict[str, Any]] = []
    done = ended(trials)
    for setup, group in cells(done[done["threshold"].notna()], SETUP):
        for method, these in cells(group, METHOD):
            hits = these["iterations_to_threshold"].fillna(math.inf).to_numpy(dtype=np.float64)
            steps = np.unique([*hits[np.isfinite(hits)], setup["budget"]])
            for iterations, share in zip(steps, _shares(hits, steps), strict=True):
                row = {"iterations": iterations, "share": share, "trials": len(hits)}
                rows.append({**setup, **method, **row})
    return pd.DataFrame(rows, columns=[*SETUP, *METHOD, "iterations", "share", "trials"])


def _shares(values: Floats, limits: Floats) -> Floats:
    """Return the share of the values that are at most each limit."""
    return np.asarray(np.searchsorted(np.sort(values, axis=None), limits, side="right") / values.size)


def best_of_k(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the expected result of tuning an optimizer with ``k`` random points, the same ``k`` for all.

    An optimizer's points are all the α₀ × β (× granularity × options) that were tried with it, so β counts as
    tuned; ``points`` of them. ``k`` runs from 1 to the smallest number of points of any optimizer in the
    setup. ``value`` is the exact expected best of ``k`` points drawn without replacement. Each is chosen by
    its mean over all complete seeds but one and reported on that one, and the result is averaged over the
    seed left out (``stats``; so more than half of the seeds serve the choice, and none is reported on
    itself). With a single seed ``held_out`` is False and the value optimistic. ``low`` and ``high`` are
    ``study.analysis.stats.mean_interval`` over the seeds, approximate, as the seeds share choices.

    ``measure`` is ``iterations_to_threshold``, as min(N, budget), or ``best_val_loss``, which is +inf if
    there is a chance that all ``k`` points drawn diverge before their first validation.

    The points count as a random sample or a grid. Points of an adaptive search are neither; and an optimizer
    with pruned trials has no rows, because their value is unknown and probably bad.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
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

    Source: Dolan & Moré 2002 (*Benchmarking optimization software with performance profiles*,
    https://arxiv.org/abs/cs/0102001). An optimizer's time on a workload is the value of ``best_of_k`` for
    iterations at the largest common ``k``; it fails on the workload if no seed reached the threshold. A
    workload counts if all optimizers have the same threshold and complete seeds on it. With fewer than
    ``PROFILE_WORKLOADS`` the table is empty. If one optimizer leads, the order of the others can depend on it
    (Gould & Scott 2016).

    Args:
        trials: From ``tables.trial_table``, rows in any order.
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
