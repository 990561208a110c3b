"""What goes into which panel of a figure: one method per optimizer, one panel per workload and threshold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from study.analysis.formatting import label
from study.analysis.tables import METHOD, SETUP
from study.report.figures.style import FAMILIES, family

CROWDED = 4
"""More optimizers than this are spread over panels by their op."""

_SYMBOLS = {"beta": "β", "granularity": "granularity", "optimizer_args": "options"}


class Shown(NamedTuple):
    """The trials that a figure shows, and a line that says which of several β and options they have."""

    trials: pd.DataFrame
    note: str


def first_methods(trials: pd.DataFrame) -> Shown:
    """Return of each optimizer on each workload the trials with its first β, granularity and options.

    Args:
        trials: from ``tables.trial_table``; "first" is in the study's order, whatever that of the rows.
    """
    kept, chosen = [], {}
    for key, group in trials.sort_index().groupby([*SETUP, "optimizer"], sort=False, dropna=False):
        first = group.iloc[0]
        same = pd.Series(True, index=group.index)
        for name in METHOD[1:]:
            same &= group[name].eq(first[name]) | (group[name].isna() & pd.isna(first[name]))
            if group[name].nunique(dropna=False) > 1:
                chosen[name, str(key[-1])] = first[name]
        kept.append(group[same])
    parts = []
    for name, symbol in _SYMBOLS.items():
        values = {optimizer: value for (of, optimizer), value in chosen.items() if of == name}
        if values:
            said = (f"{o} {v:g}" if name == "beta" else f"{o} {v or 'default'}" for o, v in values.items())
            parts.append(f"{symbol}: {', '.join(said)}")
    return Shown(pd.concat(kept) if kept else trials, "; ".join(parts))


def workloads(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each workload's label and rows, in the study's order."""
    for _, group in trials.sort_index().groupby(["workload", "workload_args"], sort=False, dropna=False):
        yield label(group.iloc[0].to_dict()), group


def by_threshold(trials: pd.DataFrame, *, spread: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """Return a workload's rows panel by panel, each with one threshold, and the panels' titles.

    Args:
        trials: rows of one workload.
        spread: put optimizers of different op apart where there are more than :data:`CROWDED`.
    """
    groups: dict[tuple[str, float], list[int]] = {}
    apart = spread and trials["optimizer"].nunique() > CROWDED
    for position, (optimizer, threshold) in enumerate(
        zip(trials["optimizer"], trials["threshold"], strict=True)
    ):
        # NaN is not equal to itself, as keys of a dict must be.
        key = (family(optimizer) if apart else "", -math.inf if math.isnan(threshold) else float(threshold))
        groups.setdefault(key, []).append(position)
    ordered = sorted(groups.items(), key=lambda group: FAMILIES.index(group[0][0]) if apart else 0)
    return [(_title(*key), trials.iloc[rows]) for key, rows in ordered]


def with_thresholds(table: pd.DataFrame, trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return ``table`` with each row's threshold, looked up in ``trials`` by the columns ``by``."""
    known = trials[[*by, "threshold"]].drop_duplicates(list(by))
    return table.merge(known, on=list(by), how="left")


def _title(op: str, threshold: float) -> str:
    limit = f"training loss ≤ {threshold:g}" if math.isfinite(threshold) else ""
    return ": ".join(filter(None, (op, limit)))
