"""The command ``run`` after its options are parsed: its steps, and the lines that it prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.analysis import stored_trials
from study.analysis.formatting import pluralize
from study.analysis.progress_text import describe
from study.cli import display, progress, results
from study.cli.options import command_line, err, out, refuse, say
from study.config.loader import Study, Trial
from study.execution import planning, speeds
from study.execution.executor import Executor, ExecutorError, LostWorkersError
from study.storage.failures import failures
from study.storage.object_store import ObjectStore, ObjectStoreError
from study.storage.progress import Progress, progress_of
from study.storage.study_folder import StudyFolder

FAILED = 1
INTERRUPTED = 130


def check_options(
    *,
    local: bool,
    address: str | None,
    cpus: int | None,
    gpus: int | None,
    shared_folder: bool | None = None,
) -> None:
    """Exit with an error if options contradict each other.

    Args:
        local: Whether to train in this process.
        address: Address of the Ray cluster; None for a Ray of our own.
        cpus: CPUs for the Ray that the command starts; None if not given.
        gpus: GPUs for the Ray that the command starts; None if not given.
        shared_folder: Whether all nodes see the study's folder. Default: not given.
    """
    if local and shared_folder is not None:
        refuse(
            "--local trains in this process, without Ray; leave out --shared-folder and --no-shared-folder"
        )
    given = {"--address": address, "--cpus": cpus, "--gpus": gpus}
    if local and (wrong := [name for name, value in given.items() if value is not None]):
        refuse(f"--local trains in this process, without Ray; leave out {' and '.join(wrong)}")
    if address is not None and (wrong := [name for name in ("--cpus", "--gpus") if given[name] is not None]):
        refuse(f"{' and '.join(wrong)}: only for a Ray that this command starts; leave it out with --address")


@dataclass(frozen=True)
class RunOptions:
    """Options of a run.

    Args:
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        tracking_uri: MLflow's tracking URI. Default: see ``study.tracking.tracking_uri``.
        in_terminal: Whether the user's own code may use the terminal, as a debugger does.
        preflight: Whether to try one batch of every workload with every optimizer first.
        checkpoints: The object store that keeps the checkpoints. Default: the study's folder keeps them.
        began: When the program began, in Unix seconds. Default: when the run begins.
    """

    data_folder: Path | None = None
    tracking_uri: str | None = None
    in_terminal: bool = False
    preflight: bool = True
    checkpoints: ObjectStore | None = None
    began: float | None = None


def run(study: Study, folder: StudyFolder, make: Callable[[], Executor], options: RunOptions) -> int:
    """Run a study to its end and print the outcome; return the exit code.

    Args:
        study: The study.
        folder: The study's folder.
        make: Creates the executor, which takes seconds. Called only if there are trials to train.
        options: The options.
    """
    pending = planning.pending_trials(study, stored_trials.read_planned(study, folder))
    if not pending:
        say(f"{study.name}: all trials have ended; loading MLflow")
        return _run(study, folder, pending, None, options)
    packages = "PyTorch and MLflow" if options.in_terminal else "PyTorch, Ray and MLflow"
    say(f"{study.name}: {pluralize(len(pending), 'trial')} to run; loading {packages}")
    executor = make()
    try:
        return _run(study, folder, pending, executor, options)
    except KeyboardInterrupt:
        if executor.is_starting:
            err.print("stopping, as soon as Ray has started")  # it cannot be stopped before
        raise
    finally:
        executor.shutdown()


def _run(
    study: Study,
    folder: StudyFolder,
    pending: Sequence[Trial],
    executor: Executor | None,
    options: RunOptions,
) -> int:
    if executor is not None and planning.uses_own_code_only(study):
        try:
            executor.check(study.resources)
        except ExecutorError as error:
            refuse(str(error))
        executor.start()  # while this process imports the rest
    from study import tracking
    from study.execution import driver

    again = command_line(*sys.argv[1:])
    began = time.time() if options.began is None else options.began
    try:
        driver.check(study, pending, executor, options.data_folder, options.checkpoints)
        folder.runs.mkdir(parents=True, exist_ok=True)
        uri = tracking.tracking_uri(options.tracking_uri, folder.runs)
        tracker = tracking.open_tracker(study, uri, folder, say)
        tracker.check()
        say(f"{study.name}: {len(study.planned_trials())} trials; MLflow at {tracker.location}")
        with progress.watching(out, live=not options.in_terminal) as on_progress:
            ended = driver.run(
                study,
                folder,
                tracker,
                executor,
                data_folder=options.data_folder,
                checkpoints=options.checkpoints,
                preflight=options.preflight,
                began=began,
                on_progress=on_progress,
                on_message=say,
            )
        _show_failures(study, folder, ended, again, tracebacks=options.in_terminal)
        results.show(study, folder, tracker, again=False)
        if executor is not None and executor.is_local and ended.last_ended_ms > began * 1000:
            seconds = time.time() - ended.last_ended_ms / 1000
            speeds.learn_end(speeds.home(), ended.total, seconds)
        if ended.out_of_time:
            say(_out_of_time(study, ended))
    except LostWorkersError as error:
        err.print(f"{error}; resume with: {again}")
        return FAILED
    except _refused() as error:
        refuse(str(error))
    except KeyboardInterrupt:
        stopped = progress_of(stored_trials.read_planned(study, folder))
        err.print(f"\nstopped with {describe(stopped)}\nresume with: {again}")
        return INTERRUPTED
    missing = ended.failed if ended.out_of_time else ended.total - ended.done
    return FAILED if missing or ended.tracking_error else 0


def _out_of_time(study: Study, ended: Progress) -> str:
    """Return a line for a run whose time is up: how many trials are left, and how to resume."""
    assert study.budget is not None
    words = sys.argv[1:]
    left = pluralize(ended.total - ended.done - ended.failed, "trial")
    return (
        f"the {study.budget.hours:g} h of the budget are up; {left} of {ended.total} left; "
        f"resume with: {command_line(*words)}; without a limit: {command_line(*_without_budget(words))}"
    )


def _without_budget(words: Sequence[str]) -> list[str]:
    kept, skip = [], False
    for word in words:
        if not (skip or word == "--hours" or word.startswith("--hours=")):
            kept.append(word)
        skip = word == "--hours"
    return [*kept, "--set", "budget="]


def _refused() -> tuple[type[Exception], ...]:
    """Return the errors that the user can fix. A module that was not imported has raised none."""
    homes = {
        "study.execution.driver": "BusyError",
        "study.tracking": "TrackingError",
        "study.execution.samplers": "SamplerError",
        "study.training.optimizers": "OptimizerError",
        "study.workloads.datasets": "DataError",
        "study.workloads.registry": "WorkloadError",
    }
    known = (getattr(sys.modules[home], name) for home, name in homes.items() if home in sys.modules)
    return (ExecutorError, ObjectStoreError, *known)


def _show_failures(
    study: Study, folder: StudyFolder, ended: Progress, again: str, *, tracebacks: bool
) -> None:
    """Print what is missing and why, before any result."""
    records = stored_trials.read(study, folder)
    lines = display.failure_lines(failures(records.having("failed")), tracebacks=tracebacks)
    if ended.failed and not tracebacks:
        where = results.folder_options(folder)
        lines.append(f"tracebacks: {command_line('status', study.name, '--tracebacks', *where)}")
    lost = 0 if ended.out_of_time else len(records.having("pending", "running"))
    if lost:
        lines.append(f"{pluralize(lost, 'trial')} did not end: worker processes died too often")
    if not ended.out_of_time and (left := ended.total - len(records)):
        lines.append(f"{pluralize(left, 'trial')} of the search did not begin, because earlier points failed")
    if ended.tracking_error:
        lines.append(f"MLflow does not have all results: {ended.tracking_error}")
    if lines:
        lines.append(f"train the missing trials with: {again}")
    for line in lines:
        err.print(line)
