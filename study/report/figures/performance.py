"""The performance profile: the share of workloads on which an optimizer is within τ times the fastest."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from study.analysis import profiles
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.panels import draw_steps
from study.report.figures.style import STYLE, finish, subplots

STEM = "performance"
SECTION: Section = "budget"

CAPTION = "Share of workloads on which an optimizer needs at most τ times the iterations of the best."


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the profile, if there are enough workloads."""
    profile = profiles.performance_profile(evidence.trials)
    if len(profile):
        yield Drawn(performance_figure(profile, evidence.study.name), "Performance profile", CAPTION)


def performance_figure(profile: pd.DataFrame, name: str) -> Figure:
    """Draw ``profiles.performance_profile``, over all workloads.

    Args:
        profile: From ``profiles.performance_profile``; not empty.
        name: The study's name, for the title.
    """
    with mpl.rc_context(STYLE):
        figure, axes = subplots(1, 1, height=2.8)
        draw_steps(axes[0, 0], profile, "tau", "share", start=1.0)
        axes[0, 0].set_xlabel("τ")
        axes[0, 0].set_ylabel("share of workloads with\nN ≤ τ × the best")
        finish(figure, profile["optimizer"], name, "")
    return figure
