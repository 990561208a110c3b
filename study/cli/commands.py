"""The commands. Talks to the person; what is said here was worked out elsewhere."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import webbrowser
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from study.cli import display, results
from study.cli.options import NameArgument, Runs, Uri, err, find_run, out, say
from study.cli.options import find_study as _find_run
from study.cli.options import refuse as _refuse
from study.cli.passwords import hide_password
from study.config import plugins
from study.config.loader import ConfigError, Study, load_study, preset_names, preset_path
from study.storage.progress import progress_of
from study.storage.study_folder import StudyFolder, runs_folder
from study.training import pack_limits

if TYPE_CHECKING:
    from study.execution.ray_cluster import Connection
    from study.tracking import Tracker

# The modules that import torch, Ray or MLflow take seconds; each command imports what it needs.

app = typer.Typer(
    help="Studies of optimizers that learn their learning rate.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130

StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A preset's name or a YAML file.")]


def main() -> None:
    """Run the command line: the words of ``sys.argv``."""
    hide_password()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except ConfigError as error:
        _refuse(*error.problems)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@app.command()
def run(
    study: StudyArgument,
    runs: Runs = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data sets.", envvar="HYPERGRAD_STUDY_DATA")
    ] = None,
    tracking_uri: Uri = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use, e.g. auto.", show_default="a Ray of its own, here"),
    ] = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of a Ray of its own.")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of a Ray of its own.")] = None,
    no_imports: Annotated[
        bool, typer.Option("--no-imports", help="Import no code that the study names: for strangers' files.")
    ] = False,
) -> None:
    """Run a study, or what is left of it."""
    spec = load_study(study)
    if no_imports:
        os.environ[plugins.VARIABLE] = "1"
    folder = StudyFolder(runs_folder(runs), spec.name)
    from study.execution import planning
    from study.execution.ray_cluster import Connection

    a_cpu_each = spec.resources.cpus <= 1 and not spec.resources.gpus
    with Connection(address, cpus, gpus, ready=a_cpu_each) as connection:
        with suppress(OSError):  # what cannot be read is said where it is needed
            if planning.pending_trials(spec, folder.planned_records(spec)):
                connection.start()  # comes up while the rest is imported
        try:
            _run(spec, folder, connection, data, tracking_uri)
        except KeyboardInterrupt:
            if connection.is_starting:
                err.print("stopping, as soon as Ray has started")  # it cannot be stopped before
            raise


def _run(
    spec: Study, folder: StudyFolder, connection: Connection, data: Path | None, tracking_uri: str | None
) -> None:
    from study import tracking
    from study.execution import driver
    from study.execution.ray_cluster import ClusterError, LostClusterError
    from study.execution.samplers import SamplerError
    from study.training.optimizers import OptimizerError
    from study.workloads.datasets import DataError
    from study.workloads.registry import WorkloadError

    uri = tracking.tracking_uri(tracking_uri, folder.runs)
    again = _command(*sys.argv[1:])
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        tracker = tracking.open_tracker(spec, uri, folder, say)
        tracker.check()
        trials = f"[bold]{spec.name}[/]: {len(spec.planned_trials())} trials"
        out.print(f"{trials}; MLflow at {escape(tracker.location)}", soft_wrap=True)
        with display.watching(out) as watch:
            progress = driver.run(spec, folder, tracker, connection, data_folder=data, watch=watch, say=say)
        spec = folder.with_search_state(spec)
        _show_results(spec, folder, tracker)
    except LostClusterError as error:
        err.print(f"{error}; go on with: {again}")
        sys.exit(1)
    except (
        SamplerError,
        tracking.TrackingError,
        ClusterError,
        WorkloadError,
        OptimizerError,
        DataError,
        driver.BusyError,
        OSError,
    ) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        progress = progress_of(folder.planned_records(spec))
        err.print(f"\nstopped with {display.describe(progress)}\ngo on with: {again}")
        sys.exit(INTERRUPTED)
    if progress.tracking_error:
        err.print(f"MLflow did not take everything: {progress.tracking_error}; send the rest with: {again}")
    if progress.failed:
        _list_failures(spec, folder)
    if unfinished := progress.total - progress.done - progress.failed:
        err.print(f"{unfinished} trials did not end: their worker died too often; go on with: {again}")
    if progress.failed or unfinished or progress.tracking_error:
        sys.exit(1)


@app.command()
def plan(
    study: StudyArgument,
    runs: Runs = None,
    cpus: Annotated[
        int | None, typer.Option(min=1, help="CPUs to plan for.", show_default="this machine's")
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to plan for.")] = 0,
) -> None:
    """Say what would run and what it would cost; run nothing."""
    from study.execution import planning

    spec = load_study(study)
    folder = StudyFolder(runs_folder(runs), spec.name)
    records = folder.planned_records(spec)
    todo = planning.pending_trials(spec, records)
    needs = spec.resources
    have = ((cpus or len(os.sched_getaffinity(0)), needs.cpus), (gpus, needs.gpus))
    slots = min(int(count / need + 1e-9) for count, need in have if need > 0)
    rates = planning.measured_rates(records)
    limit = pack_limits.planned_limit(spec.pack, on_gpu=needs.gpus > 0)
    with plugins.disable_imports():
        planned = planning.plan(todo, max(1, slots), rates, limit)
        single = pack_limits.unpackable_reasons(todo) if spec.pack != 1 else {}
    single |= {
        name: "code of its own; whether it packs is seen when it runs" for name in single if ":" in name
    }
    if planned.seconds is not None:
        starts = planning.search_starts(folder.with_search_state(spec), max(1, slots), rates)
        planned = replace(planned, seconds=planned.seconds + starts)
    display.show_plan(out, spec, planned, done=len(records) - len(todo), slots=slots, single=single)


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
def status(name: NameArgument, runs: Runs = None, tracking_uri: Uri = None) -> None:
    """Say how a study stands, from its journals, or from its server if it runs or was run elsewhere."""
    spec, folder, elsewhere = _find_run(name, runs, tracking_uri)
    records = folder.planned_records(spec)
    progress = progress_of(records, elsewhere=elsewhere)
    out.print(f"[bold]{spec.name}[/] in {folder.path}")
    out.print(display.describe(progress), highlight=False, soft_wrap=True)
    if spec.search is not None:
        from study.analysis import objective

        display.show_search(out, spec, objective.standings(spec, records))
    if progress.failed:
        _list_failures(spec, folder)


@app.command()
def report(name: NameArgument, runs: Runs = None, tracking_uri: Uri = None) -> None:
    """Draw the figures and write the tables and the page, from stored results."""
    spec, folder, _ = _find_run(name, runs, tracking_uri)
    from study import tracking

    uri = tracking.tracking_uri(tracking_uri, folder.runs)
    try:
        tracker = tracking.open_tracker(spec, uri, folder, say)
        tracker.check()
        _show_results(spec, folder, tracker)
    except (tracking.TrackingError, ValueError, OSError) as error:
        _refuse(str(error))


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
        _refuse(str(error))


def _open(url: str, browser: bool) -> None:
    out.print(url, highlight=False, soft_wrap=True)
    if browser:
        webbrowser.open(url)


def _show_results(spec: Study, folder: StudyFolder, tracker: Tracker) -> None:
    """Print the table, write the report, keep it in MLflow, and say where everything is."""
    from study.analysis import tables
    from study.report import builder as reports

    records = folder.records(spec.trials())
    if spec.search is not None:
        from study.analysis import objective

        display.show_search(out, spec, objective.standings(spec, records))
    display.show_summary(out, tables.summary_table(tables.trial_table(records, spec)))
    reports.write_report(records, spec, folder.report, tracker)
    tracker.log_report(folder.report)
    display.show_next(
        out,
        {
            "report": str(folder.report / "index.html"),
            "figure": str(folder.report / "figure1.png"),
            "curves": tracker.study_link() or _command("ui", spec.name, *_where(folder)),
            "once more": _command("report", spec.name, *_where(folder)),
        },
    )


def _command(*words: str) -> str:
    """Return a command that can be pasted: the program as it was called, on PATH or not."""
    program = [sys.argv[0]]
    if Path(sys.argv[0]).name == "__main__.py":
        program = ["python", "-m", "study"]
    elif shutil.which(Path(sys.argv[0]).name) == sys.argv[0]:
        program = [Path(sys.argv[0]).name]
    return shlex.join([*program, *words])


def _where(folder: StudyFolder) -> list[str]:
    return [] if folder.runs == runs_folder() else ["--runs", str(folder.runs)]


def _list_failures(spec: Study, folder: StudyFolder) -> None:
    failed = [record for record in folder.records(spec.trials()) if record.status == "failed"]
    err.print(f"{len(failed)} trials failed:")
    for record in failed:
        reason = (record.error or "").strip().splitlines()[-1:]
        err.print(f"  {record.trial.workload} {record.trial.name}: {' '.join(reason)}")
