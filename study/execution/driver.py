"""Runs a study from its first trial to its last, on any executor, without printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from study.analysis import stored_trials
from study.analysis.formatting import join_names
from study.config.loader import Study, Trial
from study.execution import planning, speeds
from study.execution.executor import Capacity, Executor, ExecutorError
from study.execution.live_records import LiveRecords
from study.execution.publisher import RunPublisher, Uploader
from study.execution.run_clock import RunClock
from study.execution.time_estimate import chains_of
from study.storage import journal, search_journal
from study.storage.driver_lock import DriverLock, DriverLockError
from study.storage.failures import Failure
from study.storage.object_store import ObjectStore
from study.storage.progress import OnProgress, Progress
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import Tracker, TrackingError

if TYPE_CHECKING:
    from study.training.worker import WorkerOptions

# A study with nothing left to train needs no torch, so the functions that train import these modules.

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
    """Raise the errors that ``run`` would raise at its start, before anything is written.

    Args:
        study: The study.
        pending: Trials of the study that are to be trained; see ``planning.pending_trials``.
        executor: The executor that will train them; None if there are none.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        checkpoints: The object store that will keep the checkpoints. Default: the study's folder will.

    Raises:
        ObjectStoreError: The store cannot keep checkpoints.
        WorkloadError, OptimizerError, SamplerError: A name or an argument in the study file is wrong.
        DataError: Data are missing and cannot be downloaded.
        ExecutorError: No cluster answers, or it has no room for one worker.
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
    began: float | None = None,
    on_progress: OnProgress = lambda progress: None,
    on_message: OnMessage = lambda line: None,
) -> Progress:
    """Run or resume ``study`` and publish its results; return its progress at the end.

    Trials that ended in earlier runs do not train again, but the tracker gets those that it lacks. A run with
    a budget of time ends when the budget is used up, and a later run resumes the study. Call ``check`` first.

    Args:
        study: The study.
        folder: The study's folder.
        tracker: The tracker that gets the results.
        executor: The executor that trains the trials. It is shut down after the last one. None if no trial is
            left.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        checkpoints: The object store that keeps the checkpoints. Default: ``folder`` keeps them.
        preflight: Whether to train one batch of every combination of workload and optimizer here, before the
            executor starts. Trials of the combinations that fail are marked as failed, and the others train.
        began: When the program began, in Unix seconds; its budget of time counts from then. Default: now.
        on_progress: Called once per second with the current progress.
        on_message: Called with a one-line status message.

    Raises:
        BusyError: Another process runs this study, or has taken it over from this one.
        ExecutorError: Trials cannot be run as asked, or all workers are gone.
        WorkloadError, OptimizerError, SamplerError: A name or an argument in the study file is wrong.
        OSError: The study's folder cannot be written.
        KeyboardInterrupt: The user interrupted the run; everything in the journals is published.
    """
    if checkpoints is not None:
        checkpoints = checkpoints.of_study(study.name)
    with _only_driver(folder, on_message) as lock:
        folder.save_study(study)
        tracker.begin()
        live = LiveRecords(study, folder)
        known = speeds.load(speeds.home()) if executor is not None and executor.is_local else None
        began = time.time() if began is None else began
        clock = RunClock.of(study, len(live.all_records), known, began)
        publisher = RunPublisher(live, Uploader(tracker, lock.held), on_progress, clock.end_seconds)
        this_run = _Run(study, folder, executor, publisher, clock, data_folder, checkpoints, on_message)
        try:
            this_run.train(preflight=preflight)
            if this_run.has_trained:
                on_message("sending the last results to MLflow")
        finally:
            if executor is not None:
                executor.shutdown()
            publisher.stop()
            lock.check()
            progress = publisher.finish()
            completed = progress.done == progress.total
            progress = replace(
                progress,
                tracking_error=_close(tracker, completed) or progress.tracking_error,
                out_of_time=clock.is_time_up and progress.done + progress.failed < progress.total,
            )
        clock.learn(live)
        return progress


