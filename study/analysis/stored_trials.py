"""Reads the records of a study's trials and what was measured of them, without reading every journal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from study.analysis import metrics
from study.analysis.metrics import Outcome
from study.config.search_space import SearchState
from study.config.study import Study
from study.config.trial import Trial
from study.storage import summary_file
from study.storage.records import TrialRecord
from study.storage.stored_records import STATUSES, StoredRecords, trials_of
from study.storage.study_folder import StudyFolder
from study.storage.summary_file import Measures

MEASURES = Measures(metrics.SUMMARIES, metrics.summarise, (Path(str(metrics.__file__)),))


def read(study: Study, folder: StudyFolder, state: SearchState | None = None) -> StoredRecords:
    """Return the records of a study's trials, in its order. Their epochs are read when they are first used.

    Args:
        study: The study.
        folder: Its folder.
        state: What its search has found. Default: what the folder says.

    Raises:
        OSError: A journal cannot be read.
    """
    return _read(study, folder, folder.search_state() if state is None else state, ahead=False)


def read_planned(study: Study, folder: StudyFolder, state: SearchState | None = None) -> StoredRecords:
    """Return the records of a study's trials, and then empty ones for those that its search has yet to find.

    Args:
        study: See ``read``.
        folder: See ``read``.
        state: See ``read``.

    Raises:
        OSError: A journal cannot be read.
    """
    return _read(study, folder, folder.search_state() if state is None else state, ahead=True)


def outcomes(records: Sequence[TrialRecord], study: Study) -> list[Outcome]:
    """Return the outcome of each trial; see ``metrics.outcome``.

    Args:
        records: The records of the trials, with or without a summary.
        study: The study, whose thresholds count.
    """
    limits = thresholds(study, trials_of(records))
    if not is_measured(records, limits):
        return [metrics.outcome(record, limit) for record, limit in zip(records, limits, strict=True)]
    columns = records.columns
    names = np.array([*STATUSES, "completed", "reached", "not_reached"])
    codes = columns["status"].astype(np.int64)
    finished = codes == STATUSES.index("finished")
    timed = np.array([limit is not None for limit in limits])
    hit = ~np.isnan(columns["measured.iterations_to_threshold"])
    codes[finished] = len(STATUSES) + np.select([~timed, hit], [0, 1], 2)[finished]
    found: list[Outcome] = names[codes].tolist()
    return found


def is_measured(records: Sequence[TrialRecord], limits: Sequence[float | None]) -> TypeGuard[StoredRecords]:
    """Return whether the records have columns of measures, taken for these thresholds.

    Args:
        records: The records of trials.
        limits: The threshold of each trial; None for none.
    """
    return isinstance(records, StoredRecords) and records.is_measured_for(np.array(limits, dtype=np.float64))


def measured(records: Sequence[TrialRecord], study: Study) -> dict[str, NDArray[Any]]:
    """Return the columns ``outcome``, ``budget`` and ``metrics.SUMMARIES``, an entry per trial; NaN is none.

    Args:
        records: The records of the trials, with or without a summary.
        study: The study, whose thresholds count.
    """
    trials = trials_of(records)
    limits = thresholds(study, trials)
    if is_measured(records, limits):
        found = {name: records.columns[f"measured.{name}"] for name in metrics.SUMMARIES}
        lengths: list[int] = records.columns["epoch_length"].tolist()
    else:
        rows = [metrics.summarise(record, limit) for record, limit in zip(records, limits, strict=True)]
        found = {
            name: np.array([row.get(name, math.nan) for row in rows], dtype=np.float64)
            for name in metrics.SUMMARIES
        }
        lengths = [record.epoch_length for record in records]
    budgets = [
        trial.iterations if trial.epochs is None else trial.epochs * length or math.nan
        for trial, length in zip(trials, lengths, strict=True)
    ]
    outcome = np.array(outcomes(records, study), dtype=object)
    return {**found, "budget": np.array(budgets, dtype=np.float64), "outcome": outcome}


def thresholds(study: Study, trials: Sequence[Trial]) -> list[float | None]:
    """Return the threshold of each trial; None for none.

    Args:
        study: The study.
        trials: Its trials, in any order.
    """
    known: dict[tuple[str, str], float | None] = {}
    for trial in trials:
        if (use := (trial.workload, trial.optimizer)) not in known:
            known[use] = study.threshold(trial)
    return [known[trial.workload, trial.optimizer] for trial in trials]


def _read(study: Study, folder: StudyFolder, state: SearchState, *, ahead: bool) -> StoredRecords:
    trials = study.trials(state)
    further = study.placeholder_trials(state) if ahead else []
    limits = thresholds(study, trials)
    return summary_file.read_records(folder, trials, limits, MEASURES, further)
