"""A study's report: figures, tables as CSV, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from study import (
    alpha0_figure,
    figures,
    page,
    panels,
    profile_figures,
    provenance,
    sensitivity,
    style,
    tables,
)
from study.claims import claims
from study.limits import limits
from study.page import Links, Tables
from study.records import TrialRecord
from study.spec import Study
from study.wording import percent

_STEMS = ("figure1", "alpha0", "step-size-profile", "best-of-k", "runtime", "performance")
"""How the names of figures begin."""


@dataclass(frozen=True)
class ReportFiles:
    """What :func:`write_report` wrote."""

    page: Path
    tables: Mapping[str, Path]
    """``trials``, ``summary``, ``comparisons``, ``claims`` and ``alpha0_widths``, those that have rows."""
    figures: tuple[Path, ...]


def write_report(
    records: Sequence[TrialRecord],
    study: Study,
    folder: Path,
    links: Mapping[str, str] | None = None,
    search: Callable[[str], str] | None = None,
) -> ReportFiles:
    """Write a study's report into ``folder``, made if absent; files of an earlier report are replaced.

    Figures as PNG and SVG, tables as CSV, and ``index.html``, which holds its figures itself. A figure or
    table that would be empty is left out.

    Args:
        records: of the study's trials, in any order; trials without a record count as not started.
        study: what was to be run.
        folder: where to write.
        links: trial key → http(s) address of its MLflow run.
        search: MLflow filter → address of the runs that it finds.

    Raises:
        ValueError: no trial has finished an epoch, so there is nothing to report.
        OSError: the folder cannot be written.
    """
    trials = tables.trial_table(records, study)
    known = {record.trial.key: record for record in records}
    own = [known[key] for key in trials["key"] if key in known]
    if not any(record.epochs for record in own):
        raise ValueError(f"study {study.name}: no trial has finished an epoch yet; nothing to report")
    found = Tables(
        trials=trials,
        summary=tables.summary_table(trials),
        comparisons=tables.comparisons(trials),
        claims=claims(trials),
        widths=sensitivity.alpha0_widths(trials),
    )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw(own, study, trials, folder)
    written = _write_tables(found, folder)
    addresses = Links(links or {}, search)
    content = page.render(
        study=study,
        facts=page.facts(study, trials),
        claims=page.claims(found.claims, addresses),
        glance=page.glance(found.claims),
        no_claims=_no_claims(trials),
        pictures={name: [picture for picture in pictures if picture.section == name] for name in _SECTIONS},
        widths=page.widths(found.widths),
        workloads=page.workloads(found, addresses),
        machine=page.machine(own),
        limits=limits(trials, found.summary, found.widths, own),
        failures=page.failures(own),
        yaml=study.to_yaml(),
        files=[path.name for path in written.values()],
        release=provenance.release(),
        commit=provenance.commit(),
    )
    path = folder / "index.html"
    path.write_text(content, encoding="utf-8")
    files = ReportFiles(path, written, tuple(f for picture in pictures for f in (picture.png, picture.svg)))
    _forget(folder, files)
    return files


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


_SECTIONS = ("curves", "alpha0", "budget")


def _draw(records: Sequence[TrialRecord], study: Study, trials: pd.DataFrame, folder: Path) -> list[Picture]:
    pictures: list[Picture] = []

    def keep(figure: Figure, stem: str, section: str, title: str, caption: str) -> None:
        pictures.append(Picture(section, title, caption, *style.save(figure, folder / stem)))

    if any(record.epochs and record.status not in ("failed", "pruned") for record in records):
        caption = _figure1_caption(trials)
        keep(figures.figure1(records, study), "figure1", "curves", "Learning rate and losses", caption)
    several = len(list(panels.workloads(trials))) > 1
    for number, (workload, rows) in enumerate(panels.workloads(trials), start=1):
        if alpha0_figure.has_alpha0_figure(rows):
            figure = alpha0_figure.alpha0_figure(rows, f"{study.name}, {workload}" if several else study.name)
            stem = f"alpha0-{number}" if several else "alpha0"
            keep(figure, stem, "alpha0", f"Sensitivity to α₀, {workload}", _alpha0_caption(rows))
    profile = sensitivity.step_size_profile(trials)
    if len(profile) and trials["alpha0"].nunique() > 1:
        figure = profile_figures.profile_figure(profile, trials, study.name)
        caption = (
            "Share of the α₀ tried at which N is at most τ times the best N of the same seed: above, the "
            "best of the same optimizer (how little it minds its α₀); below, the best of any optimizer with "
            "the same threshold (how fast it is as well)."
        )
        keep(figure, "step-size-profile", "alpha0", "Step-size profile", caption)
    best = sensitivity.best_of_k(trials)
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
    runtimes = sensitivity.runtime_distribution(trials)
    if len(runtimes):
        figure = profile_figures.runtime_figure(runtimes, trials, study.name)
        caption = (
            "Share of trials, over all α₀ and seeds, that had reached the threshold by an iteration. A line "
            "that does not come to 100 % has trials that did not get there within the budget."
        )
        keep(figure, "runtime", "budget", "Runtime distribution", caption)
    performance = sensitivity.performance_profile(trials)
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


def _no_claims(trials: pd.DataFrame) -> str:
    """Why there is no table of claims, if there is none."""
    if not set(trials["optimizer"]) & set(tables.BASELINES):
        return "No optimizer here has a baseline that the claims are about (adam-adam against adam-sgd, say)."
    return "No two trials of an optimizer and its baseline on the same seed have ended."


def _write_tables(found: Tables, folder: Path) -> dict[str, Path]:
    written = {}
    for name, table in found._asdict().items():
        if len(table):
            written[name] = folder / f"{'alpha0_widths' if name == 'widths' else name}.csv"
            table.to_csv(written[name], index=False)
    return written


def _forget(folder: Path, files: ReportFiles) -> None:
    """Remove figures and tables of an earlier report that this one does not have."""
    kept = {*files.figures, *files.tables.values()}
    ours = [path for stem in _STEMS for path in folder.glob(f"{stem}*") if path.suffix in (".png", ".svg")]
    ours += [folder / f"{name}.csv" for name in ("comparisons", "claims", "alpha0_widths")]
    for path in ours:
        if path not in kept:
            path.unlink(missing_ok=True)
