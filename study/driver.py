"""Runs a study from its first trial to its report: what the command ``run`` does, without talking."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from study import (
    objective,
    optimizers,
    packwork,
    planning,
    points,
    samplers,
    scheduling,
    searching,
    workloads,
)
from study.cluster import Connection
from study.folder import StudyFolder
from study.journal import JournalReader
from study.lease import Lease, LeaseError
from study.progress import Progress, Watch, progress_of
from study.records import TrialRecord
from study.search import Found
from study.spec import Study, Trial
from study.tracking import Tracker, TrackingError
from study.trial import is_dotted
from study.workloads import storage

POLL_SECONDS = 1.0
TRACKING_RETRY_SECONDS = 10.0
LIVE_SHARE = 0.05
"""Of the driver's time, for sending what trials under way have so far; what ended is sent at once. The driver
shares its cores with them."""


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
        folder.keep(study)
        tracker.begin()
        follower = Follower(study, folder, tracker, watch, lease.held)
        try:
            _choose(study, folder)
            if planning.left(study, folder.outline(study)):
                slots = connection.cluster().slots(study.resources)
                follower.start(slots)
                if study.search is not None:
                    searching.search(study, folder, slots=slots, data_folder=data_folder)
                    _choose(study, folder)
                _train(study, folder, slots, data_folder)
        finally:
            connection.leave()
            follower.stop()
            lease.check()
            progress = follower.finish()
            completed = progress.done == progress.total
            progress = replace(progress, tracking_error=_close(tracker, completed) or progress.tracking_error)
        return progress


def _train(study: Study, folder: StudyFolder, slots: int, data_folder: Path | None) -> None:
    """Train what is left of a grid, or of the best points of a search."""
    known = folder.so_far(study)
    records = folder.records(known.trials())
    todo = [record.trial for record in records if not (record.ended or known.searches(record.trial))]
    limit = packwork.planned_limit(study.pack, on_gpu=study.resources.gpus > 0)
    bundles = planning.plan(todo, slots, planning.measured_rates(records), limit).bundles
    if bundles:
        scheduling.schedule(
            bundles,
            folder,
            study.resources,
            data_folder=data_folder,
            retries=study.retries,
            checkpoint_seconds=study.checkpoint_seconds,
            pack=study.pack,
        )


def _choose(study: Study, folder: StudyFolder) -> None:
    """Note the best points of what has been searched to the end, where they are not noted already."""
    known = folder.so_far(study)
    for best in objective.best_points(known, folder.records(known.trials())):
        if (best.arm, best.number) not in known.found.chosen:
            points.choose(folder.points, best)


class Follower:
    """Reads the trials' journals as they grow, sends them to MLflow and tells ``watch`` how it goes.

    Works in a thread of its own from :meth:`start` to :meth:`finish`. When MLflow is away the journals keep
    everything, and it is tried again. Nothing is sent when ``may_send`` says no: another driver does it then.
    """

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        tracker: Tracker,
        watch: Watch,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._study = study
        self._folder = folder
        self._readers: dict[str, JournalReader] = {}
        self._unsent: set[str] = set()
        self._fresh: set[str] = set()
        self._next_live = 0.0
        self._trials: list[Trial] = []
        self._ahead: list[TrialRecord] = []
        self._tracker = tracker
        self._watch = watch
        self._may_send = may_send
        self._slots = 1
        self._from: tuple[float, float] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._error: str | None = None
        self._kept = Found()
        self._look_for_trials()

    def records(self) -> list[TrialRecord]:
        """What each trial's journal said when it was last read."""
        return [self._readers[trial.key].record for trial in self._trials]

    def start(self, slots: int) -> None:
        """Begin following; ``slots`` is how many trials run at a time."""
        self._slots = slots
        self._tell()
        self._thread.start()

    def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def finish(self) -> Progress:
        """Stop; then take in and send all that is there, and return how the study stands."""
        self.stop()
        self._next_live = 0.0
        self._advance()
        return self._tell()

    def _follow(self) -> None:
        while not self._stop.wait(TRACKING_RETRY_SECONDS if self._error else POLL_SECONDS):
            self._advance()
            self._tell()

    def _look_for_trials(self) -> None:
        """Take in trials that a search has found since."""
        study = self._folder.so_far(self._study)
        if study.found == self._study.found and self._trials:
            return
        self._study = study
        self._trials = study.trials()
        self._ahead = [TrialRecord(trial) for trial in study.ahead()]
        for trial in self._trials:
            if trial.key not in self._readers:
                self._readers[trial.key] = JournalReader(self._folder.journal(trial), trial)
                self._poll(trial.key)
                self._unsent.add(trial.key)

    def _poll(self, key: str) -> TrialRecord:
        reader = self._readers[key]
        if reader.poll():
            self._fresh.add(key)
        return reader.record

    def _advance(self) -> None:
        self._error = None
        self._look_for_trials()
        if self._study.found != self._kept:
            try:
                self._tracker.keep_search(self._study)
                self._kept = self._study.found
            except TrackingError as error:
                self._error = str(error)
        live = time.monotonic() >= self._next_live
        spent = 0.0
        for key in [trial.key for trial in self._trials if trial.key in self._unsent]:
            record = self._poll(key)
            if self._error or key not in self._fresh or not (live or record.closed):
                continue
            if not self._may_send():
                return
            begun = time.monotonic()
            try:
                if not self._tracker.is_complete(record):
                    self._tracker.replay(record)
            except TrackingError as error:
                self._error = str(error)
            else:
                self._fresh.discard(key)
                if record.ended:
                    self._unsent.discard(key)
            if not record.closed:
                spent += time.monotonic() - begun
        if live:
            self._next_live = time.monotonic() + spent * (1 / LIVE_SHARE - 1)

    def _tell(self) -> Progress:
        progress = progress_of([*self.records(), *self._ahead], self._slots)
        progress = replace(progress, tracking_error=self._error)
        if self._study.search is not None:
            progress = replace(progress, seconds_left=self._seconds_left(progress.share))
        self._watch(progress)
        return progress

    def _seconds_left(self, share: float) -> float | None:
        """By the clock: short trials cost less than what a search does between them."""
        now = time.monotonic()
        if self._from is None:
            self._from = now, share
        begun, before = self._from
        return (now - begun) * (1 - share) / (share - before) if share > before else None


def _close(tracker: Tracker, completed: bool) -> str | None:
    try:
        tracker.close(completed=completed)
    except TrackingError as error:
        return str(error)
    return None


@contextmanager
def _alone(folder: StudyFolder, say: Callable[[str], None]) -> Iterator[Lease]:
    try:
        with Lease(folder.lease, say) as lease:
            yield lease
    except LeaseError as error:
        raise BusyError(f"the study {folder.name!r} {error}") from error


def _check(study: Study, data_folder: Path | None, *, here: bool) -> None:
    """Find what is missing before any trial starts; download and decode once, not once per worker."""
    checked = set()
    for arm in study.arms():
        samplers.ArmSampler(arm)
    for trial in study.outline():
        if is_dotted(trial.optimizer) and (alike := replace(trial, workload="", seed=0)) not in checked:
            checked.add(alike)
            optimizers.check(trial)
    for name, args in {(trial.workload, tuple(trial.workload_args.items())) for trial in study.outline()}:
        workload = workloads.resolve(name, dict(args))
        if here:
            storage.load(workload, data_folder, "cpu")
