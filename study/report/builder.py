"""A study's report: figures, tables as CSV, and one HTML page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from study.analysis import sensitivity, tables
from study.analysis.claims import claims
from study.config.loader import Study
from study.config.search_space import NOTHING_FOUND, SearchState
from study.report import page
from study.report.caveats import limits
from study.report.figures.registry import SECTIONS, STEMS, draw
from study.report.page import Links, NoLinks, Tables
from study.storage import provenance
from study.storage.records import TrialRecord


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
    links: Links | None = None,
    state: SearchState = NOTHING_FOUND,
) -> ReportFiles:
    """Write a study's report into ``folder``, made if absent; files of an earlier report are replaced.

    Figures as PNG and SVG, tables as CSV, and ``index.html``, which holds its figures itself. A figure or
    table that would be empty is left out.

    Args:
        records: of the study's trials, in any order; trials without a record count as not started.
        study: what was to be run.
        folder: where to write.
        links: web pages of the trials, such as a study's tracker knows them; None for no links.
        state: what the study's search has found; a grid needs none.

    Raises:
        ValueError: no trial has finished an epoch, so there is nothing to report.
        OSError: the folder cannot be written.
    """
    trials = tables.trial_table(records, study, state)
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
    pictures = draw(own, study, state, trials, folder)
    written = _write_tables(found, folder)
    links = links or NoLinks()
    content = page.render(
        study=study,
        facts=page.facts(study, trials),
        claims=page.claims(found.claims, links),
        glance=page.glance(found.claims),
        no_claims=_no_claims(trials),
        pictures={name: [picture for picture in pictures if picture.section == name] for name in SECTIONS},
        widths=page.widths(found.widths),
        workloads=page.workloads(found, links),
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
    ours = [path for stem in STEMS for path in folder.glob(f"{stem}*") if path.suffix in (".png", ".svg")]
    ours += [folder / f"{name}.csv" for name in ("comparisons", "claims", "alpha0_widths")]
    for path in ours:
        if path not in kept:
            path.unlink(missing_ok=True)
