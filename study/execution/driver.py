"""Runs a study from its first trial to its last, on any executor; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from study.analysis.formatting import join_names
from study.config.loader import Study, Trial
from study.execution import planning
from study.execution.executor import Capacity, Executor, ExecutorError
from study.execution.live_records import LiveRecords
from study.execution.publisher import RunPublisher, Uploader
from study.storage import journal, search_journal
from study.storage.driver_lock import DriverLock, DriverLockError
from study.storage.failures import Failure
from study.storage.object_store import ObjectStore
from study.storage.progress import OnProgress, Progress
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import Tracker, TrackingError

# A study with nothing left to train needs no torch, so the functions that train import their modules.

OnMessage = Callable[[str], None]
"""Called with a one-line status message."""


class BusyError(RuntimeError):
    """Another process runs the same study, or has taken it over."""


def check(
    study: Study,
    pending: Sequence[Trial],
    executor: Executor | None,
    data_folder: Path | None = None,
    checkpoints: ObjectStore | None = None,
) -> None:
    """Refuse what ``run`` would refuse, before anything is written.

    Args:
        study: the study.
        pending: its trials that are to be trained; see ``planning.pending_trials``.
        executor: what is to train it; None if nothing is to be trained.
        data_folder: of the data sets; None for the default.
        checkpoints: where in an object store to keep checkpoints; None for nowhere.

    Raises:
        ObjectStoreError: checkpoints cannot be kept there.
        WorkloadError, OptimizerError, SamplerError: a name or an argument in the study file is wrong.
        DataError: data are missing and cannot be downloaded.
        ExecutorError: no cluster answers, or it cannot hold one worker.
    """
    if pending and executor is not None:
        from study.execution import checks

        executor.check(study.resources)
        checks.check_names(study, pending)
        if executor.is_local:
            checks.check_data(study, pending, data_folder)
        if checkpoints is not None:
            checkpoints.check()


def run(
    study: Study,
    folder: StudyFolder,
    tracker: Tracker,
    executor: Executor | None,
    *,
    data_folder: Path | None = None,
    checkpoints: ObjectStore | None = None,
    preflight: bool = True,
    on_progress: OnProgress = lambda progress: None,
    on_message: OnMessage = lambda line: None,
) -> Progress:
    """Run what is left of ``study`` and publish everything; return how the study stands at the end.

    Trials that have ended in earlier runs are not trained again, and their published runs are completed where
    something is missing. Call ``check`` first.

    Args:
        study: the study.
        folder: its folder.
        tracker: where its runs are published.
        executor: what trains it. It is shut down as soon as there is nothing more to train. None if
            nothing is left to train.
        data_folder: of the data sets; None for the default.
        checkpoints: where in an object store to keep checkpoints; None keeps them in ``folder``.
        preflight: train one batch of every combination of workload and optimizer here, before the executor
            starts. Trials of those that fail are marked as failed, and the rest trains.
        on_progress: called once per second with the current progress.
        on_message: called with a one-line status message.

    Raises:
        BusyError: another process runs this study, or has taken it over from this one.
        ExecutorError: trials cannot be run as asked, or all workers are gone.
        WorkloadError, OptimizerError, SamplerError: a name or an argument in the study file is wrong.
        OSError: the study's folder cannot be written.
        KeyboardInterrupt: interrupted; all that the journals have is published.
    """
    if checkpoints is not None:
        checkpoints = checkpoints.of_study(study.name)
    with _only_driver(folder, on_message) as lock:
        folder.save_study(study)
        tracker.begin()
        live = LiveRecords(study, folder)
        publisher = RunPublisher(live, Uploader(tracker, lock.held), on_progress)
        try:
            _train(study, folder, executor, publisher, data_folder, checkpoints, preflight, on_message)
        finally:
            if executor is not None:
                executor.shutdown()
            publisher.stop()
            lock.check()
            progress = publisher.finish()
            completed = progress.done == progress.total
            progress = replace(progress, tracking_error=_close(tracker, completed) or progress.tracking_error)
        return progress


def _train(
    study: Study,
    folder: StudyFolder,
    executor: Executor | None,
    publisher: RunPublisher,
    data_folder: Path | None,
    checkpoints: ObjectStore | None,
    preflight: bool,
    on_message: OnMessage,
) -> None:
    """Train what is left: of a grid its trials, of a search its points and then the best of them."""
    _choose_best_points(study, folder)
    pending = _pending(study, folder)
    if not pending:
        return
    if executor is None:
        raise ExecutorError(f"trials of {study.name} were added meanwhile; run it again")
    from study.execution import checks

    failing: dict[str, Failure] = {}
    if preflight:
        failing = checks.try_one_batch(
            pending,
            data_folder,
            gpus=study.resources.gpus,
            is_local=executor.is_local,
            on_message=on_message,
        )
    _mark_failed(pending, failing, folder, study)
    if all(record.trial.kind in failing for record in pending):
        if study.search is not None:
            _search(study, folder, executor, 1, data_folder, checkpoints, failing, on_message)
        return
    for line in _failed_at_once(failing.values()):
        on_message(line)
    capacity = executor.wait(study.resources, folder)
    if capacity.note:
        on_message(capacity.note)
    if capacity.gpus and not study.resources.gpus:
        on_message(_unused_gpus(capacity))
    publisher.start(capacity.slots)
    if study.search is not None:
        _search(study, folder, executor, capacity.slots, data_folder, checkpoints, failing, on_message)
        _choose_best_points(study, folder)
    _train_known_trials(study, folder, executor, capacity.slots, data_folder, checkpoints, failing)


def _search(
    study: Study,
    folder: StudyFolder,
    executor: Executor,
    slots: int,
    data_folder: Path | None,
    checkpoints: ObjectStore | None,
    failing: Mapping[str, Failure],
    on_message: OnMessage,
) -> None:
    from study.execution.search import open_search
    from study.training.worker import WorkerOptions

    search = open_search(study, folder, slots)
    for kind, failure in failing.items():
        search.fail(kind, failure.traceback)
    if not search.is_over:
        executor.search(search, folder, WorkerOptions.of(study, data_folder, checkpoints))
        for workload in search.given_up:
            on_message(f"the search of {workload} stops: the first point of every optimizer failed alike")


def _train_known_trials(
    study: Study,
    folder: StudyFolder,
    executor: Executor,
    slots: int,
    data_folder: Path | None,
    checkpoints: ObjectStore | None,
    failing: Mapping[str, Failure],
) -> None:
    """Train the trials of a grid, or of the best points of a search."""
    from study.training import pack_limits
    from study.training.worker import WorkerOptions

    records = folder.records(study.trials(folder.search_state()))
    todo = [
        record.trial
        for record in records
        if not (record.is_complete or study.is_search_trial(record.trial) or record.trial.kind in failing)
    ]
    limit = pack_limits.planned_limit(study.pack, on_gpu=study.resources.gpus > 0)
    bundles = planning.plan(todo, slots, planning.measured_rates(records), limit).bundles
    if bundles:
        executor.train(bundles, folder, WorkerOptions.of(study, data_folder, checkpoints))


def _pending(study: Study, folder: StudyFolder) -> list[TrialRecord]:
    """Return the records of all trials to train, with stand-ins for those that a search has yet to find."""
    records = folder.planned_records(study)
    keys = {trial.key for trial in planning.pending_trials(study, records)}
    return [record for record in records if record.trial.key in keys]


def _mark_failed(
    pending: list[TrialRecord], failing: Mapping[str, Failure], folder: StudyFolder, study: Study
) -> None:
    """Note in the journals of trials that fail on one batch that they failed, so that ``status`` says why."""
    known = {trial.key for trial in study.trials(folder.search_state())}
    for record in pending:
        trial = record.trial
        if trial.kind in failing and trial.key in known and not study.is_search_trial(trial):
            journal.mark_failed(folder.journal(trial), trial, failing[trial.kind].traceback)


def _choose_best_points(study: Study, folder: StudyFolder) -> None:
    """Note the best points of arms that have been searched to the end, unless they are noted already."""
    if study.search is None:
        return
    from study.analysis import objective

    state = folder.search_state()
    for best in objective.best_points(study, state, folder.records(study.trials(state))):
        if (best.arm, best.number) not in state.chosen:
            search_journal.choose(folder.search_journal, best)


def _failed_at_once(failing: Iterable[Failure]) -> Iterator[str]:
    """Yield one line for each distinct cause."""
    hit: dict[str, list[str]] = {}
    for failure in failing:
        cause = failure.cause + (f" ({failure.place})" if failure.place else "")
        hit.setdefault(cause, []).append(f"{failure.workloads[0]} with {failure.optimizers[0]}")
    for cause, names in hit.items():
        yield f"not trained, as one batch fails: {join_names(names, 5)}: {cause}"


def _unused_gpus(capacity: Capacity) -> str:
    return (
        f"there are {capacity.gpus:g} GPUs, and the study asks for none: it trains on CPUs; "
        "for one GPU per trial write resources: {gpus: 1}"
    )


def _close(tracker: Tracker, completed: bool) -> str | None:
    try:
        tracker.close(completed=completed)
    except TrackingError as error:
        return str(error)
    return None


@contextmanager
def _only_driver(folder: StudyFolder, on_message: OnMessage) -> Iterator[DriverLock]:
    try:
        with DriverLock(folder.lock_file, on_message) as lock:
            yield lock
    except DriverLockError as error:
        raise BusyError(f"the study {folder.name!r} {error}") from error
