"""Sensitivity to α₀: iterations to the threshold and final training loss over α₀."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from study.analysis.formatting import format_percent
from study.analysis.stats import median_interval
from study.analysis.tables import ended
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.medium import is_muted, shrink
from study.report.figures.panels import by_threshold, first_methods, workloads
from study.report.figures.style import STYLE, finish, in_order, label_log, look, subplots

STEM = "alpha0"
SECTION: Section = "alpha0"

Floats = NDArray[np.float64]


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield a figure per workload that has trials that ended from two or more α₀."""
    name = evidence.study.name
    parts = list(workloads(evidence.trials))
    for number, (workload, rows) in enumerate(parts, start=1):
        if has_alpha0_figure(rows):
            several = len(parts) > 1
            figure = alpha0_figure(rows, f"{name}, {workload}" if several else name)
            suffix = f"-{number}" if several else ""
            yield Drawn(figure, f"Sensitivity to α₀, {workload}", _caption(rows), suffix)


def _caption(rows: pd.DataFrame) -> str:
    seeds = rows["seed"].nunique()
    covers = format_percent(1 - 2.0 ** (1 - seeds)) if 1 < seeds < 9 else "at least 95 %"
    bars = (
        f"Bars: an interval that covers the median with {covers}, from order statistics. "
        if seeds > 1
        else ""
    )
    timed = (
        "Above, the first iteration whose minibatch training loss is at or below the threshold; an open "
        "triangle: at least half of the trials did not reach it within the budget. "
        if rows["threshold"].notna().any()
        else ""
    )
    lower = "Below, m" if timed else "M"
    loss = f"{lower}ean training loss of the last epoch; diverged trials count as worse than all others. "
    return f"{timed}{loss}Points: medians over seeds. {bars}Steps are not seconds; the tables give both."


def has_alpha0_figure(trials: pd.DataFrame) -> bool:
    """Return whether ``alpha0_figure`` can draw: trials have ended from two or more α₀ > 0."""
    return bool(_shown(trials)["alpha0"].nunique() > 1)


def alpha0_figure(trials: pd.DataFrame, name: str) -> Figure:
    """Draw the effect of α₀ on one workload: iterations to the threshold above, final training loss below.

    Points are medians over seeds; bars are ``stats.median_interval``. A trial that did not reach the
    threshold counts as later than the budget, a diverged trial as above every loss; a median that falls among
    these is an open triangle on the upper line. There is a panel per threshold, and per op if there are five
    optimizers or more. Of several β the first is shown.

    Args:
        trials: Rows of ``tables.trial_table`` with one workload.
        name: The study's name, for the title.

    Raises:
        ValueError: ``has_alpha0_figure`` is false.
    """
    if not has_alpha0_figure(trials):
        raise ValueError(f"study {name}: no two α₀ above 0 with a trial that ended; nothing to draw")
    shown, note = first_methods(_shown(trials))
    columns = by_threshold(shown, spread=True)
    timed = bool(shown["threshold"].notna().any())
    rows = (["iterations_to_threshold"] if timed else []) + ["final_train_loss"]
    alphas = sorted(set(shown["alpha0"]))
    with mpl.rc_context(STYLE):
        figure, axes = subplots(len(rows), len(columns), height=2.5)
        for measure, panels in zip(rows, axes, strict=True):
            timed = measure == "iterations_to_threshold"
            lines = [_lines(group, measure) for _, group in columns]
            low, high, ceiling = _extent(lines, float(shown["budget"].max()) if timed else None)
            for panel, (title, _), drawn in zip(panels, columns, lines, strict=True):
                _draw(panel, drawn, alphas, ceiling)
                if any(np.isinf(line.high).any() for line in drawn.values()):
                    _mark(panel, ceiling, f"not reached within {ceiling:.0f}" if timed else "diverged")
                _scale(panel, low, high, ceiling, timed)
                if measure == rows[0]:
                    panel.set_title(title, parse_math=False)
                panel.tick_params(which="both", labelbottom=measure == rows[-1], labelleft=panel is panels[0])
            panels[0].set_ylabel(_LABELS[measure])
        for panel in axes[-1]:
            panel.set_xlabel("initial learning rate α₀")
        finish(figure, shown["optimizer"], name, note, markers=True)
    return figure


_LABELS = {"iterations_to_threshold": "iterations to threshold", "final_train_loss": "final training loss"}


