"""Contours of a search's score over α₀ and β."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from study.analysis import objective
from study.analysis.objective import PointScore
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.searched import ENOUGH, Searched, searched, shown
from study.report.figures.style import STYLE, subplots

STEM = "search-contour"
SECTION: Section = "alpha0"
COLUMNS = 3
LEVELS = 10

CAPTION = (
    "The score of the search over α₀ and β, interpolated between the points that were tried (dots); darker "
    "is better. The star is the best point, crosses are points that diverged. Far from dots the "
    f"contours say little. An optimizer needs {ENOUGH} points that ended with a finite score."
)


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if a search was over both α₀ and β."""
    arms = searched(evidence)
    if arms:
        figure = contour_figure(arms, evidence.study.name)
        yield Drawn(figure, "Score of the search over α₀ and β", CAPTION)


def contour_figure(arms: Sequence[Searched], name: str) -> Figure:
    """Draw a panel per optimizer and workload, over the searched ranges.

    Args:
        arms: The arms, at least one.
        name: The study's name, for the title.
    """
    wide = min(COLUMNS, len(arms))
    with mpl.rc_context(STYLE):
        figure, axes = subplots(-(-len(arms) // wide), wide, height=2.7)
        for panel, arm in zip(axes.flat, arms, strict=False):
            panel.set_title(arm.title, parse_math=False)
            _scale(panel, arm)
            if arm.has_enough:
                _draw(figure, panel, arm)
            else:
                text = arm.shortfall.replace(": ", ":\n").replace(", ", ",\n")
                panel.text(0.5, 0.5, text, transform=panel.transAxes, ha="center", va="center", fontsize=8)
        for panel in axes.flat[len(arms) :]:
            panel.set_visible(False)
        figure.suptitle(f"{name}: {arms[0].arm.search.objective}", fontsize=10, parse_math=False)
    return figure


def _scale(panel: Axes, arm: Searched) -> None:
    """Set up axes of log10 α₀ and log10 β, in which the search draws its points and contours are straight."""
    for axis, limit, values, label in (
        (panel.xaxis, panel.set_xlim, arm.arm.space["alpha0"], "initial learning rate α₀"),
        (panel.yaxis, panel.set_ylim, arm.arm.space["beta"], "β"),
    ):
        axis.set_label_text(label)
        limit(math.log10(values.low) - 0.15, math.log10(values.high) + 0.15)
        axis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axis.set_major_formatter(lambda exponent, _: f"$10^{{{exponent:.0f}}}$")
    panel.grid(visible=False)


def _draw(figure: Figure, panel: Axes, arm: Searched) -> None:
    x, y = _places(arm.finite)
    values = np.array([shown(score) for score in arm.finite])
    heights = np.log10(values) if arm.is_log else values
    low, high = float(heights.min()), float(heights.max())
    colors: dict[str, Any] = {"cmap": "viridis", "vmin": low, "vmax": high}
    # Points on one line have no area between them.
    with suppress(RuntimeError, ValueError):
        levels = MaxNLocator(LEVELS).tick_values(low, high)
        filled = panel.tricontourf(x, y, heights, levels=levels, **colors)
        bar = figure.colorbar(filled, ax=panel, pad=0.02)
        bar.ax.tick_params(labelsize=7)
        if arm.is_log:
            bar.ax.yaxis.set_major_formatter(lambda height, _: f"{10**height:.2g}")
    panel.scatter(x, y, c=heights, s=14, edgecolors="white", linewidths=0.6, zorder=3, **colors)
    if arm.diverged:
        panel.scatter(*_places(arm.diverged), marker="x", s=18, c="#D55E00", linewidths=1, zorder=3)
    best = objective.best(arm.finite)
    assert best is not None
    panel.scatter(*_places([best]), marker="*", s=90, c="#D55E00", edgecolors="white", zorder=4)


def _places(scores: Sequence[PointScore]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return log10 α₀ and log10 β of points."""
    betas = [score.point.beta or math.nan for score in scores]
    return np.log10([score.point.alpha0 for score in scores]), np.log10(betas)
