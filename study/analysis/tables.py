"""Tables of a study: one row per trial, and medians over seeds.

A threshold that was not reached within the budget is NaN in a table and ``"> budget"`` in a table's text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.formatting import format_iterations, workload_label
from study.analysis.metrics import SUMMARIES, outcome, summarise
from study.analysis.pairing import CELL, METHOD, SETUP, cells, ended
from study.analysis.stats import median_interval
from study.config.loader import Study, Trial
from study.config.search_space import NOTHING_FOUND, SearchState
from study.storage.records import TrialRecord

__all__ = [
    "CELL",
    "METHOD",
    "SETUP",
    "ended",
    "summary_table",
    "trial_table",
    "trial_workload_label",
]


def trial_workload_label(trial: Trial) -> str:
    """Return a trial's workload with its arguments, ``digits-mlp (width=64)``."""
    return workload_label({"workload": trial.workload, "workload_args": _options(trial, "workload_args")})


def trial_table(
    records: Sequence[TrialRecord], study: Study, state: SearchState = NOTHING_FOUND
) -> pd.DataFrame:
    """Return one row per reported trial of the study, in its order: settings, outcome and summaries.

    A trial without a record is ``pending``; records of other trials are ignored. ``budget`` is in
    iterations, NaN as long as no trial of the same workload, batch size and epochs has finished an epoch.
    ``workload_args`` and ``optimizer_args`` are text, ``"width=64, bias=true"``, empty if there are none.

    Args:
        records: Of the study's trials, in any order.
        study: The study.
        state: What the study's search has found; a grid needs none.

    Raises:
        ValueError: Two records belong to one trial.
    """
    by_key: dict[str, TrialRecord] = {}
    for record in records:
        if record.trial.key in by_key:
            raise ValueError(f"two records of one trial: {record.trial.name}, key {record.trial.key}")
        by_key[record.trial.key] = record
    rows = [
        _row(by_key.get(trial.key, TrialRecord(trial)), study.threshold(trial))
        | {"default_alpha0": study.default_alpha0(trial)}
        for trial in study.reported(state)
    ]
    columns = (
        *("key", "workload", "optimizer", "op", "lop", "alpha0", "beta", "seed", "epochs", "batch_size"),
        *("drop_last", "precision", "weight_decay", "rule", "granularity", "workload_args", "optimizer_args"),
        *("threshold", "budget", "outcome", "default_alpha0"),
        *SUMMARIES,
    )
    table = pd.DataFrame(rows, columns=list(columns))
    for name in ("alpha0", "default_alpha0", "beta", "threshold", "budget", "epochs", *SUMMARIES):
        table[name] = table[name].astype(float)
    # A trial that diverged in its first epoch does not know how long an epoch is; its siblings do.
    alike = ["workload", "workload_args", "batch_size", "drop_last", "precision", "epochs"]
    siblings = table.groupby(alike, sort=False)["budget"]
    table["budget"] = siblings.transform("max").fillna(table["budget"])
    return table


def summary_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ``CELL``: medians, intervals and ranges over the seeds of the trials that ended.

    ``seeds`` counts those, ``pruned`` the ones that a search stopped early, ``missing`` all others.

    ``iterations_median``, ``iterations_min`` and ``iterations_max`` are NaN where they fall among trials
    that did not reach the threshold; ``iterations_text`` is for people, ``"> 9380"``. ``iterations_low``
    and ``iterations_high`` are the distribution-free interval of the median, and ``coverage`` the probability
    that it has (see ``stats.median_interval``; 0.969 for six seeds); +inf is a trial that did
    not reach the threshold. ``hit_rate`` is the share that did, and ``mean_iterations`` the mean of
    min(N, budget): the one number that ranks cells some of which are censored, a restricted mean (Royston &
    Parmar 2013), and no estimate of the mean N. The same of the smoothed measure under
    ``smoothed_iterations_…``, ``smoothed_hit_rate`` and ``smoothed_mean_iterations``.

    ``seconds_to_threshold`` is a median like ``iterations_median``. Other measures come as ``name``, the
    median, with ``name_min`` and ``name_max``, over the trials that have them.

    Args:
        trials: From ``trial_table``, rows in any order.
    """
    rows = []
    for settings, cell in cells(trials, CELL):
        done = ended(cell)
        pruned = int((cell["outcome"] == "pruned").sum())
        threshold, budget = cell["threshold"].iloc[0], settings["budget"]
        row: dict[str, Any] = {
            **settings,
            "threshold": threshold,
            "seeds": len(done),
            "missing": len(cell) - len(done) - pruned,
            "pruned": pruned,
            "diverged": int((done["outcome"] == "diverged").sum()),
            "reached": int(done["iterations_to_threshold"].notna().sum()),
        }
        row |= _censored(done["iterations_to_threshold"], budget, threshold)
        smooth = _censored(done["smoothed_iterations_to_threshold"], budget, threshold)
        row |= {f"smoothed_{name}": value for name, value in smooth.items() if name != "coverage"}
        for name in (
            "final_train_loss",
            "best_val_loss",
            "best_val_accuracy",
            "alpha_final",
            "alpha_min",
            "alpha_max",
        ):
            values = done[name].dropna()
            row |= {name: values.median(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        seconds = done["seconds_to_threshold"].fillna(math.inf).median()
        row["seconds_to_threshold"] = seconds if math.isfinite(seconds) else math.nan
        row["seconds"] = done["seconds"].median()
        rows.append(row)
    return pd.DataFrame(rows)


def _row(record: TrialRecord, threshold: float | None) -> dict[str, Any]:
    trial = record.trial
    return {
        **trial.settings(),
        "optimizer": trial.label,
        "key": trial.key,
        "op": trial.op,
        "lop": trial.lop,
        "drop_last": trial.drop_last,
        "precision": trial.precision,
        "rule": trial.rule,
        "workload_args": _options(trial, "workload_args"),
        "optimizer_args": _options(trial, "optimizer_args"),
        "threshold": threshold,
        "budget": record.budget,
        "outcome": outcome(record, threshold),
        "iterations": None,  # the setting of that name is the budget
        **summarise(record, threshold),
    }


def _options(trial: Trial, name: str) -> str:
    options = sorted(trial.settings()[name].items())
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options)


def _censored(iterations: pd.Series[float], budget: float, threshold: float) -> dict[str, Any]:
    """Return a cell's columns of N; trials that did not reach the threshold count as above all others."""
    if math.isnan(threshold) or not len(iterations):
        names = ("iterations_median", "iterations_min", "iterations_max", "iterations_low", "iterations_high")
        nothing = dict.fromkeys((*names, "coverage", "hit_rate", "mean_iterations"), math.nan)
        return {**nothing, "iterations_text": ""}
    ordered = np.sort(iterations.fillna(math.inf).to_numpy(dtype=float))
    median, lowest, highest = float(np.median(ordered)), ordered[0], ordered[-1]
    interval = median_interval(ordered)

    text = format_iterations(median, budget)
    if len(ordered) > 1 and lowest < highest:
        text += f" ({format_iterations(lowest, budget)} – {format_iterations(highest, budget)})"
    return {
        "iterations_median": median if math.isfinite(median) else math.nan,
        "iterations_min": lowest if math.isfinite(lowest) else math.nan,
        "iterations_max": highest if math.isfinite(highest) else math.nan,
        "iterations_low": interval.low,
        "iterations_high": interval.high,
        "coverage": interval.coverage,
        "hit_rate": float(np.isfinite(ordered).mean()),
        "mean_iterations": float(np.minimum(ordered, budget).mean()),
        "iterations_text": text,
    }
