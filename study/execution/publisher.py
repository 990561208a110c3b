"""Follows the journals of a running study and publishes them to its tracker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from study.config.loader import Study, Trial
from study.config.search_space import SearchState
from study.storage.journal import JournalReader
from study.storage.progress import Progress, Watch, progress_of
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import Tracker, TrackingError

POLL_SECONDS = 1.0


TRACKING_RETRY_SECONDS = 10.0


LIVE_SHARE = 0.05
"""Of the driver's time, for sending what trials under way have so far; what ended is sent at once. The driver
shares its cores with them."""


class RunPublisher:
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
        self._kept = SearchState()
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
        study = self._folder.with_search_state(self._study)
        if study.found == self._study.found and self._trials:
            return
        self._study = study
        self._trials = study.trials()
        self._ahead = [TrialRecord(trial) for trial in study.placeholder_trials()]
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
                self._tracker.log_search(self._study)
                self._kept = self._study.found
            except TrackingError as error:
                self._error = str(error)
        live = time.monotonic() >= self._next_live
        spent = 0.0
        for key in [trial.key for trial in self._trials if trial.key in self._unsent]:
            record = self._poll(key)
            if self._error or key not in self._fresh or not (live or record.is_final):
                continue
            if not self._may_send():
                return
            begun = time.monotonic()
            try:
                if not self._tracker.is_complete(record):
                    self._tracker.publish(record)
            except TrackingError as error:
                self._error = str(error)
            else:
                self._fresh.discard(key)
                if record.is_complete:
                    self._unsent.discard(key)
            if not record.is_final:
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
