"""Tables of a study: one row per trial, medians over seeds, comparisons in pairs.

A threshold that was not reached within the budget is NaN in a table and ``"> budget"`` in a table's text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from study.analysis.metrics import SUMMARIES, outcome, summarise
from study.analysis.pairing import BASELINES, CELL, METHOD, SETUP, cells, ended, method_pairs
from study.analysis.stats import median_interval
from study.config.loader import Study, Trial
from study.config.search_space import NOTHING_FOUND, SearchState
from study.storage.records import TrialRecord

__all__ = [
    "BASELINES",
    "CELL",
    "COMPARED",
    "METHOD",
    "SETUP",
    "comparisons",
    "ended",
    "summary_table",
    "trial_table",
    "workload_label",
]

COMPARED = (
    ("iterations_to_threshold", "threshold reached", "sooner", "later"),
    ("final_train_loss", "final training loss", "lower", "higher"),
    ("best_val_loss", "best validation loss", "lower", "higher"),
)
"""What :func:`comparisons` compares, and its words; smaller is better."""


def workload_label(trial: Trial) -> str:
    """Return the workload and its arguments, ``digits-mlp (width=64)``."""
    options = _options(trial, "workload_args")
    return f"{trial.workload} ({options})" if options else trial.workload


def trial_table(
    records: Sequence[TrialRecord], study: Study, state: SearchState = NOTHING_FOUND
) -> pd.DataFrame:
    """Return one row per reported trial of the study, in its order: settings, outcome and summaries.

    A trial without a record is ``pending``; records of other trials are ignored. ``budget`` is in
    iterations, NaN as long as no trial of the same workload, batch size and epochs has told it.
    ``workload_args`` and ``optimizer_args`` are text, ``"width=64, bias=true"``, empty if there are none.
    ``gradient_evaluations_to_threshold`` equals ``iterations_to_threshold`` for every optimizer there is:
    each takes one gradient per iteration, and the hypergradient is a dot product with it.

    Args:
        records: of the study's trials, in any order.
        study: what was to be run.
        state: what the study's search has found; a grid needs none.

    Raises:
        ValueError: two records of one trial.
    """
    by_key: dict[str, TrialRecord] = {}
    for record in records:
        if record.trial.key in by_key:
            raise ValueError(f"two records of one trial: {record.trial.name}, key {record.trial.key}")
        by_key[record.trial.key] = record
    rows = [
        _row(by_key.get(trial.key, TrialRecord(trial)), study.threshold(trial))
        for trial in study.reported(state)
    ]
    measured = (*SUMMARIES, "gradient_evaluations_to_threshold")
    columns = (
        *("key", "workload", "optimizer", "op", "lop", "alpha0", "beta", "seed", "epochs", "batch_size"),
        *("weight_decay", "granularity", "workload_args", "optimizer_args", "threshold", "budget", "outcome"),
        *measured,
    )
    table = pd.DataFrame(rows, columns=list(columns))
    for name in ("alpha0", "beta", "threshold", "budget", "epochs", *measured):
        table[name] = table[name].astype(float)
    # A trial that diverged in its first epoch does not know how long an epoch is; its siblings do.
    siblings = table.groupby(["workload", "workload_args", "batch_size", "epochs"], sort=False)["budget"]
    table["budget"] = siblings.transform("max").fillna(table["budget"])
    return table


def summary_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row per :data:`CELL`: medians, intervals and ranges over the seeds of the trials that ended.

    ``seeds`` counts those, ``pruned`` the ones that a search stopped early, ``missing`` all others.

    ``iterations_median``, ``iterations_min`` and ``iterations_max`` are NaN where they fall among trials
    that did not reach the threshold; ``iterations_text`` says it in words, ``"> 9380"``. ``iterations_low``
    and ``iterations_high`` are the distribution-free interval of the median, and ``coverage`` the probability
    that it has (see :func:`.stats.median_interval`; 0.969 for six seeds); +inf is a trial that did
    not reach the threshold. ``hit_rate`` is the share that did, and ``mean_iterations`` the mean of
    min(N, budget): the one number that ranks cells some of which are censored, a restricted mean (Royston &
    Parmar 2013), and no estimate of the mean N. The same of the smoothed measure under
    ``smoothed_iterations_…``, ``smoothed_hit_rate`` and ``smoothed_mean_iterations``.

    ``seconds_to_threshold`` is a median like ``iterations_median``. Other measures come as ``name``, the
    median, with ``name_min`` and ``name_max``, over the trials that have them.

    Args:
        trials: from :func:`trial_table`, rows in any order.
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


def comparisons(trials: pd.DataFrame, against: Mapping[str, str] = BASELINES) -> pd.DataFrame:
    """Return how optimizers fare against their baselines, trial by trial on the same seed and α₀.

    A pair is two trials that ended and differ in their method alone; :func:`.pairing.method_pairs` says
    which methods meet. Of a pair, the one that reached the threshold is better than the one that did not, and
    the one that ended better than the one that diverged.

    This describes; pairs of one seed at several α₀ are not independent, so it counts them and tests nothing.
    For what may be concluded see :func:`study.analysis.claims.claims`.

    Args:
        trials: from :func:`trial_table`, rows in any order.
        against: optimizer → baseline.

    Returns:
        One row per workload, method and baseline method, with ``pairs``; for ``iterations_to_threshold``,
        ``final_train_loss`` and ``best_val_loss`` the number of pairs ``…_better``, ``…_worse`` and
        ``…_equal``; the median ``…_ratio`` to the baseline over the pairs in which both are known; and a
        ``verdict`` in words. No rows if there are no pairs.
    """
    rows = []
    for pair in method_pairs(ended(trials), against):
        pairs = pair.new.merge(pair.base, on=["alpha0", "seed"], suffixes=("", "_base"))
        if len(pairs):
            rows.append({**pair.identity, **_compare(pairs)})
    return pd.DataFrame(rows)


def _row(record: TrialRecord, threshold: float | None) -> dict[str, Any]:
    trial = record.trial
    return {
        **trial.settings(),
        "optimizer": trial.label,
        "key": trial.key,
        "op": trial.op,
        "lop": trial.lop,
        "workload_args": _options(trial, "workload_args"),
        "optimizer_args": _options(trial, "optimizer_args"),
        "threshold": threshold,
        "budget": record.budget,
        "outcome": outcome(record, threshold),
        "iterations": None,  # the setting of that name is the budget
        **(summary := summarise(record, threshold)),
        "gradient_evaluations_to_threshold": summary.get("iterations_to_threshold"),
    }


def _options(trial: Trial, name: str) -> str:
    options = sorted(trial.settings()[name].items())
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options)


def _censored(iterations: pd.Series[float], budget: float, threshold: float) -> dict[str, Any]:
    """What a cell's row says of N, with trials that did not reach the threshold above all others."""
    if math.isnan(threshold) or not len(iterations):
        names = ("iterations_median", "iterations_min", "iterations_max", "iterations_low", "iterations_high")
        nothing = dict.fromkeys((*names, "coverage", "hit_rate", "mean_iterations"), math.nan)
        return {**nothing, "iterations_text": ""}
    ordered = np.sort(iterations.fillna(math.inf).to_numpy(dtype=float))
    median, lowest, highest = float(np.median(ordered)), ordered[0], ordered[-1]
    interval = median_interval(ordered)

    def say(value: float) -> str:
        if math.isfinite(value):
            return f"{value:.10g}"
        return "not reached" if math.isnan(budget) else f"> {budget:.0f}"

    text = say(median)
    if len(ordered) > 1 and lowest < highest:
        text += f" ({say(lowest)} – {say(highest)})"
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


