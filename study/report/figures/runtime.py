"""The runtime distribution: the share of trials that reached the threshold by an iteration."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from study.analysis import profiles
from study.analysis.tables import METHOD, SETUP
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.panels import (
    columns_by_threshold,
    draw_steps,
    first_methods,
    grid,
    rows_of,
    with_thresholds,
)
from study.report.figures.style import STYLE, finish

STEM = "runtime"
SECTION: Section = "budget"

CAPTION = (
    "Share of trials, over all α₀ and seeds, that had reached the threshold by an iteration. A line that "
    "ends below 100 % has trials that did not reach it within the budget."
)


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the distribution, if the study has a threshold."""
    distribution = profiles.runtime_distribution(evidence.trials)
    if len(distribution):
        figure = runtime_figure(distribution, evidence.trials, evidence.study.name)
        yield Drawn(figure, "Runtime distribution", CAPTION)


def runtime_figure(distribution: pd.DataFrame, trials: pd.DataFrame, name: str) -> Figure:
    """Draw ``profiles.runtime_distribution``: the share of trials that reached the threshold over N.

    There is a panel per workload and threshold; of several β the first is shown.

    Args:
        distribution: From ``profiles.runtime_distribution``; not empty.
        trials: From ``tables.trial_table``.
        name: The study's name, for the title.
    """
    shown, note = first_methods(trials)
    panels = columns_by_threshold(with_thresholds(rows_of(distribution, shown), shown, [*SETUP, *METHOD]))
    with mpl.rc_context(STYLE):
        figure, places = grid(["share"], panels, height=2.6)
        for panel, _, (title, lines), (_, left, _) in places:
            draw_steps(panel, lines, "iterations", "share", start=0.8 * float(lines["iterations"].min()))
            panel.set_title(title, parse_math=False)
            panel.set_xlabel("iterations")
            if left:
                panel.set_ylabel("share of trials that reached it")
        finish(figure, [o for _, lines in panels for o in lines["optimizer"]], name, note)
    return figure
