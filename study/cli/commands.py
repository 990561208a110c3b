"""The command line: parses arguments, calls the library, prints results. Each command is a few lines."""

from __future__ import annotations

import os
import signal
import sys
import webbrowser
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from study import __version__
from study.api.stored import find_run
from study.cli import completion, results
from study.cli.options import (
    Data,
    NameArgument,
    Runs,
    Uri,
    find_study,
    out,
    process_start,
    reason,
    refuse,
    say,
    waiting,
)
from study.cli.passwords import hide_password
from study.config import plugins
from study.config.loader import ConfigError, load_study, preset_names, preset_path
from study.storage.journal_reader import OtherTrialError
from study.storage.object_store import ObjectStore
from study.storage.study_folder import StudyFolder, runs_folder

# Modules that import torch, Ray or MLflow take seconds: each command imports those that it needs.

app = typer.Typer(
    help="Run studies of optimizers that learn their learning rate, and report them.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="A preset's name or a YAML file.", autocompletion=completion.studies
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting of the study, e.g. epochs=3, beta.adam=1e-6; an empty value removes it.",
    ),
]
Hours = Annotated[
    float | None,
    typer.Option(metavar="H", help="End after H hours, with a report; like budget in the study file."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"hypergrad-study {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


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
    settings: Settings = None,
    runs: Runs = None,
    data: Data = None,
    tracking_uri: Uri = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to train on, e.g. auto.", show_default="starts a Ray here"),
    ] = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs for the Ray that this command starts.")
    ] = None,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs for the Ray that this command starts.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Train in this process, without Ray, e.g. to debug.")
    ] = False,
    shared_folder: Annotated[
        bool | None,
        typer.Option(
            "--shared-folder/--no-shared-folder",
            help="Whether all nodes of the cluster see the folder of runs.",
            show_default="finds out; nodes that do not see it write through this one",
        ),
    ] = None,
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="Keep checkpoints in an object store, e.g. s3://bucket/folder.",
            show_default="in the folder of runs",
        ),
    ] = None,
    hours: Hours = None,
    preflight: Annotated[
        bool, typer.Option(help="First try one batch of every workload with every optimizer here.")
    ] = True,
    no_imports: Annotated[
        bool,
        typer.Option("--no-imports", help="Import no code that the study names; for files from strangers."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the trials and their cost, as plan does; run nothing.")
    ] = False,
) -> None:
    """Run a study, or resume it."""
    spec = load_study(study, _with_hours(settings, hours))
    if dry_run:
        from study.cli import planned

        planned.show(
            spec,
            StudyFolder(runs_folder(runs), spec.name),
            cpus=cpus,
            gpus=gpus or 0,
            imports=False,
            data_folder=data,
            tracking_uri=tracking_uri,
        )
        return
    if no_imports:
        os.environ[plugins.VARIABLE] = "1"
    from study.api.running import make_executor
    from study.cli import running

    running.check_options(local=local, address=address, cpus=cpus, gpus=gpus, shared_folder=shared_folder)
    folder = StudyFolder(runs_folder(runs), spec.name)
    make = partial(
        make_executor,
        spec,
        local=local,
        address=address,
        cpus=cpus,
        gpus=gpus,
        shared_folder=shared_folder,
    )
    options = running.RunOptions(
        data,
        tracking_uri,
        in_terminal=local,
        preflight=preflight,
        checkpoints=None if checkpoints is None else ObjectStore(checkpoints),
        began=process_start(),
    )
    sys.exit(running.run(spec, folder, make, options))


def _with_hours(settings: list[str] | None, hours: float | None) -> list[str]:
    return [*(settings or ()), *([] if hours is None else [f"budget={hours!r}"])]


@app.command()
def plan(
    study: StudyArgument,
    settings: Settings = None,
    runs: Runs = None,
    data: Data = None,
    tracking_uri: Uri = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs to plan for.", show_default="this machine's")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to plan for.")] = 0,
    hours: Hours = None,
    imports: Annotated[
        bool, typer.Option("--imports", help="Import the code that the study names, to check it.")
    ] = False,
) -> None:
    """Show which trials would run and what they cost; run nothing."""
    spec = load_study(study, _with_hours(settings, hours))
    with waiting("loading PyTorch and Optuna, to check the study"):
        from study.cli import planned
        from study.execution import checks  # noqa: F401
    folder = StudyFolder(runs_folder(runs), spec.name)
    planned.show(
        spec, folder, cpus=cpus, gpus=gpus, imports=imports, data_folder=data, tracking_uri=tracking_uri
    )


@app.command()
def presets(
    name: Annotated[str | None, typer.Argument(help="Print the file of this preset.")] = None,
) -> None:
    """List the presets, or print one as a start for a study file."""
    if name is None:
        for preset in preset_names():
            spec = load_study(preset)
            trials = len(spec.planned_trials())
            out.print(f"[bold]{preset}[/]  {spec.description} ({trials} trials)", soft_wrap=True)
        return
    load_study(name)
    sys.stdout.write(preset_path(name).read_text(encoding="utf-8"))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("my-study.yaml"),
) -> None:
    """Write a commented study file as a start for your own."""
    from study.cli import new_study

    new_study.write(file)


@app.command()
def status(
    name: NameArgument,
    runs: Runs = None,
    tracking_uri: Uri = None,
    tracebacks: Annotated[
        bool, typer.Option("--tracebacks", help="Print the whole traceback of each failure.")
    ] = False,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the run ends.")] = False,
) -> None:
    """Show the progress of a study, from its journals or from an MLflow server."""
    from study.cli import standings

    standings.show_status(name, runs, tracking_uri, tracebacks=tracebacks, as_json=as_json, watch=watch)


@app.command("list")
def list_studies(runs: Runs = None, as_json: Json = False) -> None:
    """Show the progress of all studies in the folder of runs."""
    from study.cli import standings

    standings.show_list(runs_folder(runs), as_json=as_json)


@app.command()
def report(
    name: NameArgument,
    runs: Runs = None,
    tracking_uri: Uri = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="Also draw the figures as PDF in a paper's column width.")
    ] = False,
) -> None:
    """Write figures, tables and an HTML page from stored results."""
    spec, folder, _ = find_study(name, runs, tracking_uri)
    from study import tracking

    uri = tracking.tracking_uri(tracking_uri, folder.runs)
    try:
        with waiting("loading MLflow and Matplotlib"):
            from study.report import builder  # noqa: F401

            tracker = tracking.open_tracker(spec, uri, folder, say)
        tracker.check()
        results.show(spec, folder, tracker, paper=paper)
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
        int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1, or the next free one; 0 takes any.")
    ] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Serve the MLflow UI and open it at the runs."""
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
