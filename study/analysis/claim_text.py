"""What a row of claims says in plain sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from study.analysis.formatting import number, several
from study.analysis.stats import LEVEL

_DIRECTIONS = {
    "iterations_to_threshold": ("sooner", "later"),
    "best_val_loss": ("lower", "higher"),
    "decades": ("wider", "narrower"),
}


def text(row: Mapping[str, Any], margin: float | None) -> str:
    """Return one sentence with the numbers of a claim's row; where it is undecided, why.

    Args:
        row: of ``claims.claims``, all but ``text`` and ``notes``.
        margin: the ratio up to which a difference does not matter, if there is one.
    """
    if row["reason"]:
        return f"Not judged: {row['reason']}."
    if not row["seeds"]:
        return f"No seed has ended with both {row['optimizer']} and {row['baseline']} at every α₀ yet."
    p = f"sign test p = {number(row['p'], 2)}"
    if (count := row["comparisons"]) > 1:
        p += f", {number(row['p_adjusted'], 2)} corrected for {count} comparisons"
    sentence = f"{_difference(row)}, {_counts(row)}; {p}"
    if row["verdict"] == "supported" and margin is not None and row["ratio_low"] > 1 / margin:
        sentence += f"; the difference is within the {_percent(margin)} taken as none that matters"
    if row["verdict"] == "supported":
        sentence += "".join(f"; {exception}" for exception in _exceptions(row))
    elif row["verdict"] == "not supported":
        if row["p_worse_adjusted"] < LEVEL:
            sentence += f"; the other way p = {number(row['p_worse_adjusted'], 2)}, corrected"
        else:
            sentence += (
                f"; equal within {_percent(margin or math.nan)}, p = {number(row['p_same_adjusted'], 2)}, "
                "corrected"
            )
    elif row["verdict"] == "undecided":
        sentence += f"; {_why(row)}"
    return sentence + "."


def notes(row: Mapping[str, Any]) -> str:
    """Return what else a reader should know of the row, in sentences; often empty."""
    said = []
    if row["smoothed_ratio"] == row["smoothed_ratio"]:
        said.append(f"On the smoothed loss: {_beside(row, 'smoothed')}.")
    if row["tuned_ratio"] == row["tuned_ratio"]:
        said.append(f"Each at its best α₀, chosen on the other seeds: {_beside(row, 'tuned')}.")
    if missed := _missed(row):
        said.append(missed)
    if row["incomplete"]:
        said.append(f"{several(row['incomplete'], 'seed')} left out, because trials are missing.")
    if row["pruned"]:
        said.append(f"{several(row['pruned'], 'trial')} pruned by a search, which counts as missing.")
    if row["diverged"] or row["baseline_diverged"]:
        said.append(
            f"Trials that diverged: {row['diverged']} of {row['optimizer']}, {row['baseline_diverged']} of "
            f"{row['baseline']}."
        )
    return " ".join(said)


def _difference(row: Mapping[str, Any]) -> str:
    new, base, low, high = row["optimizer"], row["baseline"], row["ratio_low"], row["ratio_high"]
    if row["measure"] == "decades":
        interval = "" if math.isnan(low) else f" (95 % interval {_decades(low)} to {_decades(high)})"
        return f"{new}'s range of α₀ differs from {base}'s by {_decades(row['ratio'])} decades{interval}"
    if math.isnan(row["ratio"]):
        return f"{new} against {base} has no ratio, as no pair has two values"
    ratio, interval = f"{number(row['ratio'])} ×", _interval(low, high)
    if row["measure"] == "best_val_loss":
        return f"{new} has {ratio} the best validation loss of {base}{interval}"
    return f"{new} reaches the threshold in {ratio} the iterations of {base}{interval}"


def _counts(row: Mapping[str, Any]) -> str:
    good, bad = _DIRECTIONS[row["measure"]]
    unclear = f", unclear in {row['unclear']}" if row["unclear"] else ""
    equal = f", equal in {row['equal']}" if row["equal"] else ""
    counts = f"{good} in {row['better']} and {bad} in {row['worse']}{equal}{unclear} of "
    over = f", each over {row['alpha0s']} α₀" if row["alpha0s"] > 1 else ""
    return f"{counts}{several(row['seeds'], 'seed')}{over}"


def _why(row: Mapping[str, Any]) -> str:
    informative = row["better"] + row["worse"] + row["unclear"]
    if not informative:
        return "no seed shows a difference"
    if informative < row["seeds_needed"]:
        have = several(informative, "seed") + (" with a difference" if row["equal"] else "")
        verb = "is" if informative == 1 else "are"
        return f"{have} {verb} too few: {row['seeds_needed']} or more are needed to stay below {LEVEL:g}"
    if min(row["p_adjusted"], row["p_worse_adjusted"]) >= LEVEL:
        return "the seeds do not agree enough"
    return "the interval includes no difference"


def _exceptions(row: Mapping[str, Any]) -> list[str]:
    """Where the numbers that stand beside a supported claim do not show it, or point the other way."""
    beside = {"smoothed": "on the smoothed loss", "tuned": "at each one's best α₀"}
    return [
        f"not {'so' if row[f'{name}_ratio'] > 1 else 'shown'} {where} ({number(row[f'{name}_ratio'])} ×)"
        for name, where in beside.items()
        if row[f"{name}_high"] >= 1
    ]


def _missed(row: Mapping[str, Any]) -> str:
    new, base, both = row["missed"], row["baseline_missed"], row["both_missed"]
    if not new + base + both:
        return ""
    counts = f"{row['optimizer']} alone in {new}, {row['baseline']} alone in {base}, both in {both} of "
    match row["measure"]:
        case "iterations_to_threshold":
            pairs = several(row["pairs"], "pair")
            return f"Threshold not reached, so that the budget stands for N: {counts}{pairs}."
        case "best_val_loss":
            pairs = several(row["pairs"], "pair")
            return f"Diverged before the first validation, which enters no ratio: {counts}{pairs}."
    return f"No α₀ reaches the threshold: {counts}{several(row['seeds'], 'seed')}."


def _beside(row: Mapping[str, Any], name: str) -> str:
    good, bad = _DIRECTIONS[row["measure"]]
    interval = _interval(row[f"{name}_low"], row[f"{name}_high"])
    counts = f"{good} in {row[f'{name}_better']:.0f}, {bad} in {row[f'{name}_worse']:.0f}"
    return f"{number(row[f'{name}_ratio'])} ×{interval}, {counts} of {several(row['seeds'], 'seed')}"


def _interval(low: float, high: float) -> str:
    if math.isnan(low):
        return ""
    return f" (95 % interval {number(low)} to {number(high)})"


def _decades(span: float) -> str:
    return f"{math.log10(span) + 0.0:+.2f}".replace("-", "−")


def _percent(margin: float) -> str:
    return f"{100 * (margin - 1):.2g} %"