class _Line(NamedTuple):
    """An optimizer's medians and intervals over its α₀; inf if they fall among censored trials."""

    alpha0: Floats
    median: Floats
    low: Floats
    high: Floats


def _shown(trials: pd.DataFrame) -> pd.DataFrame:
    rows = ended(trials)
    return rows[rows["alpha0"] > 0]


def _lines(rows: pd.DataFrame, measure: str) -> dict[str, _Line]:
    return {name: _line(rows[rows["optimizer"] == name], measure) for name in in_order(rows["optimizer"])}


def _line(rows: pd.DataFrame, measure: str) -> _Line:
    points = []
    for alpha0, cell in rows.groupby("alpha0"):
        values = cell[measure].fillna(math.inf).to_numpy(dtype=float)
        interval = median_interval(values)
        points.append((alpha0, float(np.median(values)), interval.low, interval.high))
    return _Line(*np.array(points, dtype=float).T)


def _extent(panels: list[dict[str, _Line]], budget: float | None) -> tuple[float, float, float]:
    """Return the smallest and largest value of a row of panels, and the height of censored points."""
    values = np.concatenate([np.concatenate(line[1:]) for lines in panels for line in lines.values()])
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (1.0, 1.0)
    if budget is not None:
        return low, high, budget
    return low, high, high * 1.15 if _is_wide(low, high) else high + 0.12 * (high - low or abs(high) or 1.0)


def _is_wide(low: float, high: float) -> bool:
    return low > 0 and high / low > 5


def _draw(panel: Axes, lines: dict[str, _Line], alphas: list[float], ceiling: float) -> None:
    gap = min((b / a for a, b in pairwise(alphas)), default=10.0)
    for place, (name, line) in enumerate(lines.items()):
        # Side by side, within a quarter of the way to the next α₀, so that equal points are visible.
        x = line.alpha0 * gap ** (0.25 * (place - (len(lines) - 1) / 2) / max(len(lines), 4))
        got, some = np.isfinite(line.median), np.isfinite(line.low)
        style = look(name)
        same: dict[str, Any] = {"color": style.color, "zorder": 2 if is_muted(name) else 3}
        drawn: dict[str, Any] = {
            "ls": style.linestyle,
            "lw": style.linewidth,
            "marker": style.marker,
            "ms": 4 * shrink(),
        }
        panel.plot(x, np.where(got, line.median, np.nan), **drawn, **same)
        bars: dict[str, Any] = {"lw": 1.1 * shrink(), "alpha": 0.6}
        panel.vlines(x[some], line.low[some], np.minimum(line.high, ceiling)[some], **bars, **same)
        if not got.all():
            (marks,) = panel.plot(x[~got], np.full((~got).sum(), ceiling), "^", mfc="white", **same)
            marks.set(markersize=6 * shrink(), markeredgewidth=1.2 * shrink())
            marks.set(clip_on=False, in_layout=False)
            faint = {**same, "zorder": 2, "alpha": 0.3}  # shows which triangle belongs to which line
            panel.plot(x, np.minimum(line.median, ceiling), ls=style.linestyle, lw=shrink(), **faint)
    crowded = len(alphas) > 4
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    panel.set_xscale("log")
    panel.set_xlim(alphas[0] / gap**0.5, alphas[-1] * gap**0.5)
    panel.xaxis.set_major_locator(FixedLocator(alphas))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas], **turned)


def _mark(panel: Axes, height: float, words: str) -> None:
    panel.axhline(height, color="#888888", lw=0.8, ls=(0, (2, 2)), zorder=1)
    panel.annotate(
        words,
        (0.995, height),
        xytext=(0, 5),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize="small",
        color="#555555",
        in_layout=False,
    )


def _scale(panel: Axes, low: float, high: float, ceiling: float, timed: bool) -> None:
    """Give a row of panels the same scale, so that they compare; logarithmic if the range is wide."""
    if timed or _is_wide(low, high):
        panel.set_yscale("log")
        room = 1.9 / shrink() ** 1.5 if timed else 1.4  # for the words above the upper line
        panel.set_ylim(low / 1.5, max(ceiling if timed else high, high) * room)
        label_log(panel.yaxis, *panel.get_ylim())
        return
    span = high - low or abs(high) or 1.0
    panel.set_ylim(low - 0.06 * span, high + 0.24 * span)
