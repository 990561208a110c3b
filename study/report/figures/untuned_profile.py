"""The performance profile without tuning: the share of points within τ times the best tuned loss."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from study.analysis import untuned
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.panels import first_methods
from study.report.figures.style import STYLE, finish, in_order, look, subplots

STEM = "untuned-profile"
SECTION: Section = "untuned"

LARGEST = 4.0
"""The largest τ that is drawn; worse results are of no use."""
TICKS = (1, 1.2, 1.5, 2, 3, 4)

TITLES = {
    "every": "every α₀ on every workload",
    "default": "one α₀ for all workloads",
    "tuned": "the best α₀ of each workload",
}

CAPTION = (
    "How often an optimizer comes to a final validation loss within τ × the best that any optimizer has with "
    "any α₀ on the workload (medians over seeds); high on the left is good. First panel: of all α₀ tried on "
    "all workloads, so an optimizer that must be tuned stays low. "
)


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the profile, if several α₀ were tried on several workloads."""
    shown, note = first_methods(evidence.trials)
    losses = untuned.losses(shown)
    several = losses["alpha0"].nunique() > 1 and losses["workload"].nunique() > 1
    profile = untuned.profile(losses) if several else losses.iloc[:0]
    if len(profile):
        figure = profile_figure(profile, evidence.study.name, note)
        yield Drawn(figure, "Without tuning", CAPTION + _caption(profile))


def _caption(profile: pd.DataFrame) -> str:
    default = (
        "Second: at the α₀ that the study names as each one's default. " if _has_default(profile) else ""
    )
    return f"{default}Last: each at its best α₀, which is what tuning buys. Dashed: τ = 1.05."


def _has_default(profile: pd.DataFrame) -> bool:
    return bool(profile["points"].eq("default").any())


def profile_figure(profile: pd.DataFrame, name: str, note: str = "") -> Figure:
    """Draw ``untuned.profile``: a panel for each kind of points.

    Args:
        profile: From ``untuned.profile``; not empty.
        name: The study's name, for the title.
        note: The choice among several β, for the title.
    """
    kinds = [kind for kind in TITLES if profile["points"].eq(kind).any()]
    with mpl.rc_context(STYLE):
        figure, axes = subplots(1, len(kinds), height=3.2)
        for panel, kind in zip(axes[0], kinds, strict=True):
            rows = profile[profile["points"] == kind]
            for optimizer in in_order(rows["optimizer"]):
                line = rows[rows["optimizer"] == optimizer].sort_values("tau")
                style = look(optimizer)
                end = max(LARGEST, line["tau"].max())
                panel.step(
                    [*line["tau"], end],
                    [*line["share"], line["share"].iloc[-1]],
                    where="post",
                    color=style.color,
                    ls=style.linestyle,
                    lw=style.linewidth,
                )
            panel.set_xscale("log")
            panel.set_xlim(1, LARGEST)
            panel.set_ylim(-0.02, 1.03)
            panel.yaxis.set_major_formatter(PercentFormatter(1.0))
            panel.xaxis.set_major_locator(FixedLocator(TICKS))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
            panel.axvline(untuned.SMALL, color="#888888", lw=0.8, ls=(0, (2, 2)), zorder=1)
            panel.set_title(f"{TITLES[kind]}\n({rows['of'].max()} points)", parse_math=False)
            panel.set_xlabel("τ: loss over the best tuned loss")
            panel.tick_params(labelleft=panel is axes[0, 0])
        axes[0, 0].set_ylabel("share within τ")
        finish(figure, profile["optimizer"], name, note)
    return figure
