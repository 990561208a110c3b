"""Sums up a running study by workload and optimizer, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from study.analysis.metrics import iterations_to_threshold
from study.config.trial import Trial
from study.storage.progress import ProgressRow
from study.storage.records import TrialRecord


@dataclass(frozen=True)
class _Measured:
    """Measures of one trial that a row needs."""

    loss: float
    alpha: float
    hit: float | None


class RowMaker:
    """Computes rows repeatedly while a study runs; measures a record only if it has changed.

    Args:
        threshold: Returns a trial's threshold of the training loss; None if there is none.
    """

    def __init__(self, threshold: Callable[[Trial], float | None]) -> None:
        self._threshold = threshold
        self._known: dict[str, tuple[TrialRecord, _Measured]] = {}

    def rows(self, records: Sequence[TrialRecord]) -> tuple[ProgressRow, ...]:
        """Return a row per workload and optimizer, in the order of their first trials."""
        groups: dict[tuple[str, str], list[TrialRecord]] = {}
        for record in records:
            groups.setdefault((record.trial.workload, record.trial.label), []).append(record)
        return tuple(self._row(*names, members) for names, members in groups.items())

    def _row(self, workload: str, optimizer: str, records: Sequence[TrialRecord]) -> ProgressRow:
        counts = dict.fromkeys(("running", "diverged", "failed", "finished", "pruned"), 0)
        for record in records:
            counts[record.status] = counts.get(record.status, 0) + 1
        measured = [self._measured(r) for r in records if r.iterations and r.status != "diverged"]
        losses = [each.loss for each in measured if math.isfinite(each.loss)]
        alphas = [each.alpha for each in measured if math.isfinite(each.alpha)]
        timed = self._threshold(records[0].trial) is not None
        hits = [self._measured(r).hit if r.iterations else None for r in records if r.is_complete]
        return ProgressRow(
            workload=workload,
            optimizer=optimizer,
            total=len(records),
            done=counts["finished"] + counts["diverged"] + counts["pruned"],
            running=counts["running"],
            diverged=counts["diverged"],
            failed=counts["failed"],
            loss=median(losses) if losses else None,
            alpha=median(alphas) if alphas else None,
            reached=sum(hit is not None for hit in hits) if timed else None,
            iterations=_median_hit(hits) if timed and hits else None,
        )

    def _measured(self, record: TrialRecord) -> _Measured:
        known = self._known.get(record.trial.key)
        if known is None or known[0] is not record:
            known = self._known[record.trial.key] = record, self._measure(record)
        return known[1]

    def _measure(self, record: TrialRecord) -> _Measured:
        loss = math.nan if record.best_val_loss is None else record.best_val_loss
        threshold = self._threshold(record.trial)
        kept = record.measures(threshold)
        if kept is not None:
            return _Measured(loss, kept.get("alpha_final", math.nan), kept.get("iterations_to_threshold"))
        hit = None if threshold is None else _first_hit(record, threshold)
        return _Measured(loss, float(record.epochs[-1].alpha[-1]), hit)


def _first_hit(record: TrialRecord, threshold: float) -> int | None:
    for epoch in record.epochs:
        if (hit := iterations_to_threshold(epoch.train_loss, threshold)) is not None:
            return epoch.first_iteration + hit - 1
    return None


def _median_hit(hits: Sequence[float | None]) -> float:
    """Return the median, in which a trial that did not reach the threshold counts as infinite."""
    with np.errstate(invalid="ignore"):
        values = np.array([math.inf if hit is None else hit for hit in hits])
        middle = np.sort(values)[[(len(values) - 1) // 2, len(values) // 2]]
    return math.inf if np.isinf(middle).any() else float(middle.mean())
