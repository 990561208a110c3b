"""Measures how good optimizers are without tuning: their losses over α₀, against the best tuned one.

The measure is the validation loss at the end of the budget. A diverged trial counts as worse than all others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.pairing import METHOD, SETUP, cells, ended

MEASURE = "final_val_loss"
SMALL, LARGE = 1.05, 1.5
"""Factors of the best loss that the table counts: a difference that hardly matters, and one that does."""

LOSSES = (*SETUP, *METHOD, "alpha0", "loss", "ratio", "seeds", "diverged", "is_best", "is_default")
PROFILE = (*METHOD, "points", "tau", "share", "of")
SHARES = ("every", "default", "tuned")
"""The points that a profile counts: every α₀ of every workload, the default α₀ of each, the best of each."""


def losses(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the median final validation loss over seeds, a row per workload, method and α₀ that has ended.

    ``ratio`` is the loss over the best one that any method of the same setup has at any α₀: the best tuned.
    It is chosen on the seeds that it is reported on, so it is a little too good, for all methods alike. A
    median that falls among diverged trials is +inf. ``is_best`` marks the best α₀ of a method (the smallest
    of equals), ``is_default`` the study's default for it.

    A setup in which a loss is 0 or less has no ratios and is left out.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
    """
    rows: list[dict[str, Any]] = []
    for setup, group in cells(ended(trials), SETUP):
        found = [_cell(setup | point, these) for point, these in cells(group, (*METHOD, "alpha0"))]
        best = min(row["loss"] for row in found)
        if not 0 < best < math.inf:
            continue
        methods: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in found:
            methods.setdefault(_method(row), []).append(row)
        firsts = {
            method: min(own, key=lambda row: (row["loss"], row["alpha0"])) for method, own in methods.items()
        }
        for row in found:
            rows.append(row | {"ratio": row["loss"] / best, "is_best": row is firsts[_method(row)]})
    return pd.DataFrame(rows, columns=list(LOSSES))


def profile(table: pd.DataFrame) -> pd.DataFrame:
    """Return the performance profile: the share of points whose loss is within τ × the best tuned one.

    It is a step function of τ for each method and each of ``SHARES``, ``points``: every α₀ of every workload,
    or one α₀ of every workload. ``of`` is the number of points. A method without a default has no such
    rows. Workloads on which some method has not ended count for no method.

    Source: Dolan and Moré 2002, Benchmarking optimization software with performance profiles,
    https://arxiv.org/abs/cs/0102001; there over problems, here over problems and step sizes.

    Args:
        table: From ``losses``.
    """
    rows = []
    for method, points, ratios in _points(_common(table)):
        for tau in np.unique([1.0, *ratios[np.isfinite(ratios)]]):
            share = float((ratios <= tau).mean())
            rows.append({**method, "points": points, "tau": float(tau), "share": share, "of": len(ratios)})
    return pd.DataFrame(rows, columns=list(PROFILE))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Return the profile in a few numbers, a row per method, the smallest median over every α₀ first.

    For each of ``SHARES`` there are ``…_small`` and ``…_large``, the shares of points within ``SMALL`` and
    ``LARGE`` × the best tuned loss, and ``…_median``, the median ratio. ``workloads`` counts the workloads on
    which all methods have ended, ``diverged`` the trials on them that diverged.

    Args:
        table: From ``losses``.
    """
    common = _common(table)
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for method, points, ratios in _points(common):
        row = rows.setdefault(tuple(map(str, method.values())), dict(method))
        row[f"{points}_small"] = float((ratios <= SMALL).mean())
        row[f"{points}_large"] = float((ratios <= LARGE).mean())
        row[f"{points}_median"] = float(np.median(ratios))
    for method, these in cells(common, METHOD):
        row = rows[tuple(map(str, method.values()))]
        row["workloads"] = len(these[list(SETUP)].drop_duplicates())
        row["diverged"] = int(these["diverged"].sum())
    numbers = [f"{points}_{name}" for points in SHARES for name in ("small", "large", "median")]
    made = pd.DataFrame(list(rows.values()), columns=[*METHOD, *numbers, "workloads", "diverged"])
    return made.sort_values("every_median", kind="stable", ignore_index=True)


def _points(table: pd.DataFrame) -> list[tuple[dict[str, Any], str, np.ndarray]]:
    found = []
    for method, these in cells(table, METHOD):
        chosen = {
            "every": these,
            "default": these[these["is_default"].astype(bool)],
            "tuned": these[these["is_best"].astype(bool)],
        }
        found += [
            (method, points, rows["ratio"].to_numpy(dtype=np.float64))
            for points, rows in chosen.items()
            if len(rows)
        ]
    return found


def _common(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the setups in which every optimizer has rows."""
    optimizers = set(table["optimizer"])
    kept = [rows for _, rows in cells(table, SETUP) if set(rows["optimizer"]) == optimizers]
    return pd.concat(kept) if kept else table.iloc[:0]


def _cell(settings: dict[str, Any], done: pd.DataFrame) -> dict[str, Any]:
    return {
        **settings,
        "loss": float(done[MEASURE].fillna(math.inf).median()),
        "seeds": len(done),
        "diverged": int((done["outcome"] == "diverged").sum()),
        "is_default": bool(settings["alpha0"] == done["default_alpha0"].iloc[0]),
    }


def _method(row: dict[str, Any]) -> tuple[str, ...]:
    # As text, since NaN does not equal itself.
    return tuple(str(row[name]) for name in METHOD)
