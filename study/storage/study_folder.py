"""The folder of a study, one of those in a folder of runs.

::

    runs/                     ``--runs``, HYPERGRAD_STUDY_RUNS, or ./runs
      mlflow.db, artifacts/     the embedded MLflow store, shared by the studies
      NAME/
        study.yaml              the study as it was last run, resolved
        driver.lease            the lock: who runs it, or ran it last
        trials/KEY.journal      one journal per trial
        summary.npz             summary of the journals of trials that have ended; created again if absent
        checkpoints/KEY.pt      the last checkpoint of a trial under way
        search/points.journal   the points that a search has asked for and chosen
        search/optuna.db        Optuna's storage, which its own tools open as well
        tune/                   Ray Tune's own state
        report/                 figures, tables, index.html
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from study.config.trial import Trial
from study.storage import journal_reader
from study.storage.records import TrialRecord

if TYPE_CHECKING:
    from study.config.search_space import SearchState
    from study.config.study import Study

RUNS_VARIABLE = "HYPERGRAD_STUDY_RUNS"


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study. It is created when something is first written into it.

    Args:
        runs: The folder of runs, an absolute path.
        name: The study's name.
    """

    runs: Path
    name: str

    @property
    def path(self) -> Path:
        """The study's own folder."""
        return self.runs / self.name

    @property
    def artifacts(self) -> Path:
        """Root of the artifacts of the embedded MLflow store."""
        return self.runs / "artifacts"

    @property
    def tune(self) -> Path:
        """Ray Tune's storage."""
        return self.path / "tune"

    @property
    def report(self) -> Path:
        """Figures, tables and the page."""
        return self.path / "report"

    @property
    def study_file(self) -> Path:
        """The study as it was last run."""
        return self.path / "study.yaml"

    @property
    def lock_file(self) -> Path:
        """The lock that names who runs the study, or ran it last."""
        return self.path / "driver.lease"

    @property
    def summary(self) -> Path:
        """Summary of the journals of trials that have ended; see ``study.storage.summary_file``."""
        return self.path / "summary.npz"

    @property
    def search_journal(self) -> Path:
        """The points that the study's search has asked for and chosen."""
        return self.path / "search" / "points.journal"

    @property
    def sampler_database(self) -> Path:
        """Optuna's storage."""
        return self.path / "search" / "optuna.db"

    def search_state(self) -> SearchState:
        """Return the state of the study's search."""
        from study.storage import search_journal  # needs pydantic, which a worker may lack

        return search_journal.read(self.search_journal)

    def journal(self, trial: Trial) -> Path:
        """Return the path of the journal of ``trial``."""
        return self.journal_of(trial.key)

    def journal_of(self, key: str) -> Path:
        """Return the path of the journal of the trial with a key."""
        return self.path / "trials" / f"{key}.journal"

    def checkpoint(self, trial: Trial) -> Path:
        """Return the path of the last checkpoint of ``trial``, which exists while the trial is under way."""
        return self.checkpoint_of(trial.key)

    def checkpoint_of(self, key: str) -> Path:
        """Return the path of the last checkpoint of the trial with a key."""
        return self.path / "checkpoints" / f"{key}.pt"

    def save_study(self, study: Study) -> None:
        """Write the resolved study, complete or not at all.

        Raises:
            OSError: The folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.study_file.with_suffix(".new")
        draft.write_text(study.to_yaml(), encoding="utf-8")
        draft.replace(self.study_file)

    def planned_records(self, study: Study) -> list[TrialRecord]:
        """Return the records of the trials of ``study``, and of those that its search has yet to choose."""
        state = self.search_state()
        return [*self.records(study.trials(state)), *map(TrialRecord, study.placeholder_trials(state))]

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return the records of ``trials``, in their order, from their journals."""
        return [journal_reader.read(self.journal(trial), trial) for trial in trials]

    def flush(self, *, wait: bool = False) -> None:
        """Do nothing: a journal on a disk keeps a line when it is appended."""


def runs_folder(option: Path | None = None) -> Path:
    """Return the absolute folder of runs: the option, HYPERGRAD_STUDY_RUNS, or ``./runs``."""
    return Path(option or os.environ.get(RUNS_VARIABLE) or "runs").expanduser().resolve()
