"""Arranges a figure's panels: one method per optimizer, one panel per workload and threshold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from study.analysis.formatting import paper_name, workload_label
from study.analysis.tables import METHOD, SETUP
from study.report.figures.medium import is_highlighting, is_muted
from study.report.figures.style import FAMILIES, family, in_order, label_log, look, subplots

CROWDED = 4
"""More optimizers than this are spread over panels by their op."""

COLUMNS = 3
"""Largest number of panels side by side."""

Column = tuple[str, pd.DataFrame]
"""A title, and the rows of a panel."""
Places = list[tuple[Axes, str, Column, tuple[bool, bool, bool]]]

_SYMBOLS = {"beta": "β", "granularity": "granularity", "optimizer_args": "options"}


class Shown(NamedTuple):
    """The trials that a figure shows, and a line that names the β and options chosen among several."""

    trials: pd.DataFrame
    note: str


def first_methods(trials: pd.DataFrame) -> Shown:
    """Return, for each optimizer on each workload, the trials with its first β, granularity and options.

    Args:
        trials: From ``tables.trial_table``; "first" means in the study's order, for any order of the rows.
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
        values = {o: value for (of, o), value in chosen.items() if of == name and not is_muted(o)}
        if values:
            said = (
                f"{paper_name(o)} {f'{v:g}' if name == 'beta' else v or 'default'}" for o, v in values.items()
            )
            parts.append(f"{symbol}: {', '.join(said)}")
    return Shown(pd.concat(kept) if kept else trials, "; ".join(parts))


def workloads(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield each workload's label and rows, in the study's order."""
    for _, group in trials.sort_index().groupby(["workload", "workload_args"], sort=False, dropna=False):
        yield workload_label(group.iloc[0].to_dict()), group


def has_panel_per_op(optimizers: Iterable[str]) -> bool:
    """Return whether optimizers are spread over panels by their op, as one panel would be too crowded.

    That is so with more than ``CROWDED`` optimizers, if at least two ops have several of them. If some are
    highlighted, the others are grey, and one panel has room for all.
    """
    names = set(optimizers)
    several = sum(count > 1 for count in Counter(map(family, names)).values())
    return len(names) > CROWDED and several > 1 and not is_highlighting()


def by_threshold(trials: pd.DataFrame, *, spread: bool = False) -> list[tuple[str, pd.DataFrame]]:
    """Return a workload's rows by panel, each with its title and one threshold.

    Args:
        trials: Rows of one workload.
        spread: Whether optimizers of different op get their own panels, if ``has_panel_per_op`` says so.
    """
    groups: dict[tuple[str, float], list[int]] = {}
    apart = spread and has_panel_per_op(trials["optimizer"])
    for position, (optimizer, threshold) in enumerate(
        zip(trials["optimizer"], trials["threshold"], strict=True)
    ):
        # NaN does not equal itself, as keys of a dict must.
        key = (family(optimizer) if apart else "", -math.inf if math.isnan(threshold) else float(threshold))
        groups.setdefault(key, []).append(position)
    ordered = sorted(groups.items(), key=lambda group: FAMILIES.index(group[0][0]) if apart else 0)
    return [(_title(*key), trials.iloc[rows]) for key, rows in ordered]


def with_thresholds(table: pd.DataFrame, trials: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return ``table`` with each row's threshold, looked up in ``trials`` by the columns ``by``."""
    known = trials[[*by, "threshold"]].drop_duplicates(list(by))
    return table.merge(known, on=list(by), how="left")


def rows_of(table: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``table`` for the methods in ``shown``, in the order of these."""
    methods = shown[[*SETUP, *METHOD]].drop_duplicates()
    return methods.merge(table, on=[*SETUP, *METHOD], how="inner")


def columns_by_threshold(table: pd.DataFrame) -> list[Column]:
    """Return a table's rows by workload and threshold, each with its title."""
    groups = [(workload, by_threshold(rows)) for workload, rows in workloads(table)]
    return [
        ("\n".join(filter(None, (workload if len(groups) > 1 else "", title))), rows)
        for workload, panels in groups
        for title, rows in panels
    ]


def grid(rows: list[str], columns: list[Column], height: float) -> tuple[Figure, Places]:
    """Return an empty figure and its panels, each with row, column, and whether it is top, left, bottom.

    More than ``COLUMNS`` columns continue below.
    """
    wide = min(COLUMNS, len(columns))
    figure, axes = subplots(len(rows) * -(-len(columns) // wide), wide, height=height)
    places: Places = []
    for number, column in enumerate(columns):
        block, left = divmod(number, wide)
        for place, row in enumerate(rows):
            panel = axes[block * len(rows) + place, left]
            places.append((panel, row, column, (place == 0, left == 0, place == len(rows) - 1)))
    for panel in axes.flat:
        panel.set_visible(any(panel is used for used, *_ in places))
    return figure, places


def draw_steps(panel: Axes, rows: pd.DataFrame, x: str, share: str, start: float) -> None:
    """Draw step functions from ``start``, where they are 0 unless a row says otherwise, to the largest x."""
    end = max(float(rows[x].max()), 1.05 * start)
    for optimizer in in_order(rows["optimizer"]):
        line = rows[rows["optimizer"] == optimizer].sort_values(x)
        points = [(start, 0.0), *zip(line[x], line[share], strict=True), (end, float(line[share].iloc[-1]))]
        style = look(optimizer)
        panel.step(
            *zip(*points, strict=True),
            where="post",
            color=style.color,
            ls=style.linestyle,
            lw=style.linewidth,
            zorder=2 if is_muted(optimizer) else 2.5,
        )
    panel.set_xscale("log")
    panel.set_xlim(start, end)
    panel.set_ylim(-0.02, 1.03)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_log(panel.xaxis, start, end)


def _title(op: str, threshold: float) -> str:
    limit = f"training loss ≤ {threshold:g}" if math.isfinite(threshold) else ""
    return ": ".join(filter(None, (family_name(op), limit)))


def family_name(op: str) -> str:
    """Return the title for the panel of an op, such as ``SGDN``."""
    return "other optimizers" if op == FAMILIES[-1] else paper_name(op)
