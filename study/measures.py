"""What the curves of a study say in numbers: summaries, tables over seeds, comparisons in pairs.

Works on stored records, so that a study is scored again without being run again. A threshold that was not
reached within the budget is censored, never a number: it is absent from a summary, NaN in a table, and
``"> budget"`` in a table's text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.records import Array, TrialRecord
from study.spec import LOPS, OPS, Study, Trial

Outcome = Literal["reached", "not_reached", "diverged", "completed", "failed", "running", "pending", "pruned"]

MEASURED: tuple[Outcome, ...] = ("reached", "not_reached", "diverged", "completed")
"""Outcomes of trials that ended; only these enter tables over seeds and comparisons."""

BASELINES: dict[str, str] = {
    f"{op}-{lop}": op if lop == "sgd" else f"{op}-sgd" for op in OPS for lop in LOPS
}  # sgd-sgd: sgd, sgd-sgdn: sgd-sgd, …
"""What each optimizer is compared with: hypergradient descent (lop SGD) with the plain optimizer, and the
other learned ones with hypergradient descent."""

CURVE_POINTS = 320
"""Points that the MLflow UI draws of a curve."""

SETUP = ("workload", "workload_args", "batch_size", "weight_decay", "epochs", "budget")
"""Settings that paired trials have in common, besides α₀ and the seed."""
METHOD = ("optimizer", "beta", "granularity", "optimizer_args")
"""Settings of the method itself."""
CELL = (*SETUP, *METHOD, "alpha0")
"""Everything but the seed: rows of a summary table."""

COMPARED = (
    ("iterations_to_threshold", "threshold reached", "sooner", "later"),
    ("final_train_loss", "final training loss", "lower", "higher"),
    ("best_val_loss", "best validation loss", "lower", "higher"),
)
"""What :func:`comparisons` compares, and its words; smaller is better."""

SUMMARIES = (
    "iterations_to_threshold",
    "best_val_loss",
    "best_val_accuracy",
    "final_train_loss",
    "final_val_loss",
    "alpha_min",
    "alpha_max",
    "alpha_final",
    "seconds",
    "iterations",
)
"""What :func:`summarise` returns, as far as it exists."""


def iterations_to_threshold(train_loss: Array, threshold: float) -> int | None:
    """Return the first iteration, from 1, whose minibatch training loss is ≤ ``threshold``.

    Args:
        train_loss: loss of every iteration, shape (iterations,). Non-finite losses reach nothing.
        threshold: compared in float64, as the report's code does.

    Returns:
        The iteration, or None: not reached so far.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    hits = np.flatnonzero(np.isfinite(loss) & (loss <= threshold))
    return int(hits[0]) + 1 if hits.size else None


def outcome(record: TrialRecord, threshold: float | None) -> Outcome:
    """Return how the trial stands; a trial that reached the threshold and then diverged has diverged."""
    if record.status != "finished":
        return record.status
    if threshold is None:
        return "completed"
    return "not_reached" if iterations_to_threshold(record.train_loss, threshold) is None else "reached"


def summarise(record: TrialRecord, threshold: float | None) -> dict[str, float]:
    """Return a trial's :data:`SUMMARIES`; what does not exist is absent, so every value is finite.

    ``final_train_loss`` is the mean over the last epoch's iterations, ``final_val_loss`` what was measured
    after it. A diverged trial has neither, but keeps its best values and its iterations to the threshold. A
    pruned one has no iterations to the threshold: those pruned before it are missing, and not by chance.
    """
    if not record.epochs:
        return {}
    summary: dict[str, float | None] = {
        "best_val_loss": min(_finite(epoch.val_loss for epoch in record.epochs), default=None),
        "best_val_accuracy": max(_finite(epoch.val_accuracy for epoch in record.epochs), default=None),
        "seconds": record.seconds,
        "iterations": record.iterations,
    }
    if threshold is not None and record.status != "pruned":
        summary["iterations_to_threshold"] = iterations_to_threshold(record.train_loss, threshold)
    if record.status != "diverged":
        last = record.epochs[-1]
        summary |= {"final_train_loss": last.train_loss_epoch, "final_val_loss": last.val_loss}
    alpha = record.alpha[np.isfinite(record.alpha)]
    if alpha.size:
        summary |= {
            "alpha_min": float(alpha.min()),
            "alpha_max": float(alpha.max()),
            "alpha_final": float(alpha[-1]),
        }
    return {
        name: value for name in SUMMARIES if (value := summary.get(name)) is not None and math.isfinite(value)
    }


