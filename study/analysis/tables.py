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
from numpy.typing import NDArray

from study.analysis import stored_trials
from study.analysis.formatting import format_iterations, workload_label
from study.analysis.metrics import MEASURED, SUMMARIES
from study.analysis.pairing import CELL, HITS, METHOD, SETUP, ended
from study.analysis.stats import median_interval
from study.config.loader import Study, Trial
from study.config.search_space import NOTHING_FOUND, SearchState
from study.storage.records import TrialRecord
from study.storage.stored_records import trials_of

__all__ = [
    "CELL",
    "METHOD",
    "SETUP",
    "ended",
    "summary_table",
    "trial_table",
    "trial_workload_label",
]


_SHARED = (
    *("workload", "op", "lop", "batch_size", "drop_last", "precision", "weight_decay", "rule"),
    "granularity",
)
"""Settings that trials of one kind share."""

COLUMNS = (
    *("key", "workload", "optimizer", "op", "lop", "alpha0", "beta", "seed", "epochs", "batch_size"),
    *("drop_last", "precision", "weight_decay", "rule", "granularity", "workload_args", "optimizer_args"),
    *("threshold", "budget", "outcome", "default_alpha0"),
    *SUMMARIES,
)
"""The columns of ``trial_table``."""


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
        records: Records of the study's trials, in any order.
        study: The study.
        state: The state of the study's search. Default: nothing found, as for a grid.

    Raises:
        ValueError: Two records belong to one trial.
    """
    trials = study.reported(state)
    places = _places(trials, records)
    columns = _settings(trials, study)
    for name, column in stored_trials.measured(records, study).items():
        nothing = "pending" if name == "outcome" else math.nan
        columns[name] = np.append(column, nothing)[places]  # −1 is a trial without a record
    for name in ("alpha0", "default_alpha0", "beta", "threshold", "epochs"):
        columns[name] = np.array(columns[name], dtype=np.float64)
    table = pd.DataFrame({name: columns[name] for name in COLUMNS})
    # A trial that diverged in its first epoch does not show how long an epoch is; its siblings do.
    alike = ["workload", "workload_args", "batch_size", "drop_last", "precision", "epochs"]
    siblings = table.groupby(alike, sort=False)["budget"]
    table["budget"] = siblings.transform("max").fillna(table["budget"])
    return table


def summary_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row per ``CELL``: medians, intervals and ranges over the seeds of the trials that ended.

    ``seeds`` counts those trials, ``pruned`` those that a search stopped early, ``missing`` all others.

    ``iterations_median``, ``iterations_min`` and ``iterations_max`` are NaN if they fall among trials that
    did not reach the threshold; ``iterations_text`` is for people, ``"> 9380"``. ``iterations_low`` and
    ``iterations_high`` are the distribution-free interval of the median, and ``coverage`` is its probability
    (see ``stats.median_interval``; 0.969 for six seeds); +inf is a trial that did not reach the threshold.
    ``hit_rate`` is the share that did, and ``mean_iterations`` the mean of min(N, budget): the one number
    that ranks cells of which some are censored, a restricted mean (Royston & Parmar 2013), and no estimate of
    the mean N. ``smoothed_iterations_…``, ``smoothed_hit_rate`` and ``smoothed_mean_iterations`` are the same
    for the smoothed measure.

    ``seconds_to_threshold`` is a median like ``iterations_median``. Every other measure has three columns:
    ``name``, the median, with ``name_min`` and ``name_max``, over the trials that have it.

    Args:
        trials: From ``trial_table``, rows in any order.
    """
    if not len(trials):
        return pd.DataFrame()
    trials = trials.sort_index()
    kinds = trials["outcome"].to_numpy()
    is_done, is_pruned, is_diverged = np.isin(kinds, MEASURED), kinds == "pruned", kinds == "diverged"
    values = _censored_columns(trials)
    cell_of = trials.groupby(list(CELL), sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(cell_of, kind="stable")
    starts = np.flatnonzero(np.diff(cell_of[order], prepend=-1))
    settings = trials[list(CELL)].iloc[order[starts]].to_dict("records")
    rows = []
    for setting, cell in zip(settings, np.split(order, starts[1:]), strict=True):
        done = cell[is_done[cell]]
        pruned = int(is_pruned[cell].sum())
        threshold, budget = float(values["threshold"][cell[0]]), float(setting["budget"])
        hits = values["iterations_to_threshold"][done]
        row: dict[str, Any] = {
            **{str(name): value for name, value in setting.items()},
            "threshold": threshold,
            "seeds": len(done),
            "missing": len(cell) - len(done) - pruned,
            "pruned": pruned,
            "diverged": int(is_diverged[done].sum()),
            "reached": int((~np.isnan(hits)).sum()),
        }
        row |= _censored(hits, budget, threshold)
        smooth = _censored(values["smoothed_iterations_to_threshold"][done], budget, threshold)
        row |= {f"smoothed_{name}": value for name, value in smooth.items() if name != "coverage"}
        for name in _MEDIANS:
            row |= dict(zip((name, f"{name}_min", f"{name}_max"), _spread(values[name][done]), strict=True))
        seconds = values["seconds_to_threshold"][done]
        middle = _spread(np.where(np.isnan(seconds), math.inf, seconds))[0]
        row["seconds_to_threshold"] = middle if math.isfinite(middle) else math.nan
        row["seconds"] = _spread(values["seconds"][done])[0]
        rows.append(row)
    return pd.DataFrame(rows)


_MEDIANS = (
    *("final_train_loss", "best_val_loss", "best_val_accuracy"),
    *("alpha_final", "alpha_min", "alpha_max"),
)


def _censored_columns(trials: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Return the columns of numbers, with hits after the budget left out as in ``pairing.ended``."""
    values = {name: trials[name].to_numpy(dtype=np.float64) for name in (*SUMMARIES, "threshold", "budget")}
    for hit, names in HITS.items():
        late = values[hit] > values["budget"]
        values |= {name: np.where(late, math.nan, values[name]) for name in names}
    return values


def _spread(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the median, the smallest and the largest of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    if not len(known):
        return math.nan, math.nan, math.nan
    return float(np.median(known)), float(known.min()), float(known.max())


def _places(trials: Sequence[Trial], records: Sequence[TrialRecord]) -> NDArray[np.int64]:
    """Return the place of each trial's record in ``records``; −1 if it has none."""
    places: dict[str, int] = {}
    for place, trial in enumerate(trials_of(records)):
        if places.setdefault(trial.key, place) != place:
            raise ValueError(f"two records of one trial: {trial.name}, key {trial.key}")
    return np.array([places.get(trial.key, -1) for trial in trials], dtype=np.int64)


def _settings(trials: Sequence[Trial], study: Study) -> dict[str, Any]:
    """Return the columns of settings, by name."""
    shared: dict[str, dict[str, Any]] = {}
    for trial in trials:
        if trial.kind not in shared:
            shared[trial.kind] = {name: getattr(trial, name) for name in _SHARED} | {
                name: _options(trial, name) for name in ("workload_args", "optimizer_args")
            }
    defaults = {trial.label: trial for trial in trials}
    alpha0s = {label: study.default_alpha0(trial) for label, trial in defaults.items()}
    columns: dict[str, Any] = {
        name: [shared[trial.kind][name] for trial in trials]
        for name in (*_SHARED, "workload_args", "optimizer_args")
    }
    columns |= {
        name: [getattr(trial, name) for trial in trials] for name in ("key", "alpha0", "beta", "seed")
    }
    columns["epochs"] = [trial.epochs for trial in trials]
    columns["optimizer"] = [trial.label for trial in trials]
    columns["default_alpha0"] = [alpha0s[trial.label] for trial in trials]
    columns["threshold"] = stored_trials.thresholds(study, trials)
    return columns


def _options(trial: Trial, name: str) -> str:
    options = sorted(getattr(trial, name).items())
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options)


def _censored(iterations: NDArray[np.float64], budget: float, threshold: float) -> dict[str, Any]:
    """Return a cell's columns of N; trials that did not reach the threshold count as above all others."""
    if math.isnan(threshold) or not len(iterations):
        names = ("iterations_median", "iterations_min", "iterations_max", "iterations_low", "iterations_high")
        nothing = dict.fromkeys((*names, "coverage", "hit_rate", "mean_iterations"), math.nan)
        return {**nothing, "iterations_text": ""}
    ordered = np.sort(np.where(np.isnan(iterations), math.inf, iterations))
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
