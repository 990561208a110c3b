"""What a point of a search is worth, told from the records of its trials. Smaller is better, always.

Each trial is worth something, and a point the median over its search seeds:

- ``best_val_loss``, ``final_val_loss``, ``final_train_loss``: the measure; ``best_val_accuracy``: one minus
  it. A trial that diverged is worth ∞, whatever it measured before.
- ``iterations_to_threshold``: its share of the budget, up to 1. A trial that does not get there is worth
  1 + d / (1 + d), where d is how far the mean training loss of its last epoch lies above the threshold:
  always worse than any that does, and less so the nearer it came. One that diverged is worth 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from study.analysis import metrics
from study.config.loader import Study
from study.config.search_space import Arm, Point, SearchState
from study.storage.records import EpochRecord, TrialRecord

HOPELESS = 1e30
"""What a trial that diverged is worth to a scheduler, which cannot compare infinities."""


@dataclass(frozen=True)
class PointScore:
    """How a point stands."""

    point: Point
    state: Literal["open", "complete", "pruned", "failed"]
    """``open``: trials have yet to end. ``pruned``: stopped early. ``failed``: a trial failed."""
    value: float | None = None
    """Of a complete point; smaller is better."""
    measured: float | None = None
    """Of a complete point: the median of the objective itself, ∞ where it falls among trials without."""
    epochs: tuple[float, ...] = ()
    """Of a complete or pruned point: what a scheduler is told after each epoch."""


def worth(
    arm: Arm, point: Point, records: Mapping[str, TrialRecord], threshold: float | None, *, prunes: bool
) -> PointScore:
    """Return how ``point`` stands.

    Args:
        arm: the point's arm.
        point: one of its points.
        records: of trials, by key; those that are not there have not begun.
        threshold: of the arm's trials.
        prunes: whether a pruned trial settles a point; without a scheduler it is trained on instead.
    """
    trials = [records.get(trial.key, TrialRecord(trial)) for trial in arm.trials(point, arm.search.seeds)]
    name = arm.search.objective
    if any(record.status == "failed" for record in trials):
        return PointScore(point, "failed")
    if all(record.is_complete for record in trials):
        value = float(np.median([_value(name, record, threshold) for record in trials]))
        return PointScore(
            point, "complete", value, _median(name, trials, threshold), _scores_by_epoch(name, trials)
        )
    if prunes and all(record.is_complete or record.status == "pruned" for record in trials):
        return PointScore(point, "pruned", epochs=_scores_by_epoch(name, trials))
    return PointScore(point, "open")


def best(worths: Sequence[PointScore]) -> PointScore | None:
    """Return the complete point of the smallest value, the first of equals; None if there is none."""
    complete = [worth for worth in worths if worth.value is not None]
    return min(complete, key=lambda worth: (worth.value, worth.point.number), default=None)


def epoch_value(objective: str, trials: Sequence[Sequence[EpochRecord]]) -> float:
    """Return what a scheduler compares after an epoch: the median over trials, smaller is better, finite.

    For a validation measure its best value so far (the last one for ``final_val_loss``), else the mean
    training loss of the last epoch, which also stands in for iterations to a threshold.

    Args:
        objective: one of ``study.config.sections.OBJECTIVES``.
        trials: the epochs so far of each trial, one at least; fewer of one that has diverged.
    """
    return float(np.median([_epoch_value(objective, epochs) for epochs in trials]))


@dataclass(frozen=True)
class ArmStanding:
    """How one arm of a search stands, for people."""

    arm: Arm
    worths: tuple[PointScore, ...]
    best: PointScore | None
    """The best point so far, as the records say."""

    def count(self, state: str) -> int:
        """How many points are in ``state``."""
        return sum(worth.state == state for worth in self.worths)


def standings(study: Study, state: SearchState, records: Sequence[TrialRecord]) -> list[ArmStanding]:
    """Return how each arm of the study's search stands; empty for a grid.

    Args:
        study: the study.
        state: what its search has found.
        records: of its trials.
    """
    by_key = {record.trial.key: record for record in records}
    arms = []
    for arm in study.arms():
        threshold, prunes = study.threshold(arm.template), study.scheduler is not None
        worths = tuple(worth(arm, point, by_key, threshold, prunes=prunes) for point in arm.points(state))
        arms.append(ArmStanding(arm, worths, best(worths)))
    return arms


def _scores_by_epoch(objective: str, records: Sequence[TrialRecord]) -> tuple[float, ...]:
    longest = max(len(record.epochs) for record in records)
    epochs = [[record.epochs[:until] for record in records] for until in range(1, longest + 1)]
    return tuple(epoch_value(objective, known) for known in epochs)


def best_points(study: Study, state: SearchState, records: Sequence[TrialRecord]) -> list[Point]:
    """Return the best point of every arm whose points are all asked and none of them open.

    Args:
        study: the study.
        state: what its search has found.
        records: of its trials.
    """
    return [
        standing.best.point
        for standing in standings(study, state, records)
        if standing.best and len(standing.worths) == standing.arm.search.points and not standing.count("open")
    ]


def _value(objective: str, record: TrialRecord, threshold: float | None) -> float:
    measured = metrics.summarise(record, threshold).get(objective)
    if objective != "iterations_to_threshold":
        if record.status == "diverged" or measured is None:
            return math.inf
        return 1 - measured if objective == "best_val_accuracy" else measured
    if record.status == "diverged" or record.budget is None or threshold is None:
        return 2.0
    if measured is not None:
        return measured / record.budget
    short = max(0.0, record.epochs[-1].train_loss_epoch - threshold)
    return 1 + short / (1 + short)


def _median(objective: str, records: Sequence[TrialRecord], threshold: float | None) -> float:
    nothing = -math.inf if objective == "best_val_accuracy" else math.inf
    found = [metrics.summarise(record, threshold).get(objective, nothing) for record in records]
    return float(np.median(found))


def _epoch_value(objective: str, epochs: Sequence[EpochRecord]) -> float:
    last = epochs[-1]
    if last.diverged:
        return HOPELESS
    match objective:
        case "best_val_loss":
            return min(epoch.val_loss for epoch in epochs)
        case "final_val_loss":
            return last.val_loss
        case "best_val_accuracy":
            return 1 - max(epoch.val_accuracy for epoch in epochs)
    return last.train_loss_epoch
