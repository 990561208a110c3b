"""The folder of a study, one of those in a folder of runs.

::

    runs/                     ``--runs``, HYPERGRAD_STUDY_RUNS, or ./runs
      mlflow.db, artifacts/     the embedded MLflow store, shared by the studies
      NAME/
        study.yaml              the study as it was last run, resolved
        driver.lease            the lock: who runs it, or ran it last
        trials/KEY.journal      one journal per trial
        summary.npz             what journals of trials that have ended come to; made again when it is gone
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
from study.storage import journal
from study.storage.records import TrialRecord

if TYPE_CHECKING:
    from study.config.search_space import SearchState
    from study.config.study import Study

RUNS_VARIABLE = "HYPERGRAD_STUDY_RUNS"


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study. It is made when something is written into it.

    Args:
        runs: the folder of runs, absolute.
        name: the study's name.
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
        """What the journals of trials that have ended come to; see ``study.storage.summary_file``."""
        return self.path / "summary.npz"

    @property
    def search_journal(self) -> Path:
        """Which points the study's search has asked for."""
        return self.path / "search" / "points.journal"

    @property
    def sampler_database(self) -> Path:
        """Optuna's storage."""
        return self.path / "search" / "optuna.db"

    def search_state(self) -> SearchState:
        """Return what the study's search has found so far."""
        from study.storage import search_journal  # needs pydantic, which workers do without

        return search_journal.read(self.search_journal)

    def journal(self, trial: Trial) -> Path:
        """The journal of ``trial``."""
        return self.journal_of(trial.key)

    def journal_of(self, key: str) -> Path:
        """The journal of the trial with a key."""
        return self.path / "trials" / f"{key}.journal"

    def checkpoint(self, trial: Trial) -> Path:
        """The last checkpoint of ``trial``, while it is under way."""
        return self.checkpoint_of(trial.key)

    def checkpoint_of(self, key: str) -> Path:
        """The last checkpoint of the trial with a key."""
        return self.path / "checkpoints" / f"{key}.pt"

    def save_study(self, study: Study) -> None:
        """Write the resolved study, whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.study_file.with_suffix(".new")
        draft.write_text(study.to_yaml(), encoding="utf-8")
        draft.replace(self.study_file)

    def planned_records(self, study: Study) -> list[TrialRecord]:
        """Return the records of all that ``study`` comes to: its trials, and those its search has ahead."""
        state = self.search_state()
        return [*self.records(study.trials(state)), *map(TrialRecord, study.placeholder_trials(state))]

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return what the journals say of ``trials``, in their order."""
        return [journal.read(self.journal(trial), trial) for trial in trials]

    def flush(self) -> None:
        """Do nothing: a journal on a disk keeps a line when it is appended."""


def runs_folder(option: Path | None = None) -> Path:
    """Return the absolute folder of runs: the option, HYPERGRAD_STUDY_RUNS, or ``./runs``."""
    return Path(option or os.environ.get(RUNS_VARIABLE) or "runs").expanduser().resolve()
