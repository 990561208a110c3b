"""The progress of a study, from its trials' records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.storage.records import TrialRecord
from study.storage.stored_records import STATUSES, columns_of, trials_of


@dataclass(frozen=True)
class ProgressRow:
    """The progress of one optimizer's trials on one workload. Counts are of trials.

    Medians are over the trials that have an epoch and have not diverged; None if there is none.
    """

    workload: str
    optimizer: str
    total: int
    done: int
    running: int
    diverged: int
    failed: int
    loss: float | None
    """Median over trials of the best validation loss so far."""
    alpha: float | None
    """Median over trials of the last α."""
    reached: int | None
    """Number of trials that reached the threshold; None if the study sets none."""
    iterations: float | None
    """Median of the iterations to the threshold over the trials that ended; infinite if most did not reach
    it, None if none has ended."""


@dataclass(frozen=True)
class Progress:
    """The progress of a study. Counts are of trials."""

    total: int
    finished: int
    diverged: int
    failed: int
    pruned: int
    running: int
    share: float
    """Share of the work that is done, 0 to 1."""
    seconds_left: float | None
    """Seconds until the run ends, with its report; None if unknown. See ``study.analysis.time_left``."""
    best: TrialRecord | None
    """The trial with the lowest validation loss so far; None if every loss is infinite or NaN."""
    workloads: int = 1
    """Number of workloads. Losses of different workloads are not comparable."""
    interrupted_ms: int | None = None
    """When an interrupted study last did something, in Unix milliseconds; None while a driver runs it."""
    tracking_error: str | None = None
    """Why the tracker lags behind; None if it does not."""
    last_ended_ms: int = 0
    """When a trial last ended, in Unix milliseconds; 0 if none has."""
    rows: tuple[ProgressRow, ...] = ()
    """A row per workload and optimizer, from ``study.analysis.progress_rows``."""
    phase: str = ""
    """Present activity of the run, as text for people; empty while trials train."""
    out_of_time: bool = False
    """Whether the run ended because its time was up."""

    @property
    def done(self) -> int:
        """Trials that need nothing more: finished, diverged, or pruned by a search."""
        return self.finished + self.diverged + self.pruned

    @property
    def best_val_loss(self) -> float | None:
        """The lowest validation loss so far; None if no loss is finite."""
        return None if self.best is None else self.best.best_val_loss


_DONE = ("finished", "diverged", "pruned")

OnProgress = Callable[[Progress], None]
"""Called with the current progress."""


def progress_of(records: Sequence[TrialRecord], elsewhere: Mapping[str, float] | None = None) -> Progress:
    """Return the progress of a study with these records.

    Args:
        records: Records, one per trial.
        elsewhere: Share done, 0 to 1, by key, of trials that run where their journals cannot be read.
            Default: there are none.
    """
    columns = columns_of(records)
    counts = dict(
        zip(STATUSES, np.bincount(columns["status"], minlength=len(STATUSES)).tolist(), strict=True)
    )
    done = np.isin(columns["status"], [STATUSES.index(status) for status in _DONE])
    shares = float(done.sum())
    for row in np.flatnonzero(~done).tolist():
        record = records[row]
        share = (elsewhere or {}).get(record.trial.key) if record.status == "pending" else None
        if share is not None:
            counts["pending"] -= 1
            counts["running"] += 1
        shares += record.progress if share is None else share
    losses = columns["best_val_loss"]
    kinds = {trial.kind: trial for trial in trials_of(records)}.values()
    return Progress(
        total=len(records),
        finished=counts["finished"],
        diverged=counts["diverged"],
        failed=counts["failed"],
        pruned=counts["pruned"],
        running=counts["running"],
        share=shares / max(1, len(records)),
        seconds_left=None,
        best=None if np.isnan(losses).all() else records[int(np.nanargmin(losses))],
        workloads=len({(trial.workload, str(trial.workload_args)) for trial in kinds}),
        last_ended_ms=int(columns["ended_ms"].max(initial=0)),
    )
