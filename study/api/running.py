"""Runs a study from Python, as the command ``run`` does from the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.analysis.formatting import pluralize
from study.api import notebook
from study.config.loader import Study, Trial, load_study
from study.storage.object_store import ObjectStore
from study.storage.progress import Progress
from study.storage.study_folder import StudyFolder, runs_folder

if TYPE_CHECKING:
    from study.api.results import Results
    from study.execution.executor import Executor


def run(
    study: str | Path | Mapping[str, Any] | Study,
    *,
    runs: str | Path | None = None,
    data: str | Path | None = None,
    tracking: str | None = None,
    local: bool = False,
    address: str | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    checkpoints: str | None = None,
    shared_folder: bool | None = None,
    preflight: bool = True,
    report: bool = True,
    progress: bool | Callable[[Progress], None] = True,
) -> Results:
    """Run a study, or resume it, and return its results.

    A study that was interrupted resumes: finished trials are not trained again. In a notebook a bar shows the
    progress; elsewhere a line on stderr every ten seconds.

    ::

        results = study.run({
            "name": "first",
            "workloads": ["digits-logreg"],
            "optimizers": ["sgd", "sgd-sgd"],
            "alpha0": [0.001, 0.01, 0.1],
            "beta": 1e-3,
            "seeds": 3,
            "epochs": 10,
        })
        results.figure1()

    Args:
        study: A study file, a preset's name, a mapping with the keys of a study file, or a ``Study``.
        runs: The folder of runs. Default: ``HYPERGRAD_STUDY_RUNS``, or ``./runs``.
        data: The folder of the data sets. Default: ``HYPERGRAD_STUDY_DATA``, or a folder in the user's cache.
        tracking: MLflow's tracking URI. Default: ``MLFLOW_TRACKING_URI``, or SQLite in the folder of runs.
        local: Whether to train in this process, without Ray, one trial or pack after the other.
        address: The address of a running Ray cluster to train on, such as ``"auto"``. Default: start a Ray
            here.
        cpus: CPUs for the Ray that this call starts. Default: all that this process may use.
        gpus: GPUs for the Ray that this call starts. Default: all.
        checkpoints: URI of an object store to keep checkpoints in, such as ``"s3://bucket/folder"``. Default:
            the folder of runs keeps them.
        shared_folder: Whether all nodes of the cluster see the folder of runs, at the same path. Default:
            find out. Nodes that do not see it write through the node of this process.
        preflight: Whether to try one batch of every workload with every optimizer here first.
        report: Whether to write the report and store it with MLflow, as the command ``run`` does. Takes
            seconds.
        progress: Whether to show the progress; or a function to call with it once per second, from another
            thread.

    Returns:
        The results, even if trials failed: see ``Results.failures``.

    Raises:
        ConfigError: The study is not valid; the error has one line per problem.
        ValueError: Arguments contradict each other.
        WorkloadError, OptimizerError, SamplerError: A name or an argument in the study is wrong.
        DataError: Data are missing and cannot be downloaded.
        ExecutorError: Trials cannot be run as asked, or all workers are gone.
        BusyError: Another process runs this study.
        TrackingError: The tracker cannot be used.
        ObjectStoreError: The store at ``checkpoints`` cannot keep checkpoints.
        OSError: The study's folder cannot be written.
        KeyboardInterrupt: The user interrupted the run; run the study again to resume it.
    """
    spec = study if isinstance(study, Study) else load_study(study)
    given = {"address": address, "cpus": cpus, "gpus": gpus}
    if local and (wrong := [name for name, value in given.items() if value is not None]):
        raise ValueError(f"local=True trains in this process, without Ray; leave out {' and '.join(wrong)}")
    if address is not None and (wrong := [name for name in ("cpus", "gpus") if given[name] is not None]):
        raise ValueError(f"a running cluster sets its own CPUs and GPUs; leave out {' and '.join(wrong)}")
    folder = StudyFolder(runs_folder(None if runs is None else Path(runs)), spec.name)
    shown: notebook.Display = notebook.Silent() if progress is False else notebook.display()
    if callable(progress):
        shown = notebook.Calls(progress)
    from study.analysis import stored_trials
    from study.execution import planning

    pending = planning.pending_trials(spec, stored_trials.read_planned(spec, folder))
    executor = None
    if pending:
        executor = make_executor(
            spec, local=local, address=address, cpus=cpus, gpus=gpus, shared_folder=shared_folder
        )
    try:
        return _run(
            spec,
            folder,
            pending,
            executor,
            shown,
            data,
            tracking,
            checkpoints,
            preflight=preflight,
            report=report,
        )
    finally:
        if executor is not None:
            executor.shutdown()


def make_executor(
    study: Study,
    *,
    local: bool,
    address: str | None,
    cpus: int | None,
    gpus: int | None,
    shared_folder: bool | None = None,
) -> Executor:
    """Return the executor for a study: this process, a Ray of our own, or a Ray cluster.

    Args:
        study: The study.
        local: Whether to train in this process.
        address: Address of the Ray cluster; None for a Ray of our own.
        cpus: CPUs of a Ray of our own; None for all that this process may use.
        gpus: GPUs of a Ray of our own; None for all.
        shared_folder: Whether all nodes of a cluster see the study's folder. Default: ask every node.
    """
    if local:
        from study.execution.in_process import InProcessExecutor

        return InProcessExecutor()
    from study.execution.ray_backend.cluster import Connection
    from study.execution.ray_backend.executor import RayExecutor
    from study.execution.users_code import modules_to_send

    one_cpu_each = study.resources.cpus <= 1 and not study.resources.gpus
    modules = modules_to_send(study, Path.cwd()) if address else []
    connection = Connection(address, cpus, gpus, prestart=one_cpu_each, modules=modules)
    return RayExecutor(connection, shared_folder)


def _run(
    study: Study,
    folder: StudyFolder,
    pending: Sequence[Trial],
    executor: Executor | None,
    shown: notebook.Display,
    data: str | Path | None,
    uri: str | None,
    checkpoints: str | None,
    *,
    preflight: bool,
    report: bool,
) -> Results:
    from study import tracking
    from study.api.results import Results
    from study.execution import driver
    from study.report.lock import only_writer

    data_folder = None if data is None else Path(data)
    store = None if checkpoints is None else ObjectStore(checkpoints)
    driver.check(study, pending, executor, data_folder, store)
    folder.runs.mkdir(parents=True, exist_ok=True)
    uri = tracking.tracking_uri(uri, folder.runs)
    tracker = tracking.open_tracker(study, uri, folder, shown.say)
    tracker.check()
    ended = driver.run(
        study,
        folder,
        tracker,
        executor,
        data_folder=data_folder,
        checkpoints=store,
        preflight=preflight,
        on_progress=shown.progress,
        on_message=shown.say,
    )
    results = Results(study, folder)
    for failure in results.failures:
        where = f" ({failure.place})" if failure.place else ""
        shown.say(f"{pluralize(failure.trials, 'trial')} failed: {failure.cause}{where}")
    if ended.tracking_error:
        shown.say(f"MLflow does not have all results: {ended.tracking_error}")
    if report and ended.done:
        with only_writer(folder.report, shown.say):
            shown.say(f"report: {results.report()}")
            tracker.log_report(folder.report)
    return results
