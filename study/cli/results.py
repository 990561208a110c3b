"""The commands ``compare`` and ``export``: stored results of studies, side by side or as files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track

from study.cli.options import NameArgument, Runs, Uri, err, find_study, out, refuse
from study.config.loader import ConfigError


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
    """Put studies, or optimizers, side by side; the first is what the others are held against."""
    from study.analysis import comparison, tables
    from study.cli import display

    found: dict[str, Any] = {}
    sides = []
    for name, optimizer in comparison.parse(names, optimizers):
        if name not in found:
            spec, folder, _ = find_study(name, runs, tracking_uri)
            found[name] = tables.trial_table(folder.records(spec.trials()), spec)
        sides.append(comparison.Side(name, found[name], optimizer))
    display.show_comparison(out, comparison.compare(sides))


def export(
    name: NameArgument,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="csv, parquet or latex.")] = "csv",
    what: Annotated[
        str, typer.Option(metavar="WHAT", help="summary, trials, curves (every iteration of each) or claims.")
    ] = "summary",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write.", show_default="./NAME-WHAT.FORMAT")
    ] = None,
    runs: Runs = None,
    tracking_uri: Uri = None,
) -> None:
    """Write a study's tables or curves as a file for other programs."""
    from study.analysis import tables
    from study.report import export as exports
    from study.storage import journal

    if form not in exports.SUFFIXES:
        refuse(f"--format {form}: no such format; choose {', '.join(exports.SUFFIXES)}")
    if what not in exports.WHATS:
        refuse(f"--what {what}: there is no such table; choose {', '.join(exports.WHATS)}")
    spec, folder, _ = find_study(name, runs, tracking_uri)
    path = output or Path(f"{spec.name}-{what}.{exports.SUFFIXES[form]}")
    try:
        if what == "curves":
            trials = track(spec.trials(), "curves", console=err, disable=not err.is_terminal, transient=True)
            rows = exports.write_curves(
                (journal.read(folder.journal(trial), trial) for trial in trials), form, path
            )
        else:
            table = tables.trial_table(folder.records(spec.trials()), spec)
            if what == "summary":
                table = tables.summary_table(table)
            elif what == "claims":
                from study.analysis.claim_table import claim_table
                from study.analysis.claims import claims

                table = claim_table(claims(table))
            exports.write_table(table, what, form, path)
            rows = len(table)
    except (ValueError, OSError) as error:
        raise ConfigError([str(error)]) from error
    out.print(f"{path}: {rows} rows", highlight=False, soft_wrap=True)
