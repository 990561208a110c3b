"""Shows stored results: the report of a study, and the commands ``compare`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import track

from study.cli import display
from study.cli.options import NameArgument, Runs, Uri, command_line, err, find_study, out, reason, refuse, say
from study.config.loader import ConfigError, Study
from study.storage.study_folder import StudyFolder, runs_folder

if TYPE_CHECKING:
    from study.tracking import Tracker


def show(
    study: Study, folder: StudyFolder, tracker: Tracker, *, again: bool = True, paper: bool = False
) -> None:
    """Print a study's table, write its report, store it with the tracker, and print the paths.

    If no trial has finished an epoch, print only that there is nothing to report. While another program
    writes the report, wait for it.

    Args:
        study: The study.
        folder: The study's folder.
        tracker: The tracker that has the study.
        again: Whether to write the report even if it is up to date.
        paper: Whether to draw the figures for a paper as well.

    Raises:
        TrackingError: The tracker refused the report or did not answer.
        OSError: The report cannot be written.
    """
    from study.report.lock import only_writer

    with only_writer(folder.report, say):
        _show(study, folder, tracker, again=again, paper=paper)


def _show(study: Study, folder: StudyFolder, tracker: Tracker, *, again: bool, paper: bool) -> None:
    from study.analysis import stored_trials, tables
    from study.report import stamp
    from study.report.stamp import CONCLUSION

    state = folder.search_state()
    records = stored_trials.read(study, folder, state)
    if study.search is not None:
        from study.analysis import objective

        display.show_search(out, study, objective.standings(study, state, records))
    if not records.columns["iterations"].any():
        say("no trial has finished an epoch, so there is no report")
        return
    display.show_summary(out, tables.summary_table(tables.trial_table(records, study, state)))
    link = tracker.study_link()
    made_from = stamp.content(study, folder, link)
    if again or not stamp.is_current(folder.report, made_from):
        from study.report import builder as reports

        say("drawing the report")
        stamp.remove(folder.report)
        reports.write_report(records, study, folder.report, tracker, state)
        tracker.log_report(folder.report)
        stamp.write(folder.report, made_from)
    places = {}
    if paper:
        from study.report import builder as reports

        say("drawing the figures for a paper")
        reports.write_paper_figures(records, study, folder.report / "paper", state)
        places["paper"] = str(folder.report / "paper")
    out.print()
    out.print((folder.report / CONCLUSION).read_text(encoding="utf-8"), highlight=False, markup=False)
    display.show_next(
        out,
        {
            "report": str(folder.report / "index.html"),
            "figure": str(folder.report / "figure1.png"),
            **places,
            "curves": link or command_line("ui", study.name, *folder_options(folder)),
            "again": command_line("report", study.name, *folder_options(folder)),
        },
    )


def folder_options(folder: StudyFolder) -> list[str]:
    """Return the options that a command needs to find the folder of runs."""
    return [] if folder.runs == runs_folder() else ["--runs", str(folder.runs)]


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME[:OPTIMIZER] …", help="Studies, or optimizers of studies.")
    ],
    optimizers: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Compare these optimizers of the studies named.")
    ] = None,
    runs: Runs = None,
    tracking_uri: Uri = None,
) -> None:
    """Put studies or optimizers side by side; all are compared with the first."""
    from study.analysis import comparison, stored_trials, tables

    found: dict[str, Any] = {}
    sides = []
    for name, optimizer in comparison.parse(names, optimizers):
        if name not in found:
            spec, folder, _ = find_study(name, runs, tracking_uri)
            state = folder.search_state()
            found[name] = tables.trial_table(stored_trials.read(spec, folder, state), spec, state)
        sides.append(comparison.Side(name, found[name], optimizer))
    display.show_comparison(out, comparison.compare(sides))


def export(
    name: NameArgument,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv, parquet or latex.")] = "csv",
    what: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="summary, trials, claims, untuned_claims or curves (every iteration of each).",
        ),
    ] = "summary",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="./NAME-WHAT.FORMAT")
    ] = None,
    runs: Runs = None,
    tracking_uri: Uri = None,
) -> None:
    """Write a study's tables or curves as a file for other programs."""
    from study.analysis import stored_trials, tables
    from study.report import export as exports
    from study.storage import journal_reader

    if form not in exports.SUFFIXES:
        refuse(f"--format {form}: no such format; choose {', '.join(exports.SUFFIXES)}")
    if what not in exports.WHATS:
        refuse(f"--what {what}: there is no such table; choose {', '.join(exports.WHATS)}")
    spec, folder, _ = find_study(name, runs, tracking_uri)
    state = folder.search_state()
    path = output or Path(f"{spec.name}-{what}.{exports.SUFFIXES[form]}")
    try:
        if what == "curves":
            trials = track(
                spec.trials(state), "curves", console=err, disable=not err.is_terminal, transient=True
            )
            rows = exports.write_curves(
                (journal_reader.read(folder.journal(trial), trial) for trial in trials), form, path
            )
        else:
            table = tables.trial_table(stored_trials.read(spec, folder, state), spec, state)
            if what == "summary":
                table = tables.summary_table(table)
            elif what == "claims":
                from study.analysis.claim_table import claim_table
                from study.analysis.claims import claims

                table = claim_table(claims(table, named=spec.named_baselines()))
            elif what == "untuned_claims":
                from study.analysis.untuned_claims import untuned_claim_table, untuned_claims

                table = untuned_claim_table(untuned_claims(table, spec.untuned))
            exports.write_table(table, what, form, path)
            rows = len(table)
    except (ValueError, OSError) as error:
        raise ConfigError([reason(error)]) from error
    out.print(f"{path}: {rows} rows", highlight=False, soft_wrap=True)
