"""How a study stands, from its trials' records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.storage.records import TrialRecord
from study.storage.stored_records import STATUSES, columns_of, trials_of


@dataclass(frozen=True)
class ProgressRow:
    """How the trials of one optimizer on one workload stand. Counts are of trials.

    Medians are over the trials with an epoch that have not diverged; None if there is none.
    """

    workload: str
    optimizer: str
    total: int
    done: int
    running: int
    diverged: int
    failed: int
    loss: float | None
    """Median of the best validation loss of each trial so far."""
    alpha: float | None
    """Median of the last α of each trial."""
    reached: int | None
    """Trials that reached the threshold; None if the study sets none."""
    iterations: float | None
    """Median of the iterations to the threshold over all that ended, infinite if most did not reach it; None
    if none has ended."""


@dataclass(frozen=True)
class Progress:
    """How a study stands. Counts are of trials."""

    total: int
    finished: int
    diverged: int
    failed: int
    pruned: int
    running: int
    share: float
    """Of the work, 0 to 1."""
    seconds_left: float | None
    """Until the run ends, with the report; None if it is not known yet. See ``study.analysis.time_left``."""
    best: TrialRecord | None
    """The trial with the lowest validation loss so far; None if every loss is infinite or NaN."""
    workloads: int = 1
    """How many workloads there are. Losses of several are not comparable."""
    interrupted_ms: int | None = None
    """When a study that nobody runs was last heard of, in Unix milliseconds; None while somebody runs it."""
    tracking_error: str | None = None
    """Why the tracker lags behind, if it does."""
    last_ended_ms: int = 0
    """When the last trial that has ended did so, in Unix milliseconds; 0 if none has."""
    rows: tuple[ProgressRow, ...] = ()
    """By workload and optimizer, as ``study.analysis.progress_rows`` computes them."""
    phase: str = ""
    """What the run does, or waits for; empty while trials train."""
    out_of_time: bool = False
    """Whether the run ended because its time was up."""

    @property
    def done(self) -> int:
        """Trials that need nothing more: finished, diverged, or pruned by a search."""
        return self.finished + self.diverged + self.pruned

    @property
    def best_val_loss(self) -> float | None:
        """The lowest validation loss so far."""
        return None if self.best is None else self.best.best_val_loss


_DONE = ("finished", "diverged", "pruned")

OnProgress = Callable[[Progress], None]
"""Called with the current progress."""


def progress_of(records: Sequence[TrialRecord], elsewhere: Mapping[str, float] | None = None) -> Progress:
    """Return how a study with these records stands.

    Args:
        records: one per trial.
        elsewhere: the share done, by key, of trials that run where their journals cannot be read.
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
