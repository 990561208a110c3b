"""How a study stands, from its trials' records."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from study.storage.records import TrialRecord


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
    """Estimated from the trials' speed so far; None before there is any."""
    best: TrialRecord | None
    """The trial with the lowest validation loss so far; None if every loss is infinite or NaN."""
    interrupted_ms: int | None = None
    """When a study that nobody runs was last heard of, in Unix milliseconds; None while somebody runs it."""
    tracking_error: str | None = None
    """Why the tracker lags behind, if it does."""

    @property
    def done(self) -> int:
        """Trials that need nothing more: finished, diverged, or pruned by a search."""
        return self.finished + self.diverged + self.pruned

    @property
    def best_val_loss(self) -> float | None:
        """The lowest validation loss so far."""
        return None if self.best is None else _best_val_loss(self.best)


OnProgress = Callable[[Progress], None]
"""Called with the current progress."""


def progress_of(
    records: Sequence[TrialRecord], slots: int = 1, elsewhere: Mapping[str, float] | None = None
) -> Progress:
    """Return how a study with these records stands.

    Args:
        records: one per trial.
        slots: how many trials run at a time, for the time left.
        elsewhere: the share done, by key, of trials that run where their journals cannot be read.
    """
    counts: dict[str, int] = defaultdict(int)
    shares = []
    for record in records:
        share = (elsewhere or {}).get(record.trial.key) if record.status == "pending" else None
        counts[record.status if share is None else "running"] += 1
        shares.append(record.progress if share is None else share)
    measured = [record for record in records if math.isfinite(_best_val_loss(record))]
    return Progress(
        total=len(records),
        finished=counts["finished"],
        diverged=counts["diverged"],
        failed=counts["failed"],
        pruned=counts["pruned"],
        running=counts["running"],
        share=sum(shares) / max(1, len(records)),
        seconds_left=_seconds_left(records, shares, slots),
        best=min(measured, key=_best_val_loss, default=None),
    )


def _seconds_left(records: Sequence[TrialRecord], shares: Sequence[float], slots: int) -> float | None:
    spent: dict[str, float] = defaultdict(float)
    done: dict[str, float] = defaultdict(float)
    left: dict[str, float] = defaultdict(float)
    for record, share in zip(records, shares, strict=True):
        workload = record.trial.workload
        spent[workload] += record.seconds
        if record.epochs and record.status != "diverged":
            done[workload] += record.progress
        if record.status != "failed":
            left[workload] += 1 - share
    if any(done[workload] == 0 for workload, share in left.items() if share):
        return None
    return sum(share * spent[workload] / done[workload] for workload, share in left.items() if share) / slots


def _best_val_loss(record: TrialRecord) -> float:
    """Return the smallest finite validation loss of a trial; ∞ if it has none."""
    losses = [epoch.val_loss for epoch in record.epochs if math.isfinite(epoch.val_loss)]
    return min(losses, default=math.inf)
