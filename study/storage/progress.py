"""How a study stands, from its trials' records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from study.storage.records import TrialRecord


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


OnProgress = Callable[[Progress], None]
"""Called with the current progress."""


def progress_of(records: Sequence[TrialRecord], elsewhere: Mapping[str, float] | None = None) -> Progress:
    """Return how a study with these records stands.

    Args:
        records: one per trial.
        elsewhere: the share done, by key, of trials that run where their journals cannot be read.
    """
    counts: dict[str, int] = defaultdict(int)
    shares = []
    for record in records:
        share = (elsewhere or {}).get(record.trial.key) if record.status == "pending" else None
        counts[record.status if share is None else "running"] += 1
        shares.append(record.progress if share is None else share)
    measured = [(loss, record) for record in records if (loss := record.best_val_loss) is not None]
    return Progress(
        total=len(records),
        finished=counts["finished"],
        diverged=counts["diverged"],
        failed=counts["failed"],
        pruned=counts["pruned"],
        running=counts["running"],
        share=sum(shares) / max(1, len(records)),
        seconds_left=None,
        best=min(measured, key=lambda known: known[0])[1] if measured else None,
        workloads=len({(record.trial.workload, str(record.trial.workload_args)) for record in records}),
        last_ended_ms=max((record.ended_ms for record in records), default=0),
    )
