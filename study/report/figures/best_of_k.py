"""The expected best loss of K random points of α₀ and β: the gain from a tuning budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.analysis import profiles
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.medium import is_muted, shrink
from study.report.figures.panels import columns_by_threshold, grid
from study.report.figures.style import STYLE, finish, in_order, label_log, look

STEM = "best-of-k"
SECTION: Section = "budget"

_MEASURES = {
    "iterations_to_threshold": "iterations to threshold\n(budget if not reached)",
    "best_val_loss": "best validation loss",
}


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if every optimizer has two points or more."""
    best = profiles.best_of_k(evidence.trials)
    if len(best) and best["k"].max() > 1:
        yield Drawn(best_of_k_figure(best, evidence.study.name), "What K points buy", _caption(best))


def _caption(best: pd.DataFrame) -> str:
    chosen = (
        "Points are chosen on all seeds but one and judged on that one. " if best["held_out"].all() else ""
    )
    return (
        "The best of K points drawn at random from the α₀ and β that were tried, in expectation. K is the "
        f"same for all, and β counts as tuned. {chosen}Bands: an interval of the mean over seeds."
    )


def best_of_k_figure(best: pd.DataFrame, name: str) -> Figure:
    """Draw ``profiles.best_of_k``: the result of tuning with K points, a row of panels per measure.

    There is a column per workload, and per threshold if there are several.

    Args:
        best: From ``profiles.best_of_k``; not empty.
        name: The study's name, for the title.
    """
    measures = [measure for measure in _MEASURES if (best["measure"] == measure).any()]
    columns = columns_by_threshold(best)
    with mpl.rc_context(STYLE):
        figure, places = grid(measures, columns, height=2.3)
        for panel, measure, (title, rows), (top, left, bottom) in places:
            _draw_best(panel, rows[rows["measure"] == measure])
            if top:
                panel.set_title(title, parse_math=False)
            if left:
                panel.set_ylabel(_MEASURES[measure])
            if bottom:
                panel.set_xlabel("K, points of α₀ and β drawn")
        finish(figure, best["optimizer"], name, "", markers=True)
    return figure


def _draw_best(panel: Axes, rows: pd.DataFrame) -> None:
    for optimizer in in_order(rows["optimizer"]):
        line = rows[rows["optimizer"] == optimizer].sort_values("k")
        style = look(optimizer)
        drawn: dict[str, Any] = {"color": style.color, "ls": style.linestyle, "lw": style.linewidth}
        panel.plot(line["k"], line["value"], marker=style.marker, ms=3 * shrink(), **drawn)
        if is_muted(optimizer):
            continue
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
        label_log(panel.yaxis, *panel.get_ylim())
