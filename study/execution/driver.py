"""Runs a study from its first trial to its report: what the command ``run`` does, without talking."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from study.analysis import objective
from study.config.loader import Study
from study.config.optimizer_name import is_dotted
from study.execution import planning, samplers, tune_search, tune_trials
from study.execution.publisher import RunPublisher
from study.execution.ray_cluster import Connection
from study.storage import search_journal
from study.storage.driver_lock import DriverLock, DriverLockError
from study.storage.progress import Progress, Watch
from study.storage.study_folder import StudyFolder
from study.tracking import Tracker, TrackingError
from study.training import optimizers, pack_limits
from study.training.worker import WorkerOptions
from study.workloads import datasets, registry


class BusyError(RuntimeError):
    """Another process runs the same study, or has taken it over."""


def run(
    study: Study,
    folder: StudyFolder,
    tracker: Tracker,
    connection: Connection,
    *,
    data_folder: Path | None = None,
    watch: Watch = lambda progress: None,
    say: Callable[[str], None] = lambda line: None,
) -> Progress:
    """Run what is left of ``study`` and keep everything in MLflow; return how it stands at the end.

    Trials that have ended, in this study's earlier runs, are not run again, and their MLflow runs are
    completed where something is missing.

    Args:
        study: what to run.
        folder: where its journals are.
        tracker: where its runs go.
        connection: whose Ray to run it on, which is left as soon as nothing more is to be run.
        data_folder: of the data sets; None for the default.
        watch: told how it stands, every second.
        say: told, in a line, what is waited for.

    Raises:
        BusyError: another process runs this study, or has taken it over from this one.
        ClusterError: Ray cannot be reached, or cannot hold one trial.
        WorkloadError, DataError, OptimizerError: a workload, its data or an optimizer cannot be had.
        SamplerError: a search's sampler cannot be made.
        KeyboardInterrupt: interrupted; all that the journals have is in MLflow.
    """
    with _alone(folder, say) as lease:
        _check(study, data_folder, here=connection.is_local)
        folder.save_study(study)
        tracker.begin()
        follower = RunPublisher(study, folder, tracker, watch, lease.held)
        options = WorkerOptions.of(study, data_folder)
        try:
            _choose(study, folder)
            if planning.pending_trials(study, folder.planned_records(study)):
                slots = connection.wait().slots(study.resources)
                follower.start(slots)
                if study.search is not None:
                    tune_search.search(study, folder, options, slots=slots)
                    _choose(study, folder)
                _train(study, folder, slots, options)
        finally:
            connection.shutdown()
            follower.stop()
            lease.check()
            progress = follower.finish()
            completed = progress.done == progress.total
            progress = replace(progress, tracking_error=_close(tracker, completed) or progress.tracking_error)
        return progress


def _train(study: Study, folder: StudyFolder, slots: int, options: WorkerOptions) -> None:
    """Train what is left of a grid, or of the best points of a search."""
    records = folder.records(study.trials(folder.search_state()))
    todo = [
        record.trial for record in records if not (record.is_complete or study.is_search_trial(record.trial))
    ]
    limit = pack_limits.planned_limit(study.pack, on_gpu=study.resources.gpus > 0)
    bundles = planning.plan(todo, slots, planning.measured_rates(records), limit).bundles
    if bundles:
        tune_trials.schedule(bundles, folder, options)


def _choose(study: Study, folder: StudyFolder) -> None:
    """Note the best points of what has been searched to the end, where they are not noted already."""
    state = folder.search_state()
    for best in objective.best_points(study, state, folder.records(study.trials(state))):
        if (best.arm, best.number) not in state.chosen:
            search_journal.choose(folder.search_journal, best)


def _close(tracker: Tracker, completed: bool) -> str | None:
    try:
        tracker.close(completed=completed)
    except TrackingError as error:
        return str(error)
    return None


@contextmanager
def _alone(folder: StudyFolder, say: Callable[[str], None]) -> Iterator[DriverLock]:
    try:
        with DriverLock(folder.lock_file, say) as lease:
            yield lease
    except DriverLockError as error:
        raise BusyError(f"the study {folder.name!r} {error}") from error


def _check(study: Study, data_folder: Path | None, *, here: bool) -> None:
    """Find what is missing before any trial starts; download and decode once, not once per worker."""
    checked = set()
    for arm in study.arms():
        samplers.ArmSampler(arm)
    for trial in study.planned_trials():
        if is_dotted(trial.optimizer) and (alike := replace(trial, workload="", seed=0)) not in checked:
            checked.add(alike)
            optimizers.check(trial)
    for name, args in {
        (trial.workload, tuple(trial.workload_args.items())) for trial in study.planned_trials()
    }:
        workload = registry.resolve(name, dict(args))
        if here:
            datasets.load(workload, data_folder, "cpu")
