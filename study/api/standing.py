"""Finds the state of a study: finished, running or interrupted, and the outcomes of its trials."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from study.analysis import stored_trials
from study.analysis.time_left import training_left
from study.config.loader import ConfigError, Study, load_study
from study.storage import driver_lock
from study.storage.failures import Failure, failures
from study.storage.progress import Progress, progress_of
from study.storage.records import TrialRecord
from study.storage.stored_records import columns_of, trials_of
from study.storage.study_folder import StudyFolder

State = Literal["finished", "running", "interrupted", "failed"]


@dataclass(frozen=True)
class Standing:
    """The state of a study.

    Args:
        study: The study.
        folder: The study's folder.
        state: ``"failed"`` if all trials have ended and some have failed; ``"interrupted"`` if some have not
            ended and no driver runs the study.
        progress: Counts of trials.
        driver: Description of the driver that runs the study; None if none is known.
        outcomes: The number of trials with each outcome, by workload and optimizer.
        failures: Why trials failed, each cause once.
    """

    study: Study
    folder: Path
    state: State
    progress: Progress
    driver: str | None
    outcomes: Mapping[tuple[str, str], Mapping[str, int]]
    failures: list[Failure] = field(default_factory=list)

    @property
    def interrupted_at(self) -> str | None:
        """When an interrupted study last did something, in ISO 8601 with UTC offset; otherwise None."""
        at = self.progress.interrupted_ms
        if at is None:
            return None
        return datetime.fromtimestamp(at / 1000, UTC).astimezone().isoformat(timespec="seconds")

    def to_json(self) -> dict[str, Any]:
        """Return the state as values for JSON."""
        best, progress = self.progress.best, self.progress
        counts = ("total", "done", "finished", "diverged", "failed", "pruned")
        return {
            "name": self.study.name,
            "description": self.study.description,
            "folder": str(self.folder),
            "state": self.state,
            "driver": self.driver,
            "interrupted_at": self.interrupted_at,
            **{name: getattr(progress, name) for name in counts},
            "running": progress.running if self.state == "running" else 0,
            "share": progress.share,
            "seconds_left": progress.seconds_left if self.state == "running" else None,
            "best_val_loss": progress.best_val_loss,
            "best_trial": None if best is None else f"{best.trial.workload} {best.trial.name}",
            "outcomes": [
                {"workload": workload, "optimizer": optimizer, **counts}
                for (workload, optimizer), counts in self.outcomes.items()
            ],
            "failures": [
                {"cause": each.cause, "place": each.place, "trials": each.trials} for each in self.failures
            ],
        }


def standing(study: Study, folder: StudyFolder, elsewhere: Mapping[str, float] | None = None) -> Standing:
    """Return the state of a study, from its journals and its lock file.

    Args:
        study: The study.
        folder: The study's folder.
        elsewhere: Share done, 0 to 1, by key, of trials that run where their journals cannot be read.
            Default: there are none.
    """
    records = stored_trials.read_planned(study, folder)
    progress = progress_of(records, elsewhere)
    driver = driver_lock.runner(folder.lock_file)
    state: State = "interrupted"
    if progress.done + progress.failed >= progress.total:
        state = "failed" if progress.failed else "finished"
    elif driver is not None or elsewhere:
        state = "running"
    if state == "running" and driver is not None:
        now = int(time.time() * 1000)
        progress = replace(progress, seconds_left=training_left(records, driver.since_ms, now))
    if state == "interrupted":
        progress = replace(progress, interrupted_ms=_last_heard_of(records, folder.lock_file))
    return Standing(
        study,
        folder.path,
        state,
        progress,
        None if driver is None else str(driver),
        _outcomes(study, records, state, elsewhere or {}),
        list(failures(records.having("failed"))),
    )


def all_standings(runs: Path) -> Iterator[Standing | str]:
    """Yield the state of each study in a folder of runs, by name; an error's line if it cannot be read."""
    for file in sorted(runs.glob("*/study.yaml")):
        folder = StudyFolder(runs, file.parent.name)
        try:
            yield standing(load_study(file), folder)
        except (ConfigError, OSError, ValueError) as error:
            yield f"{folder.name}: {str(error).splitlines()[0]}"


def _outcomes(
    study: Study, records: Sequence[TrialRecord], state: State, elsewhere: Mapping[str, float]
) -> dict[tuple[str, str], dict[str, int]]:
    """Count outcomes: a trial that runs counts as running, or as interrupted if no driver runs the study."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    ended: str
    for trial, ended in zip(trials_of(records), stored_trials.outcomes(records, study), strict=True):
        if ended == "pending" and trial.key in elsewhere:
            ended = "running"
        if ended == "running" and state == "interrupted":
            ended = "interrupted"
        counts.setdefault((trial.workload, trial.label), Counter())[ended] += 1
    return {name: {"total": count.total(), **count} for name, count in counts.items()}


def _last_heard_of(records: Sequence[TrialRecord], lock_file: Path) -> int | None:
    """Return when a trial last recorded something, or when the lock file changed, in Unix milliseconds."""
    columns = columns_of(records)
    if last := int(np.maximum(columns["last_ms"], columns["started_ms"]).max(initial=0)):
        return last
    return int(lock_file.stat().st_mtime * 1000) if lock_file.is_file() else None