@dataclass
class _Run:
    """One run of a study while it trains. The fields are the arguments of ``run``."""

    study: Study
    folder: StudyFolder
    executor: Executor | None
    publisher: RunPublisher
    clock: RunClock
    data_folder: Path | None
    checkpoints: ObjectStore | None
    on_message: OnMessage
    failing: Mapping[str, Failure] = field(default_factory=dict)
    has_trained: bool = False

    def train(self, *, preflight: bool) -> None:
        """Train the missing trials of a grid; or the points of a search, and then the best of them."""
        study, folder, executor = self.study, self.folder, self.executor
        _choose_best_points(study, folder)
        pending = _pending(study, folder)
        if not pending:
            return
        if executor is None:
            raise ExecutorError(f"the study {study.name} got new trials meanwhile; run it again")
        if preflight:
            from study.execution import checks

            self.on_message("trying one batch of every workload with every optimizer")
            self.failing = checks.try_one_batch(
                pending,
                self.data_folder,
                gpus=study.resources.gpus,
                is_local=executor.is_local,
                on_message=self.on_message,
            )
        _mark_failed(pending, self.failing, folder, study)
        if all(record.trial.kind in self.failing for record in pending):
            if study.search is not None:
                self._search(executor, 1)
            return
        for line in _failed_at_once(self.failing.values()):
            self.on_message(line)
        if executor.is_starting:
            self.on_message("waiting for Ray")
        capacity = executor.wait(study.resources, folder)
        if capacity.note:
            self.on_message(capacity.note)
        if capacity.gpus and not study.resources.gpus:
            self.on_message(_unused_gpus(capacity))
        self.has_trained = True
        self.clock.ready(capacity.slots)
        self.publisher.start(capacity.slots)
        with self.clock.interrupting():
            if study.search is not None:
                self._search(executor, capacity.slots)
                _choose_best_points(study, folder)
            self._train_known_trials(executor, capacity.slots)

    def _search(self, executor: Executor, slots: int) -> None:
        from study.execution.search import open_search

        search = open_search(self.study, self.folder, slots, self.clock.stop_at)
        for kind, failure in self.failing.items():
            search.fail(kind, failure.traceback)
        if not search.is_over:
            executor.search(search, self.folder, self._options())
            self._note_points()
            for workload in search.given_up:
                self.on_message(
                    f"the search of {workload} stops, because the first point of every optimizer failed "
                    "in the same way"
                )

    def _note_points(self) -> None:
        """Tell the clock which trials trained together, in a search that lets all of them end."""
        from study.training import pack_limits

        study = self.study
        if study.search is None or study.scheduler is not None:
            return
        state = self.folder.search_state()
        limit = pack_limits.planned_limit(study.pack, on_gpu=study.resources.gpus > 0)
        for arm in study.arms():
            points = [arm.trials(point, study.search.seeds) for point in arm.points(state)]
            self.clock.expect(chains_of(points, limit))

    def _train_known_trials(self, executor: Executor, slots: int) -> None:
        """Train the trials of a grid, or of the best points of a search."""
        from study.training import pack_limits

        study = self.study
        records = stored_trials.read(study, self.folder)
        todo = [
            record.trial
            for record in records
            if not (
                record.is_complete or study.is_search_trial(record.trial) or record.trial.kind in self.failing
            )
        ]
        if not todo or self.clock.is_time_up:
            return
        limit = pack_limits.planned_limit(study.pack, on_gpu=study.resources.gpus > 0)
        rates = planning.measured_rates(records)
        planned = planning.plan(todo, slots, rates, limit)
        bundles = planned.bundles
        if study.search is None and not self.clock.has_time_for(chains_of(bundles, limit)):
            bundles = planning.in_waves(study, todo, slots, rates, limit)
        self.clock.expect(chains_of(bundles, limit))
        self.publisher.expect(bundles, self.clock.expected_seconds())
        executor.train(bundles, self.folder, self._options())

    def _options(self) -> WorkerOptions:
        from study.training.worker import WorkerOptions

        return WorkerOptions.of(self.study, self.data_folder, self.checkpoints, stop_at=self.clock.stop_at)


def _pending(study: Study, folder: StudyFolder) -> list[TrialRecord]:
    """Return the records of all trials to train, with stand-ins for those that a search has yet to choose."""
    records = stored_trials.read_planned(study, folder)
    keys = {trial.key for trial in planning.pending_trials(study, records)}
    return [record for record in records if record.trial.key in keys]


def _mark_failed(
    pending: list[TrialRecord], failing: Mapping[str, Failure], folder: StudyFolder, study: Study
) -> None:
    """Mark trials as failed whose combination fails on one batch, so that ``status`` can say why."""
    known = {trial.key for trial in study.trials(folder.search_state())}
    for record in pending:
        trial = record.trial
        if trial.kind in failing and trial.key in known and not study.is_search_trial(trial):
            journal.mark_failed(folder.journal(trial), trial, failing[trial.kind].traceback)


def _choose_best_points(study: Study, folder: StudyFolder) -> None:
    """Record the best points of arms whose search has ended, unless they are recorded already."""
    if study.search is None:
        return
    from study.analysis import objective

    state = folder.search_state()
    for best in objective.best_points(study, state, stored_trials.read(study, folder, state)):
        if (best.arm, best.number) not in state.chosen:
            search_journal.choose(folder.search_journal, best)


def _failed_at_once(failing: Iterable[Failure]) -> Iterator[str]:
    """Yield one line for each distinct cause."""
    hit: dict[str, list[str]] = {}
    for failure in failing:
        cause = failure.cause + (f" ({failure.place})" if failure.place else "")
        hit.setdefault(cause, []).append(f"{failure.workloads[0]} with {failure.optimizers[0]}")
    for cause, names in hit.items():
        yield f"not trained, because one batch fails: {join_names(names, 5)}: {cause}"


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
