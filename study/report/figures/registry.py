"""Which figures a report has, in which section, and what stands below each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from study.analysis import profiles
from study.analysis.formatting import percent
from study.config.loader import Study
from study.config.search_space import SearchState
from study.report.figures import alpha0, panels, style, training_curves
from study.report.figures import profiles as profile_figures
from study.storage.records import TrialRecord

STEMS = ("figure1", "alpha0", "step-size-profile", "best-of-k", "runtime", "performance")
"""How the names of figures begin."""


class Picture(NamedTuple):
    """A figure on disk and on the page."""

    section: str
    title: str
    caption: str
    png: Path
    svg: Path

    @property
    def data(self) -> str:
        """The SVG as a data address."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.read_bytes()).decode()


SECTIONS = ("curves", "alpha0", "budget")


def draw(
    records: Sequence[TrialRecord], study: Study, state: SearchState, trials: pd.DataFrame, folder: Path
) -> list[Picture]:
    """Draw every figure that has something to show, and save each into ``folder``."""
    pictures: list[Picture] = []

    def keep(figure: Figure, stem: str, section: str, title: str, caption: str) -> None:
        pictures.append(Picture(section, title, caption, *style.save(figure, folder / stem)))

    if any(record.epochs and record.status not in ("failed", "pruned") for record in records):
        caption = _figure1_caption(trials)
        figure = training_curves.figure1(records, study, state=state)
        keep(figure, "figure1", "curves", "Learning rate and losses", caption)
    several = len(list(panels.workloads(trials))) > 1
    for number, (workload, rows) in enumerate(panels.workloads(trials), start=1):
        if alpha0.has_alpha0_figure(rows):
            figure = alpha0.alpha0_figure(rows, f"{study.name}, {workload}" if several else study.name)
            stem = f"alpha0-{number}" if several else "alpha0"
            keep(figure, stem, "alpha0", f"Sensitivity to α₀, {workload}", _alpha0_caption(rows))
    profile = profiles.step_size_profile(trials)
    if len(profile) and trials["alpha0"].nunique() > 1:
        figure = profile_figures.profile_figure(profile, trials, study.name)
        caption = (
            "Share of the α₀ tried at which N is at most τ times the best N of the same seed: above, the "
            "best of the same optimizer (how little it minds its α₀); below, the best of any optimizer with "
            "the same threshold (how fast it is as well)."
        )
        keep(figure, "step-size-profile", "alpha0", "Step-size profile", caption)
    best = profiles.best_of_k(trials)
    if len(best) and best["k"].max() > 1:
        held_out = (
            " Points are chosen on all seeds but one and judged on that one."
            if best["held_out"].all()
            else ""
        )
        caption = (
            "The best of K points drawn at random from the α₀ and β that were tried, in expectation. K is "
            f"the same for all, and β counts as tuned.{held_out} Bands: an interval of the mean over seeds."
        )
        keep(
            profile_figures.best_of_k_figure(best, study.name),
            "best-of-k",
            "budget",
            "What K points buy",
            caption,
        )
    runtimes = profiles.runtime_distribution(trials)
    if len(runtimes):
        figure = profile_figures.runtime_figure(runtimes, trials, study.name)
        caption = (
            "Share of trials, over all α₀ and seeds, that had reached the threshold by an iteration. A line "
            "that does not come to 100 % has trials that did not get there within the budget."
        )
        keep(figure, "runtime", "budget", "Runtime distribution", caption)
    performance = profiles.performance_profile(trials)
    if len(performance):
        caption = "Share of workloads on which an optimizer needs at most τ times the iterations of the best."
        figure = profile_figures.performance_figure(performance, study.name)
        keep(figure, "performance", "budget", "Performance profile", caption)
    return pictures


def _figure1_caption(trials: pd.DataFrame) -> str:
    seeds = trials["seed"].nunique()
    over = f"median over {seeds} seeds, band from the smallest to the largest" if seeds > 1 else "one seed"
    diverged = trials["outcome"].eq("diverged").any()
    cross = " A cross ends the line of an optimizer most of whose trials diverged." if diverged else ""
    return (
        "Learning rate and training loss, as means over each epoch's iterations, and validation loss after "
        f"the epoch; {over}. Colour is the optimizer of the weights, line style that of the learning rate: "
        f"dotted none, dashed SGD (hypergradient descent), solid and dash-dotted the new ones.{cross}"
    )


def _alpha0_caption(rows: pd.DataFrame) -> str:
    seeds = rows["seed"].nunique()
    covers = percent(1 - 2.0 ** (1 - seeds)) if 1 < seeds < 9 else "at least 95 %"
    bars = (
        f"Bars: an interval that covers the median with {covers}, from order statistics. "
        if seeds > 1
        else ""
    )
    timed = (
        "Above, the first iteration whose minibatch training loss is at or below the threshold; an open "
        "triangle: at least half of the trials did not get there within the budget. "
        if rows["threshold"].notna().any()
        else ""
    )
    lower = "Below, m" if timed else "M"
    loss = f"{lower}ean training loss of the last epoch; trials that diverged count as above all others. "
    return f"{timed}{loss}Points: medians over seeds. {bars}Steps are not seconds; the tables give both."
