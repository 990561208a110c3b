"""Figures of shares: step-size profile, runtime distribution, performance profile, and best of K points."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from study.analysis.tables import METHOD, SETUP
from study.report.figures.panels import by_threshold, first_methods, with_thresholds, workloads
from study.report.figures.style import STYLE, finish, in_order, label_log, look, subplots

COLUMNS = 3
"""Panels side by side at most."""

_MEASURES = {
    "iterations_to_threshold": "iterations to threshold\n(the budget if not reached)",
    "best_val_loss": "best validation loss",
}


def profile_figure(profile: pd.DataFrame, trials: pd.DataFrame, name: str) -> Figure:
    """Draw ``sensitivity.step_size_profile``: the share of α₀ that is within τ times the best N.

    Above, the best N of the same optimizer; below, that of any optimizer with the same threshold. One column
    per workload, and per threshold if there are several; of several β the first is shown.

    Args:
        profile: not empty.
        trials: from ``tables.trial_table``.
        name: the study's, for the title.
    """
    shown, note = first_methods(trials)
    columns = _by_threshold(with_thresholds(_of(profile, shown), shown, [*SETUP, *METHOD]))
    rows = {"share": "N ≤ τ × its own best", "share_overall": "N ≤ τ × the best of all"}
    with mpl.rc_context(STYLE):
        figure, grid = _grid(list(rows), columns, height=2.2)
        for panel, share, (title, lines), (top, left, bottom) in grid:
            _steps(panel, lines, "tau", share, start=1.0)
            if top:
                panel.set_title(title, parse_math=False)
            if left:
                panel.set_ylabel(f"share of α₀ with\n{rows[share]}")
            if bottom:
                panel.set_xlabel("τ")
        finish(figure, [o for _, lines in columns for o in lines["optimizer"]], name, note)
    return figure


def runtime_figure(distribution: pd.DataFrame, trials: pd.DataFrame, name: str) -> Figure:
    """Draw ``sensitivity.runtime_distribution``: the share of trials that reached the threshold by then.

    One panel per workload and threshold; of several β the first is shown. Arguments as
    :func:`profile_figure`.
    """
    shown, note = first_methods(trials)
    panels = _by_threshold(with_thresholds(_of(distribution, shown), shown, [*SETUP, *METHOD]))
    with mpl.rc_context(STYLE):
        figure, grid = _grid(["share"], panels, height=2.6)
        for panel, _, (title, lines), (_, left, _) in grid:
            _steps(panel, lines, "iterations", "share", start=0.8 * float(lines["iterations"].min()))
            panel.set_title(title, parse_math=False)
            panel.set_xlabel("iterations")
            if left:
                panel.set_ylabel("share of trials that got there")
        finish(figure, [o for _, lines in panels for o in lines["optimizer"]], name, note)
    return figure


def performance_figure(profile: pd.DataFrame, name: str) -> Figure:
    """Draw ``sensitivity.performance_profile``, over all workloads.

    Args:
        profile: not empty.
        name: the study's, for the title.
    """
    with mpl.rc_context(STYLE):
        figure, axes = subplots(1, 1, height=2.8)
        _steps(axes[0, 0], profile, "tau", "share", start=1.0)
        axes[0, 0].set_xlabel("τ")
        axes[0, 0].set_ylabel("share of workloads with\nN ≤ τ × the best")
        finish(figure, profile["optimizer"], name, "")
    return figure


def best_of_k_figure(best: pd.DataFrame, name: str) -> Figure:
    """Draw ``sensitivity.best_of_k``: what a tuning budget of K points buys, a row of panels per measure.

    One column per workload, and per threshold if there are several.

    Args:
        best: not empty.
        name: the study's, for the title.
    """
    measures = [measure for measure in _MEASURES if (best["measure"] == measure).any()]
    columns = _by_threshold(best)
    with mpl.rc_context(STYLE):
        figure, grid = _grid(measures, columns, height=2.3)
        for panel, measure, (title, rows), (top, left, bottom) in grid:
            _draw_best(panel, rows[rows["measure"] == measure])
            if top:
                panel.set_title(title, parse_math=False)
            if left:
                panel.set_ylabel(_MEASURES[measure])
            if bottom:
                panel.set_xlabel("K, points of α₀ and β drawn")
        finish(figure, best["optimizer"], name, "", markers=True)
    return figure


def _of(table: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """The rows of the methods that are shown, in the order of these."""
    methods = shown[[*SETUP, *METHOD]].drop_duplicates()
    return methods.merge(table, on=[*SETUP, *METHOD], how="inner")


def _by_threshold(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups = [(workload, by_threshold(rows)) for workload, rows in workloads(table)]
    return [
        ("\n".join(filter(None, (workload if len(groups) > 1 else "", title))), rows)
        for workload, panels in groups
        for title, rows in panels
    ]


_Column = tuple[str, pd.DataFrame]
_Places = list[tuple[Axes, str, _Column, tuple[bool, bool, bool]]]


def _grid(rows: list[str], columns: list[_Column], height: float) -> tuple[Figure, _Places]:
    """An empty figure and its panels, each with its row, its column, and whether it is top, left, bottom.

    More than :data:`COLUMNS` columns go on below.
    """
    wide = min(COLUMNS, len(columns))
    figure, axes = subplots(len(rows) * -(-len(columns) // wide), wide, height=height)
    places: _Places = []
    for number, column in enumerate(columns):
        block, left = divmod(number, wide)
        for place, row in enumerate(rows):
            panel = axes[block * len(rows) + place, left]
            places.append((panel, row, column, (place == 0, left == 0, place == len(rows) - 1)))
    for panel in axes.flat:
        panel.set_visible(any(panel is used for used, *_ in places))
    return figure, places


def _steps(panel: Axes, rows: pd.DataFrame, x: str, share: str, start: float) -> None:
    """Draw step functions from ``start``, where they are 0 unless they say otherwise, to the largest x."""
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
        )
    panel.set_xscale("log")
    panel.set_xlim(start, end)
    panel.set_ylim(-0.02, 1.03)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_log(panel.xaxis, start, end)


def _draw_best(panel: Axes, rows: pd.DataFrame) -> None:
    for optimizer in in_order(rows["optimizer"]):
        line = rows[rows["optimizer"] == optimizer].sort_values("k")
        style = look(optimizer)
        drawn: dict[str, Any] = {"color": style.color, "ls": style.linestyle, "lw": style.linewidth}
        panel.plot(line["k"], line["value"], marker=style.marker, ms=3, **drawn)
        known = np.isfinite(line["low"]) & np.isfinite(line["high"])
        panel.fill_between(
            line["k"][known], line["low"][known], line["high"][known], color=style.color, alpha=0.1, lw=0
        )
    if rows.empty:
        return
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = rows["value"][np.isfinite(rows["value"])]
    if len(values) and values.min() > 0 and values.max() / values.min() > 10**1.2:
        panel.set_yscale("log")
        label_log(panel.yaxis, float(values.min()), float(values.max()))
