"""Scores a search point from its trials' records; lower is always better.

Each trial has a score, and a point the median over its search seeds:

- ``best_val_loss``, ``final_val_loss``, ``final_train_loss``: the metric; ``best_val_accuracy``: one minus
  it. A diverged trial scores ∞, even if it had good values before.
- ``iterations_to_threshold``: the share of the budget, up to 1. A trial that does not reach the threshold
  scores 1 + d / (1 + d), where d is how far the mean training loss of its last epoch is above the
  threshold: always worse than a trial that reaches it, the worse the farther away. A diverged trial scores 2.
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
"""The score of a diverged trial for a scheduler, which cannot compare infinities."""


@dataclass(frozen=True)
class PointScore:
    """The state and score of a search point."""

    point: Point
    state: Literal["open", "complete", "pruned", "failed"]
    """``open``: trials have yet to end. ``pruned``: a scheduler stopped it. ``failed``: a trial failed."""
    value: float | None = None
    """The score of a complete point; lower is better."""
    measured: float | None = None
    """The median of the objective itself of a complete point; ∞ if it falls among trials without a value."""
    epochs: tuple[float, ...] = ()
    """The score after each epoch of a complete or pruned point, for a scheduler."""


def score_point(
    arm: Arm, point: Point, records: Mapping[str, TrialRecord], threshold: float | None, *, prunes: bool
) -> PointScore:
    """Return the state and score of ``point``.

    Args:
        arm: The point's arm.
        point: A point of the arm.
        records: Records of trials, by key; a trial without a record has not begun.
        threshold: The threshold of the arm's trials.
        prunes: Whether a pruned trial settles a point. Without a scheduler the trial resumes instead.
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
    # A pruned trial whose journal lost its epochs has no score: it is to be trained again.
    if prunes and all(r.is_complete or (r.status == "pruned" and r.epochs) for r in trials):
        return PointScore(point, "pruned", epochs=_scores_by_epoch(name, trials))
    return PointScore(point, "open")


def best(scores: Sequence[PointScore]) -> PointScore | None:
    """Return the complete point with the lowest score, the first of equals; None if there is none."""
    complete = [score for score in scores if score.value is not None]
    return min(complete, key=lambda score: (score.value, score.point.number), default=None)


def epoch_value(objective: str, trials: Sequence[Sequence[EpochRecord]]) -> float:
    """Return the score that a scheduler compares after an epoch: the median over trials, always finite.

    For a validation metric it is the best value so far (for ``final_val_loss`` the last), for any other
    objective the mean training loss of the last epoch, which also replaces iterations to a threshold.

    Args:
        objective: One of ``study.config.search_section.OBJECTIVES``.
        trials: The epochs so far of each trial, at least one; a trial that has diverged may have fewer.
    """
    return float(np.median([_epoch_value(objective, epochs) for epochs in trials]))


@dataclass(frozen=True)
class ArmStanding:
    """The state of one arm of a search, for display."""

    arm: Arm
    scores: tuple[PointScore, ...]
    best: PointScore | None
    """The best point so far."""

    def count(self, state: str) -> int:
        """Return how many points are in ``state``."""
        return sum(score.state == state for score in self.scores)


def standings(study: Study, state: SearchState, records: Sequence[TrialRecord]) -> list[ArmStanding]:
    """Return the state of each arm of the study's search; empty for a grid.

    Args:
        study: The study.
        state: The state of its search.
        records: Records of its trials.
    """
    by_key = {record.trial.key: record for record in records}
    arms = []
    for arm in study.arms():
        threshold, prunes = study.threshold(arm.template), study.scheduler is not None
        scores = tuple(
            score_point(arm, point, by_key, threshold, prunes=prunes) for point in arm.points(state)
        )
        arms.append(ArmStanding(arm, scores, best(scores)))
    return arms


def _scores_by_epoch(objective: str, records: Sequence[TrialRecord]) -> tuple[float, ...]:
    longest = max(len(record.epochs) for record in records)
    epochs = [[record.epochs[:until] for record in records] for until in range(1, longest + 1)]
    return tuple(epoch_value(objective, known) for known in epochs)


def best_points(study: Study, state: SearchState, records: Sequence[TrialRecord]) -> list[Point]:
    """Return the best point of every arm whose points were all asked and settled.

    Args:
        study: The study.
        state: The state of its search.
        records: Records of its trials.
    """
    return [
        standing.best.point
        for standing in standings(study, state, records)
        if standing.best and len(standing.scores) == standing.arm.search.points and not standing.count("open")
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
