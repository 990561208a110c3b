"""The final validation loss over α₀, a small panel per workload."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from study.analysis import untuned
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.medium import shrink
from study.report.figures.panels import first_methods, grid, workloads
from study.report.figures.style import STYLE, finish, in_order, label_log, look

STEM = "loss-over-alpha0"
SECTION: Section = "untuned"

HIGHEST = 30.0
"""Losses above this multiple of the best are drawn at the upper edge."""

CAPTION = (
    "Final validation loss over α₀, medians over seeds; both axes are logarithmic. A flat line needs no "
    "tuning. The grey band is within 5 % of the best tuned loss. Open triangles at the upper edge are points "
    "above it, or of which most trials diverged."
)


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if trials have ended from several α₀."""
    shown, note = first_methods(evidence.trials)
    losses = untuned.losses(shown[shown["alpha0"] > 0])
    if losses["alpha0"].nunique() > 1:
        yield Drawn(losses_figure(losses, evidence.study.name, note), "Loss over α₀", CAPTION)


def losses_figure(losses: pd.DataFrame, name: str, note: str = "") -> Figure:
    """Draw ``untuned.losses``: a panel per workload, a line per optimizer.

    Args:
        losses: From ``untuned.losses``; not empty, with one method per optimizer.
        name: The study's name, for the title.
        note: The choice among several β, for the title.
    """
    alphas = sorted(set(losses["alpha0"]))
    with mpl.rc_context(STYLE):
        figure, places = grid(["loss"], list(workloads(losses)), height=2.1)
        for number, (panel, _, (title, rows), (_, left, _)) in enumerate(places):
            _draw(panel, rows)
            panel.set_title(title, parse_math=False)
            panel.set_xscale("log")
            panel.set_xlim(alphas[0] / 1.6, alphas[-1] * 1.6)
            panel.xaxis.set_major_locator(FixedLocator(alphas))
            panel.xaxis.set_minor_locator(NullLocator())
            last = number + 3 >= len(places)
            panel.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas], rotation=40, ha="right")
            panel.tick_params(labelbottom=last)
            if left:
                panel.set_ylabel("validation loss")
            if last:
                panel.set_xlabel("initial learning rate α₀")
        finish(figure, losses["optimizer"], name, note, markers=True)
    return figure


def _draw(panel: Axes, rows: pd.DataFrame) -> None:
    best = float(rows["loss"].min())
    known = rows["loss"][np.isfinite(rows["loss"])]
    top = min(float(known.max()) * 1.1, HIGHEST * best)
    for optimizer in in_order(rows["optimizer"]):
        line = rows[rows["optimizer"] == optimizer].sort_values("alpha0")
        style = look(optimizer)
        x, loss = line["alpha0"].to_numpy(), line["loss"].to_numpy()
        panel.plot(
            x,
            np.minimum(loss, top),
            color=style.color,
            ls=style.linestyle,
            lw=style.linewidth,
            marker=style.marker,
            ms=3.5 * shrink(),
        )
        above = loss > top
        if above.any():
            (marks,) = panel.plot(
                x[above], np.full(above.sum(), top), "^", mfc="white", color=style.color, zorder=3
            )
            marks.set(clip_on=False, in_layout=False, markersize=5 * shrink())
    panel.axhspan(best, best * untuned.SMALL, color="#888888", alpha=0.25, lw=0, zorder=0)
    panel.set_yscale("log")
    room = max(top / best, 1.01)  # all losses may be equal
    panel.set_ylim(best / room**0.04, top * room**0.02)
    label_log(panel.yaxis, *panel.get_ylim())
