"""Formats numbers, counts and names as reports and tables show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from study.config.optimizer_name import ADDITIVE, OPS, OptimizerName


def format_number(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits or more, and a true minus; ``–`` if not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1000:  # 9.9999e-5 is 0.000100, and nobody rounds 1234 to 1230
        value = float(f"{value:.{digits - 1}e}")
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}".replace("-", "−")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def format_setting(value: float) -> str:
    """Return a setting as people write it, ``0.001``; ``–`` for NaN."""
    return "–" if math.isnan(value) else f"{value:g}".replace("-", "−")


def format_count(value: float) -> str:
    """Return a count as text; ``–`` for NaN."""
    return "–" if math.isnan(value) else f"{value:.0f}"


def format_percent(share: float) -> str:
    """Return a share, 0 to 1, as a percentage; ``–`` for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.3g} %"


def format_iterations(value: float, budget: float) -> str:
    """Return iterations to a threshold; ∞, which the budget did not reach, is ``> 9380``."""
    if math.isinf(value):
        return "not reached" if math.isnan(budget) else f"> {budget:.0f}"
    return "–" if math.isnan(value) else f"{value:.10g}"


def format_median_iterations(row: Mapping[Any, Any], name: str = "iterations") -> str:
    """Return the median of iterations to the threshold of a summary's row, ``> 9380`` if not reached.

    Args:
        row: A row of ``tables.summary_table``.
        name: ``iterations``, or ``smoothed_iterations``.
    """
    if math.isnan(row["threshold"]) or not row["seeds"]:
        return "–"
    median = row[f"{name}_median"]
    return format_iterations(math.inf if math.isnan(median) else median, row["budget"])


def format_range(low: str, high: str) -> str:
    """Return a range, ``3 – 9``; empty if the ends are equal or one is unknown."""
    return "" if low == high or "–" in (low, high) else f"{low} – {high}"


def pluralize(count: int, noun: str) -> str:
    """Return ``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join_names(names: Sequence[str], most: int = 20) -> str:
    """Return the first ``most`` names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def method_label(row: Mapping[Any, Any], *, with_beta: bool = False, in_prose: bool = False) -> str:
    """Return the optimizer with its other settings: ``adam-adam β 1e-07, released``.

    Args:
        row: A row with the columns ``pairing.METHOD``.
        with_beta: Whether to name β.
        in_prose: Whether to write the optimizer by its ``paper_name``, ``Adam–Adam``.
    """
    beta = f" β {row['beta']:g}" if with_beta and not math.isnan(row["beta"]) else ""
    granularity = row["granularity"] if row["granularity"] != "group" else ""
    name = paper_name(row["optimizer"]) if in_prose else row["optimizer"]
    return ", ".join(filter(None, (f"{name}{beta}", granularity, row["optimizer_args"])))


_PAPER_NAMES = {
    **{"sgd": "SGD", "sgdn": "SGDN", "adam": "Adam", "adamw": "AdamW", "muon": "Muon"},
    **{"adagrad": "AdaGrad", "lion": "Lion"},
}


def paper_name(optimizer: str) -> str:
    """Return an optimizer's name as papers write it; a name that is not ours is unchanged.

    ::

        >>> [paper_name(name) for name in ("sgd-sgd", "adam-adam", "adamw-sgdn cosine", "torch.optim.NAdam")]
        ['SGD-HD', 'Adam–Adam', 'AdamW–SGDN cosine', 'torch.optim.NAdam']

    HD is hypergradient descent, lop SGD (Baydin et al. 2018, https://arxiv.org/abs/1703.04782). Other lops
    follow a dash, as in Mittal 2019.
    """
    name = OptimizerName.parse(optimizer)
    if name.op not in OPS:
        first, _, schedule = optimizer.partition(" ")  # "adam cosine" is Adam along a schedule
        return f"{_PAPER_NAMES[first]} {schedule}" if first in OPS else optimizer
    called = _PAPER_NAMES[name.op]
    if name.lop is not None:
        called += "-HD" if name.lop == "sgd" else f"–{_PAPER_NAMES.get(name.lop, name.lop)}"
    rule = name.rule if name.rule != ADDITIVE else ""
    return " ".join(filter(None, (called, rule, name.variant)))


def workload_label(row: Mapping[Any, Any]) -> str:
    """Return a row's workload with its arguments, ``digits-mlp (width=64)``."""
    return f"{row['workload']} ({row['workload_args']})" if row["workload_args"] else str(row["workload"])