def thin_indices(values: Array, total: int, closed: bool, points: int = CURVE_POINTS) -> NDArray[np.intp]:
    """Return which iterations of a curve to keep, so that its picture stays the same.

    The curve is cut into buckets whose width depends on ``total`` alone. Kept are each bucket's smallest
    and largest value and the curve's first and last, never one that is not finite. While the curve grows,
    only whole buckets are answered for; so the answer for a longer curve starts with every earlier answer.

    Args:
        values: the curve so far, shape (n,), n ≤ total.
        total: iterations that the curve may come to have.
        closed: the curve ends here: answer for its last, partial bucket too.
        points: about as many are kept; at most ``points + 2``.

    Returns:
        Indices into ``values``, from 0, ascending.

    Raises:
        ValueError: more values than ``total``, or fewer than two points asked for.
    """
    if points < 2:
        raise ValueError(f"points must be 2 or more; got {points}")
    if len(values) > total:
        raise ValueError(f"a curve of at most total={total} values was promised; got {len(values)}")
    if not len(values):
        return np.empty(0, dtype=np.intp)
    width = -(-total // (points // 2))
    count = -(-len(values) // width) if closed else len(values) // width
    padded = np.full(count * width, np.nan)
    known = min(len(values), count * width)
    padded[:known] = values[:known]
    buckets = padded.reshape(count, width)
    finite = np.isfinite(buckets)
    starts = np.flatnonzero(finite.any(axis=1)) * width
    kept = finite.any(axis=1)
    lowest = np.where(finite, buckets, np.inf).argmin(axis=1)[kept]
    highest = np.where(finite, buckets, -np.inf).argmax(axis=1)[kept]
    ends = np.flatnonzero(finite)[[0, -1] if closed else [0]] if kept.any() else np.empty(0, dtype=np.intp)
    return np.unique(np.concatenate([ends, starts + lowest, starts + highest]))


def workload_label(trial: Trial) -> str:
    """Return the workload and its arguments, ``digits-mlp (width=64)``."""
    options = _options(trial, "workload_args")
    return f"{trial.workload} ({options})" if options else trial.workload


def trial_table(records: Sequence[TrialRecord], study: Study) -> pd.DataFrame:
    """Return one row per reported trial of the study, in its order: settings, outcome and summaries.

    A trial without a record is ``pending``; records of other trials are ignored. ``budget`` is in
    iterations, NaN as long as no trial of the same workload, batch size and epochs has told it.
    ``workload_args`` and ``optimizer_args`` are text, ``"width=64, bias=true"``, empty if there are none.

    Raises:
        ValueError: two records of one trial.
    """
    by_key: dict[str, TrialRecord] = {}
    for record in records:
        if record.trial.key in by_key:
            raise ValueError(f"two records of one trial: {record.trial.name}, key {record.trial.key}")
        by_key[record.trial.key] = record
    rows = [
        _row(by_key.get(trial.key, TrialRecord(trial)), study.threshold(trial)) for trial in study.reported()
    ]
    columns = (
        *("key", "workload", "optimizer", "op", "lop", "alpha0", "beta", "seed", "epochs", "batch_size"),
        *("weight_decay", "granularity", "workload_args", "optimizer_args", "threshold", "budget", "outcome"),
        *SUMMARIES,
    )
    table = pd.DataFrame(rows, columns=list(columns))
    for name in ("alpha0", "beta", "threshold", "budget", "epochs", *SUMMARIES):
        table[name] = table[name].astype(float)
    # A trial that diverged in its first epoch does not know how long an epoch is; its siblings do.
    siblings = table.groupby(["workload", "workload_args", "batch_size", "epochs"], sort=False)["budget"]
    table["budget"] = siblings.transform("max").fillna(table["budget"])
    return table


def summary_table(trials: pd.DataFrame) -> pd.DataFrame:
    """Return one row per :data:`CELL`: medians and ranges over the seeds of the trials that ended.

    ``iterations_median``, ``iterations_min`` and ``iterations_max`` are NaN where they fall among trials
    that did not reach the threshold; ``iterations_text`` says it in words, ``"> 9380"``. Other measures
    come as ``name``, the median, with ``name_min`` and ``name_max``, over the trials that have them.

    Args:
        trials: from :func:`trial_table`, rows in any order.
    """
    rows = []
    for settings, cell in _cells(trials, CELL):
        ended = cell[cell["outcome"].isin(MEASURED)]
        row: dict[str, Any] = {
            **settings,
            "threshold": cell["threshold"].iloc[0],
            "seeds": len(ended),
            "missing": len(cell) - len(ended),
            "diverged": int((ended["outcome"] == "diverged").sum()),
            "reached": int(ended["iterations_to_threshold"].notna().sum()),
        }
        row |= _censored(ended["iterations_to_threshold"], settings["budget"], cell["threshold"].iloc[0])
        for name in (
            "final_train_loss",
            "best_val_loss",
            "best_val_accuracy",
            "alpha_final",
            "alpha_min",
            "alpha_max",
        ):
            values = ended[name].dropna()
            row |= {name: values.median(), f"{name}_min": values.min(), f"{name}_max": values.max()}
        row["seconds"] = ended["seconds"].median()
        rows.append(row)
    return pd.DataFrame(rows)


def comparisons(trials: pd.DataFrame, against: Mapping[str, str] = BASELINES) -> pd.DataFrame:
    """Return how optimizers fare against their baselines, trial by trial on the same seed and α₀.

    A pair is two trials that ended and differ in their method alone. Where both optimizers have β, and any
    values of it in common, only equal ones are paired; if they have none, every combination is a row. The
    same goes for granularity and further options, method by method. Of a pair, the one that reached the
    threshold is better than the one that did not, and the one that ended better than the one that diverged.

    Args:
        trials: from :func:`trial_table`, rows in any order.
        against: optimizer → baseline.

    Returns:
        One row per workload, method and baseline method, with ``pairs``; for ``iterations_to_threshold``,
        ``final_train_loss`` and ``best_val_loss`` the number of pairs ``…_better``, ``…_worse`` and
        ``…_equal``; the median ``…_ratio`` to the baseline over the pairs in which both are known; and a
        ``verdict`` in words. No rows if there are no pairs.
    """
    ended = trials[trials["outcome"].isin(MEASURED)].sort_index()
    rows = []
    for setup, group in _cells(ended, SETUP):
        for optimizer, baseline in against.items():
            new, base = group[group["optimizer"] == optimizer], group[group["optimizer"] == baseline]
            alike = set(new["beta"].dropna()) & set(base["beta"].dropna())
            bases = list(_cells(base, METHOD))
            for method, these in _cells(new, METHOD):
                for base_method, those in _fitting(method, bases, bool(alike)):
                    pairs = these.merge(those, on=["alpha0", "seed"], suffixes=("", "_base"))
                    if len(pairs):
                        identity = {f"baseline_{name}": base_method[name] for name in METHOD[1:]}
                        rows.append({**setup, **method, "baseline": baseline, **identity, **_compare(pairs)})
    return pd.DataFrame(rows)


def _finite(values: Iterator[float]) -> Iterator[float]:
    return (float(value) for value in values if math.isfinite(value))


def _row(record: TrialRecord, threshold: float | None) -> dict[str, Any]:
    trial = record.trial
    return {
        **trial.settings(),
        "key": trial.key,
        "op": trial.op,
        "lop": trial.lop,
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


def _cells(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield groups of rows equal in ``by``, in the study's order, whatever the order of the rows."""
    if len(trials):
        for values, cell in trials.sort_index().groupby(list(by), sort=False, dropna=False):
            yield dict(zip(by, values, strict=True)), cell


_Cells = list[tuple[dict[str, Any], pd.DataFrame]]


def _fitting(method: Mapping[str, Any], bases: _Cells, on_beta: bool) -> _Cells:
    """The baseline's cells to pair a method with."""
    if on_beta:
        bases = [cell for cell in bases if cell[0]["beta"] == method["beta"]]
    for name in ("granularity", "optimizer_args"):
        bases = [cell for cell in bases if cell[0][name] == method[name]] or bases
    return bases


def _censored(iterations: pd.Series[float], budget: float, threshold: float) -> dict[str, Any]:
    """Median and range of the iterations, with trials that did not reach the threshold above all others."""
    if math.isnan(threshold) or not len(iterations):
        nothing = {f"iterations_{name}": math.nan for name in ("median", "min", "max")}
        return {**nothing, "iterations_text": ""}
    ordered = np.sort(iterations.fillna(math.inf).to_numpy(dtype=float))
    median, lowest, highest = float(np.median(ordered)), ordered[0], ordered[-1]

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
