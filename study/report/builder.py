"""Writes a study's report: figures, tables as CSV, and one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from study.analysis import sensitivity, tables, untuned
from study.analysis.claim_table import claim_table
from study.analysis.claims import claims
from study.analysis.headlines import conclusion, headlines, pilot
from study.analysis.pairing import baselines
from study.analysis.untuned_claims import untuned_claim_table, untuned_claims
from study.config.loader import Study
from study.config.search_space import NOTHING_FOUND, SearchState
from study.report import claim_rows, page, run_facts, table_rows
from study.report.caveats import limits
from study.report.figures import registry
from study.report.figures.base import Evidence
from study.report.links import Links, NoLinks
from study.report.stamp import CONCLUSION
from study.report.table_rows import Tables
from study.storage import provenance
from study.storage.records import TrialRecord


@dataclass(frozen=True)
class ReportFiles:
    """The files that ``write_report`` wrote."""

    page: Path
    tables: Mapping[str, Path]
    """The files of ``table_rows.Tables``, by name; tables without rows have none."""
    figures: tuple[Path, ...]
    conclusion: Path
    """The file with the result in one sentence."""


def write_report(
    records: Sequence[TrialRecord],
    study: Study,
    folder: Path,
    links: Links | None = None,
    state: SearchState = NOTHING_FOUND,
) -> ReportFiles:
    """Write a study's report into ``folder``, which is created if absent; replace files of an earlier report.

    Figures are PNG, SVG and PDF, tables CSV; ``index.html`` embeds its figures, and ``conclusion.txt`` has
    the result in one sentence. An empty figure or table is left out.

    Args:
        records: Records of the study's trials, in any order; a trial without a record counts as not started.
        study: The study.
        folder: The folder to write.
        links: Finds the web pages of the trials, as a study's tracker does. Default: no links.
        state: The state of the study's search. Default: nothing found, as for a grid.

    Raises:
        ValueError: No trial has finished an epoch, so there is nothing to report.
        OSError: The folder cannot be written.
    """
    trials = tables.trial_table(records, study, state)
    known = {record.trial.key: record for record in records}
    own = [known[key] for key in trials["key"] if key in known]
    if not any(record.iterations for record in own):
        raise ValueError(f"study {study.name}: no trial has finished an epoch yet; nothing to report")
    found = claims(trials, named=study.named_baselines())
    untuned_found = untuned_claims(trials, study.untuned)
    several = trials["alpha0"].nunique() > 1
    losses = untuned.losses(trials if several else trials.iloc[:0])
    results = Tables(
        trials=trials,
        summary=tables.summary_table(trials),
        claims=claim_table(found),
        alpha0_widths=sensitivity.alpha0_widths(trials),
        losses=losses,
        untuned=untuned.summary(losses),
        untuned_claims=untuned_claim_table(untuned_found),
    )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = registry.draw(Evidence(study, own, trials, state, records), folder)
    written = _write_tables(results, folder)
    links = links or NoLinks()
    early = pilot(found, untuned_found)
    content = page.render(
        study=study,
        what_ran=run_facts.what_ran(study, trials),
        pilot=early.text if early else "",
        headlines=headlines(found, untuned_found, results.summary),
        facts=run_facts.facts(trials),
        claims=claim_rows.claim_groups(found, links, judged=early is None),
        not_judged=claim_rows.not_judged(found),
        glance=claim_rows.glance(found, judged=early is None),
        no_claims=_no_claims(trials, claimed=bool(untuned_found)),
        pictures=registry.by_section(pictures),
        widths=table_rows.widths(results.alpha0_widths),
        untuned=table_rows.untuned(results.untuned),
        untuned_claims=claim_rows.untuned_claims(untuned_found),
        workloads=table_rows.workloads(results, links),
        machine=run_facts.machine(own),
        limits=limits(trials, results.summary, results.alpha0_widths, own),
        failures=run_facts.failures(own),
        yaml=study.to_yaml(),
        files=[path.name for path in written.values()],
        release=provenance.release(),
        commit=provenance.commit(),
    )
    path = folder / "index.html"
    path.write_text(content, encoding="utf-8")
    said = folder / CONCLUSION
    said.write_text(conclusion(found, untuned_found, results.summary) + "\n", encoding="utf-8")
    registry.remove_others(folder, pictures)
    _remove_other_tables(folder, written.values())
    figures = tuple(file for picture in pictures for file in picture.files)
    return ReportFiles(path, written, figures, said)


def write_paper_figures(
    records: Sequence[TrialRecord], study: Study, folder: Path, state: SearchState = NOTHING_FOUND
) -> list[Path]:
    """Write every figure as a PDF as wide as a paper's column (3.25 in) or text (6.75 in).

    Letters are small and real text, and no LaTeX is needed; ``captions.txt`` has the captions.

    Args:
        records: See ``write_report``.
        study: See ``write_report``.
        folder: The folder to write; created if absent.
        state: See ``write_report``.

    Returns:
        The files written.

    Raises:
        OSError: The folder cannot be written.
    """
    trials = tables.trial_table(records, study, state)
    known = {record.trial.key: record for record in records}
    own = [known[key] for key in trials["key"] if key in known]
    return registry.draw_for_paper(Evidence(study, own, trials, state), folder)


def _no_claims(trials: pd.DataFrame, *, claimed: bool) -> str:
    """Return why there are no claims, for a study that has none."""
    if claimed:
        return "The study's own claims are below, under “Without tuning”."
    if not baselines(trials):
        return "No optimizer here has a baseline that the claims are about (Adam–Adam against Adam-HD, say)."
    return "No two trials of an optimizer and its baseline on the same seed have ended."


def _write_tables(results: Tables, folder: Path) -> dict[str, Path]:
    written = {}
    for name, table in results._asdict().items():
        if len(table):
            written[name] = folder / f"{name}.csv"
            table.to_csv(written[name], index=False)
    return written


_FORMER_TABLES = ("comparisons",)  # of earlier versions


def _remove_other_tables(folder: Path, kept: Iterable[Path]) -> None:
    """Remove the tables of an earlier report that this one does not have."""
    for name in (*Tables._fields, *_FORMER_TABLES):
        if (path := folder / f"{name}.csv") not in kept:
            path.unlink(missing_ok=True)
