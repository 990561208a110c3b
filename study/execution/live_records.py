"""The records of a study's trials while it runs, read from the growing journals."""

from __future__ import annotations

from contextlib import suppress

from study.analysis import stored_trials
from study.config.loader import Study
from study.config.search_space import NOTHING_FOUND
from study.storage.journal_reader import JournalReader
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder


class LiveRecords:
    """The records of all trials of a study, found or yet to be chosen by its search.

    Args:
        study: The study.
        folder: The study's folder.

    Attributes:
        study: The study.
        search_state: The state of its search when ``refresh`` was last called.
    """

    def __init__(self, study: Study, folder: StudyFolder) -> None:
        self.study = study
        self.search_state = NOTHING_FOUND
        self._folder = folder
        self._readers: dict[str, JournalReader] = {}
        self._complete: dict[str, TrialRecord] = {}
        self._keys: list[str] = []
        self._ahead: list[TrialRecord] = []
        self._changed: set[str] = set()
        # A study may have 100,000 trials from earlier runs, whose journals need not be read again.
        for record in stored_trials.read(study, folder):
            if record.is_complete:
                self._complete[record.trial.key] = record
                self._changed.add(record.trial.key)
        self.refresh()

    @property
    def records(self) -> list[TrialRecord]:
        """The records of all known trials, in the study's order."""
        return [self.record(key) for key in self._keys]

    @property
    def all_records(self) -> list[TrialRecord]:
        """The records of all known trials, and empty ones for those that a search has yet to choose."""
        return [*self.records, *self._ahead]

    def refresh(self) -> None:
        """Read what was added to journals, and the trials that a search has chosen since."""
        self._take_in_new_trials()
        for key in self._keys:
            reader = self._readers.get(key)
            # A journal that cannot be read now is read at the next call.
            with suppress(OSError):
                if reader is not None and not reader.record.is_complete and reader.poll():
                    self._changed.add(key)

    def take_changed(self) -> list[str]:
        """Return the keys of trials whose records changed since the last call, in the study's order."""
        changed = [key for key in self._keys if key in self._changed]
        self._changed.clear()
        return changed

    def record(self, key: str) -> TrialRecord:
        """Return the record of the trial with a key."""
        complete = self._complete.get(key)
        return self._readers[key].record if complete is None else complete

    def _take_in_new_trials(self) -> None:
        state = self._folder.search_state()
        if self._keys and state == self.search_state:
            return
        self.search_state = state
        trials = self.study.trials(state)
        for trial in trials:
            if trial.key not in self._readers and trial.key not in self._complete:
                self._readers[trial.key] = JournalReader(self._folder.journal(trial), trial)
        self._keys = [trial.key for trial in trials]
        self._ahead = [TrialRecord(trial) for trial in self.study.placeholder_trials(state)]
