"""Ranks optimizers, and the α₀ and β of each, by the validation loss that they reach."""

from __future__ import annotations

import math

import pandas as pd

from study.analysis.pairing import METHOD, SETUP, ended

MEASURE = "best_val_loss"


def best_optimizers(trials: pd.DataFrame, count: int) -> list[str]:
    """Return the optimizers with the lowest validation losses, the best first.

    The score of an optimizer on a workload is its lowest median over seeds, over the α₀ and β that were
    tried. Optimizers are ordered by their mean rank over workloads; of equal ranks the first in the study
    comes first. Points are chosen on the seeds that they are scored on, which flatters all optimizers alike.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
        count: Largest number of optimizers to return.
    """
    done = ended(trials)
    if done.empty:
        return []
    loss = done[MEASURE].fillna(math.inf)
    keys = [done[name] for name in dict.fromkeys((*SETUP, *METHOD, "alpha0"))]
    medians = loss.groupby(keys, dropna=False, sort=False).median().rename("loss").reset_index()
    best = medians.groupby([*SETUP, "optimizer"], dropna=False, sort=False)["loss"].min().reset_index()
    best["rank"] = best.groupby(list(SETUP), dropna=False)["loss"].rank()
    order = best.groupby("optimizer", sort=False)["rank"].mean().sort_values(kind="stable")
    return [str(name) for name in order.index[:count]]


def best_rows(summary: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return the rows of each optimizer on each workload with the lowest median validation losses.

    Args:
        summary: From ``tables.summary_table``; the rows keep its order.
        count: Largest number of rows to return for each.
    """
    by = ["workload", "workload_args", "optimizer"]
    ranks = summary.groupby(by, sort=False)[MEASURE].rank(method="first", na_option="bottom")
    return summary[ranks <= count]
