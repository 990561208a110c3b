"""What the curve of one trial says in numbers.

Works on stored records, so that a study is scored again without being run again. A threshold that was not
reached within the budget is censored, never a number: it is absent from a summary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np

from study.records import Array, TrialRecord

Outcome = Literal["reached", "not_reached", "diverged", "completed", "failed", "running", "pending"]

MEASURED: tuple[Outcome, ...] = ("reached", "not_reached", "diverged", "completed")
"""Outcomes of trials that ended; only these enter tables over seeds and comparisons."""

SUMMARIES = (
    "iterations_to_threshold",
    "best_val_loss",
    "best_val_accuracy",
    "final_train_loss",
    "final_val_loss",
    "alpha_min",
    "alpha_max",
    "alpha_final",
    "seconds",
    "iterations",
)
"""What :func:`summarise` returns, as far as it exists."""


def iterations_to_threshold(train_loss: Array, threshold: float) -> int | None:
    """Return the first iteration, from 1, whose minibatch training loss is ≤ ``threshold``.

    Args:
        train_loss: loss of every iteration, shape (iterations,). Non-finite losses reach nothing.
        threshold: compared in float64, as the report's code does.

    Returns:
        The iteration, or None: not reached so far.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    hits = np.flatnonzero(np.isfinite(loss) & (loss <= threshold))
    return int(hits[0]) + 1 if hits.size else None


def outcome(record: TrialRecord, threshold: float | None) -> Outcome:
    """Return how the trial stands; a trial that reached the threshold and then diverged has diverged."""
    if record.status != "finished":
        return record.status
    if threshold is None:
        return "completed"
    return "not_reached" if iterations_to_threshold(record.train_loss, threshold) is None else "reached"


def summarise(record: TrialRecord, threshold: float | None) -> dict[str, float]:
    """Return a trial's :data:`SUMMARIES`; what does not exist is absent, so every value is finite.

    ``final_train_loss`` is the mean over the last epoch's iterations, ``final_val_loss`` what was measured
    after it. A diverged trial has neither, but keeps its best values and its iterations to the threshold.
    """
    if not record.epochs:
        return {}
    summary: dict[str, float | None] = {
        "best_val_loss": min(_finite(epoch.val_loss for epoch in record.epochs), default=None),
        "best_val_accuracy": max(_finite(epoch.val_accuracy for epoch in record.epochs), default=None),
        "seconds": record.seconds,
        "iterations": record.iterations,
    }
    if threshold is not None:
        summary["iterations_to_threshold"] = iterations_to_threshold(record.train_loss, threshold)
    if record.status != "diverged":
        last = record.epochs[-1]
        summary |= {"final_train_loss": last.train_loss_epoch, "final_val_loss": last.val_loss}
    alpha = record.alpha[np.isfinite(record.alpha)]
    if alpha.size:
        summary |= {
            "alpha_min": float(alpha.min()),
            "alpha_max": float(alpha.max()),
            "alpha_final": float(alpha[-1]),
        }
    return {
        name: value for name in SUMMARIES if (value := summary.get(name)) is not None and math.isfinite(value)
    }


def _finite(values: Iterator[float]) -> Iterator[float]:
    return (float(value) for value in values if math.isfinite(value))
