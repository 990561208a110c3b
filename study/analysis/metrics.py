"""What the curve of one trial says in numbers.

Works on stored records, so that a study is scored again without being run again. A threshold that was not
reached within the budget is censored, never a number: it is absent from a summary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.storage.records import Array, TrialRecord

Outcome = Literal["reached", "not_reached", "diverged", "completed", "pruned", "failed", "running", "pending"]

MEASURED: tuple[Outcome, ...] = ("reached", "not_reached", "diverged", "completed")
"""Outcomes of trials that ended; only these enter tables over seeds and comparisons.

A trial that a search stopped early ("pruned") did not end: whether it would have reached the threshold is
unknown, and it was stopped because it looked bad, so neither leaving it out nor calling it "not reached" is
fair. It is counted, and enters nothing else.
"""

SMOOTHING = 0.98
"""Decay of the moving average behind the smoothed measure: about 1 / (1 − 0.98) = 50 iterations."""

SUMMARIES = (
    "iterations_to_threshold",
    "smoothed_iterations_to_threshold",
    "epochs_to_val_threshold",
    "seconds_to_threshold",
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


def smoothed(train_loss: Array, decay: float = SMOOTHING) -> NDArray[np.float64]:
    """Return the bias-corrected exponential moving average of a curve, in float64, shape (iterations,).

    m_t = d m_{t−1} + (1 − d) loss_t with m_0 = 0, and m_t / (1 − d^t): the correction of Adam's moments
    (Kingma & Ba 2015, section 3). Not finite from the first loss on that is not.

    One decay for every trial, so that no choice is left once the curves are known. A minibatch loss crosses
    a threshold early by luck, and the sooner the noisier it is; the average takes most of that away. Its
    price is a lag, d / (1 − d) = 49 iterations on a curve that falls steadily: the same for every optimizer,
    it pulls ratios of two N towards 1 where N is not much larger. In its first iterations it averages few
    losses, so a threshold near the initial loss is crossed by luck here too.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    average = pd.Series(loss).ewm(alpha=1 - decay).mean().to_numpy(copy=True)
    unusable = ~np.isfinite(loss)
    if unusable.any():
        average[unusable.argmax() :] = np.nan  # pandas passes them over
    return average


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
    after it. A diverged trial has neither, but keeps its best values and its iterations to the threshold:
    a time to a target is over when the target is met (Dahl et al. 2023, AlgoPerf).

    ``smoothed_iterations_to_threshold`` is the first iteration whose :func:`smoothed` loss is ≤ the
    threshold. ``epochs_to_val_threshold`` is the first epoch whose validation loss is ≤ the same threshold:
    a study has no other, and one of its own per measure would be one more thing to choose afterwards. It is
    free of minibatch noise and coarse, whole epochs. A pruned trial has none of these: those pruned before
    the threshold are missing, and not by chance. ``seconds_to_threshold`` is the training time, without
    validation, up to ``iterations_to_threshold``; within an epoch every iteration is taken as equally long.
    """
    if not record.epochs:
        return {}
    summary: dict[str, float | None] = {
        "best_val_loss": min(_finite(epoch.val_loss for epoch in record.epochs), default=None),
        "best_val_accuracy": max(_finite(epoch.val_accuracy for epoch in record.epochs), default=None),
        "seconds": record.seconds,
        "iterations": record.iterations,
    }
    if threshold is not None and record.status != "pruned":
        hit = iterations_to_threshold(record.train_loss, threshold)
        summary |= {
            "iterations_to_threshold": hit,
            "smoothed_iterations_to_threshold": iterations_to_threshold(
                smoothed(record.train_loss), threshold
            ),
            "epochs_to_val_threshold": iterations_to_threshold(
                np.array([epoch.val_loss for epoch in record.epochs]), threshold
            ),
            "seconds_to_threshold": None if hit is None else _seconds_until(record, hit),
        }
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


def _seconds_until(record: TrialRecord, iteration: int) -> float:
    seconds = 0.0
    for epoch in record.epochs:
        seconds += epoch.seconds * min(max(iteration + 1 - epoch.first_iteration, 0) / epoch.iterations, 1.0)
    return seconds