def _compare(pairs: pd.DataFrame) -> dict[str, Any]:
    row: dict[str, Any] = {
        "pairs": len(pairs),
        "diverged": int((pairs["outcome"] == "diverged").sum()),
        "baseline_diverged": int((pairs["outcome_base"] == "diverged").sum()),
    }
    verdicts = []
    for name, what, good, bad in COMPARED:
        new, base = pairs[name], pairs[f"{name}_base"]
        better, worse = (int(sign.sum()) for sign in (_less(new, base), _less(base, new)))
        equal = len(pairs) - better - worse
        ratios = (new / base)[base > 0].dropna()
        ratio = float(ratios.median()) if len(ratios) else math.nan
        if name == "iterations_to_threshold" and not (pairs["threshold"] == pairs["threshold_base"]).all():
            better, worse, equal, ratio = 0, 0, 0, math.nan  # no threshold, or not the same one
        else:
            neither = int((new.isna() & base.isna()).sum())
            verdicts.append(_verdict(what, good, bad, (better, worse, equal, neither), ratio))
        row |= {f"{name}_better": better, f"{name}_worse": worse, f"{name}_equal": equal}
        row[f"{name}_ratio"] = ratio
    if row["diverged"] or row["baseline_diverged"]:
        counts = f"diverged in {row['diverged']}, the baseline in {row['baseline_diverged']}"
        verdicts.append(f"{counts} of {_pairs(len(pairs))}")
    return {**row, "verdict": "; ".join(verdicts)}


def _less(a: pd.Series[float], b: pd.Series[float]) -> pd.Series[bool]:
    """Where ``a`` is better: smaller, or known where ``b`` is not."""
    return a.fillna(math.inf) < b.fillna(math.inf)


def _verdict(what: str, good: str, bad: str, counts: tuple[int, int, int, int], ratio: float) -> str:
    """In plain words: ``final training loss lower in 3 of 3 pairs (median −12 %)``."""
    better, worse, equal, neither = counts
    total = better + worse + equal
    if neither == total:
        return f"{what} in none of {_pairs(total)}" if good == "sooner" else f"{what} unknown"
    if equal == total:
        return f"{what} equally {'soon' if good == 'sooner' else 'low'} in {total} of {_pairs(total)}"
    word, count = (good, better) if better >= worse else (bad, worse)
    ties = f", equal in {equal}" if equal else ""
    change = "" if math.isnan(ratio) else f" (median {_percent(ratio)})"
    return f"{what} {word} in {count} of {_pairs(total)}{ties}{change}"


def _pairs(count: int) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"


def _percent(ratio: float) -> str:
    change = round(100 * (ratio - 1), 1)
    text = f"{change:+.{0 if abs(change) >= 10 else 1}f}"
    return f"{text.replace('-', '−')} %" if float(text) else "±0 %"
