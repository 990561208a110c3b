"""The step-size profile: the share of α₀ that is within τ times the best N."""

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

STEM = "step-size-profile"
SECTION: Section = "alpha0"

CAPTION = (
    "Share of the α₀ tried at which N is at most τ times the best N of the same seed: above, the best of the "
    "same optimizer (how insensitive it is to α₀); below, the best of any optimizer with the same threshold "
    "(how fast it is, too)."
)


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the profile, if two α₀ or more were tried."""
    profile = profiles.step_size_profile(evidence.trials)
    if len(profile) and evidence.trials["alpha0"].nunique() > 1:
        figure = profile_figure(profile, evidence.trials, evidence.study.name)
        yield Drawn(figure, "Step-size profile", CAPTION)


def profile_figure(profile: pd.DataFrame, trials: pd.DataFrame, name: str) -> Figure:
    """Draw ``profiles.step_size_profile``: the share of α₀ that is within τ times the best N.

    Above is the best N of the same optimizer; below, that of any optimizer with the same threshold. There is
    a column per workload, and per threshold if there are several; of several β the first is shown.

    Args:
        profile: From ``profiles.step_size_profile``; not empty.
        trials: From ``tables.trial_table``.
        name: The study's name, for the title.
    """
    shown, note = first_methods(trials)
    columns = columns_by_threshold(with_thresholds(rows_of(profile, shown), shown, [*SETUP, *METHOD]))
    rows = {"share": "N ≤ τ × its own best", "share_overall": "N ≤ τ × the best of all"}
    with mpl.rc_context(STYLE):
        figure, places = grid(list(rows), columns, height=2.2)
        for panel, share, (title, lines), (top, left, bottom) in places:
            draw_steps(panel, lines, "tau", share, start=1.0)
            if top:
                panel.set_title(title, parse_math=False)
            if left:
                panel.set_ylabel(f"share of α₀ with\n{rows[share]}")
            if bottom:
                panel.set_xlabel("τ")
        finish(figure, [o for _, lines in columns for o in lines["optimizer"]], name, note)
    return figure
