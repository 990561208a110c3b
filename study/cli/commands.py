"""The command line: parses arguments, calls the library, prints results. Each command is a few lines."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from functools import partial
from typing import Annotated

import typer

from study.analysis.progress_text import describe
from study.api.stored import find_run
from study.cli import display, results
from study.cli.options import (
    Data,
    NameArgument,
    Runs,
    Uri,
    err,
    find_study,
    out,
    reason,
    refuse,
    say,
)
from study.cli.passwords import hide_password
from study.config import plugins
from study.config.loader import ConfigError, load_study, preset_names, preset_path
from study.storage.failures import failures
from study.storage.journal import OtherTrialError
from study.storage.progress import progress_of
from study.storage.study_folder import StudyFolder, runs_folder

# Modules that import torch, Ray or MLflow take seconds: each command imports those that it needs.

app = typer.Typer(
    help="Run studies of optimizers that learn their learning rate, and report them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A preset's name or a YAML file.")]


def main() -> None:
    """Run the command line with the arguments in ``sys.argv``."""
    hide_password()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except ConfigError as error:
        refuse(*error.problems)
    except (OSError, OtherTrialError) as error:
        refuse(reason(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.command()
def run(
    study: StudyArgument,
    runs: Runs = None,
    data: Data = None,
    tracking_uri: Uri = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to train on, e.g. auto.", show_default="starts a Ray here"),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the Ray that is started here.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of the Ray that is started here.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Train in this process, without Ray, e.g. to debug.")
    ] = False,
    preflight: Annotated[
        bool, typer.Option(help="Train one batch of everything here before the start.")
    ] = True,
    no_imports: Annotated[
        bool,
        typer.Option("--no-imports", help="Import no code that the study names: for strangers' files."),
    ] = False,
) -> None:
    """Run a study, or what is left of it."""
    spec = load_study(study)
    if no_imports:
        os.environ[plugins.VARIABLE] = "1"
    from study.api.running import make_executor
    from study.cli import running

    running.check_options(local=local, address=address, cpus=cpus, gpus=gpus)
    folder = StudyFolder(runs_folder(runs), spec.name)
    make = partial(make_executor, spec, local=local, address=address, cpus=cpus, gpus=gpus)
    options = running.RunOptions(data, tracking_uri, in_terminal=local, preflight=preflight)
    sys.exit(running.run(spec, folder, make, options))


@app.command()
def plan(
    study: StudyArgument,
    runs: Runs = None,
    data: Data = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs to plan for.", show_default="this machine's")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to plan for.")] = 0,
    imports: Annotated[
        bool, typer.Option("--imports", help="Import the code that the study names, to check it.")
    ] = False,
) -> None:
    """Say what would run and what it would cost; run nothing."""
    from study.cli import planned

    spec = load_study(study)
    folder = StudyFolder(runs_folder(runs), spec.name)
    planned.show(spec, folder, cpus=cpus, gpus=gpus, imports=imports, data_folder=data)


@app.command()
def presets(name: Annotated[str | None, typer.Argument(help="Print this one's file.")] = None) -> None:
    """List the presets, or print one to start a study file from."""
    if name is None:
        for preset in preset_names():
            spec = load_study(preset)
            trials = len(spec.planned_trials())
            out.print(f"[bold]{preset}[/]  {spec.description} ({trials} trials)", soft_wrap=True)
        return
    load_study(name)
    sys.stdout.write(preset_path(name).read_text(encoding="utf-8"))


@app.command()
def status(
    name: NameArgument,
    runs: Runs = None,
    tracking_uri: Uri = None,
    tracebacks: Annotated[
        bool, typer.Option("--tracebacks", help="Print the whole traceback of each failure.")
    ] = False,
) -> None:
    """Say how a study stands, from its journals or from the MLflow server that has them."""
    spec, folder, elsewhere = find_study(name, runs, tracking_uri)
    records = folder.planned_records(spec)
    out.print(f"[bold]{spec.name}[/] in", end=" ")
    out.print(folder.path, markup=False, highlight=False, soft_wrap=True)
    stands = describe(progress_of(records, elsewhere=elsewhere))
    out.print(stands, markup=False, highlight=False, soft_wrap=True)
    for line in display.failure_lines(failures(records), tracebacks=tracebacks):
        err.print(line)
    if spec.search is not None:
        from study.analysis import objective

        display.show_search(out, spec, objective.standings(spec, folder.search_state(), records))


@app.command()
def report(name: NameArgument, runs: Runs = None, tracking_uri: Uri = None) -> None:
    """Draw the figures and write the tables and the page, from stored results."""
    spec, folder, _ = find_study(name, runs, tracking_uri)
    from study import tracking

    uri = tracking.tracking_uri(tracking_uri, folder.runs)
    try:
        tracker = tracking.open_tracker(spec, uri, folder, say)
        tracker.check()
        results.show(spec, folder, tracker)
    except tracking.TrackingError as error:
        refuse(str(error))


app.command()(results.compare)
app.command()(results.export)


@app.command()
def ui(
    name: Annotated[str | None, typer.Argument(help="The study to open.", show_default="all")] = None,
    runs: Runs = None,
    tracking_uri: Uri = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Serve the MLflow UI and open it where the runs are."""
    from study import tracking

    folder = runs_folder(runs)
    uri = tracking.tracking_uri(tracking_uri, folder)
    if name is not None:
        name = find_run(name, folder)[0].name
    try:
        with tracking.show(uri, name, port, say) as page:
            _open(page.url, browser)
            if page.served_here:
                out.print("Ctrl-C ends it.")
                signal.pause()
    except tracking.TrackingError as error:
        refuse(str(error))


def _open(url: str, browser: bool) -> None:
    out.print(url, highlight=False, soft_wrap=True)
    if browser:
        webbrowser.open(url)
