"""Computes the metrics of one trial from its stored record.

So a study can be scored again without another run. A threshold that was not reached within the budget is
censored, never a number: a summary leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.storage.records import Array, TrialRecord

Outcome = Literal["reached", "not_reached", "diverged", "completed", "pruned", "failed", "running", "pending"]

MEASURED: tuple[Outcome, ...] = ("reached", "not_reached", "diverged", "completed")
"""Outcomes of trials that ended; only these enter tables over seeds and comparisons.

A trial that a search stopped early ("pruned") did not end: nobody knows whether it would have reached the
threshold, and the search stopped it because it looked bad, so neither leaving it out nor calling it "not
reached" is fair. It is counted, and enters nothing else.
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
"""The metrics that ``summarise`` returns, those that exist."""


def iterations_to_threshold(train_loss: Array, threshold: float) -> int | None:
    """Return the first iteration, from 1, whose minibatch training loss is ≤ ``threshold``.

    Args:
        train_loss: The loss of every iteration, shape (iterations,); a non-finite one counts as not reached.
        threshold: The threshold, compared in float64, as the paper's code does.

    Returns:
        The iteration, or None if it is not reached so far.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    hits = np.flatnonzero(np.isfinite(loss) & (loss <= threshold))
    return int(hits[0]) + 1 if hits.size else None


def smoothed(train_loss: Array, decay: float = SMOOTHING) -> NDArray[np.float64]:
    """Return the bias-corrected exponential moving average of a curve, in float64, shape (iterations,).

    m_t = d m_{t−1} + (1 − d) loss_t with m_0 = 0, and m_t / (1 − d^t): the correction of Adam's moments
    (Kingma & Ba 2015, section 3, https://arxiv.org/abs/1412.6980). From the first loss that is not finite,
    the average is not finite either.

    Every trial has the same decay, so that nobody can choose it after seeing the curves. A minibatch loss may
    cross a threshold early by luck, the earlier the noisier it is; the average removes most of that. It lags
    by d / (1 − d) = 49 iterations on a curve that falls steadily. The lag is the same for every optimizer,
    and pulls the ratio of two N towards 1 if N is not much larger. In its first iterations the average covers
    few losses, so a threshold near the initial loss may be crossed by luck here too.

    Args:
        train_loss: The loss of every iteration, shape (iterations,).
        decay: The decay d, between 0 and 1.
    """
    import pandas as pd  # takes a quarter of a second, and many commands do not need it

    loss = np.asarray(train_loss, dtype=np.float64)
    average = pd.Series(loss).ewm(alpha=1 - decay).mean().to_numpy(copy=True)
    unusable = ~np.isfinite(loss)
    if unusable.any():
        average[unusable.argmax() :] = np.nan  # pandas skips them
    return average


def outcome(record: TrialRecord, threshold: float | None) -> Outcome:
    """Return a trial's outcome; a trial that reached the threshold and then diverged has diverged."""
    if record.status != "finished":
        return record.status
    if threshold is None:
        return "completed"
    kept = record.measures(threshold)
    if kept is not None:
        return "reached" if "iterations_to_threshold" in kept else "not_reached"
    return "not_reached" if iterations_to_threshold(record.train_loss, threshold) is None else "reached"


def summarise(record: TrialRecord, threshold: float | None) -> dict[str, float]:
    """Return a trial's ``SUMMARIES``; one that does not exist is left out, so every value is finite.

    ``final_train_loss`` is the mean over the last epoch's iterations, ``final_val_loss`` the validation loss
    after it. A diverged trial has neither, but keeps its best values and its iterations to the threshold: a
    time to a target ends when the target is met (Dahl et al. 2023, AlgoPerf,
    https://arxiv.org/abs/2306.07179).

    ``smoothed_iterations_to_threshold`` is the first iteration whose ``smoothed`` loss is ≤ the threshold.
    ``epochs_to_val_threshold`` is the first epoch whose validation loss is ≤ the same threshold: a study has
    no other, and a threshold for each measure would be one more thing to choose afterwards. It has no
    minibatch noise, but counts whole epochs. A pruned trial has none of these: trials that were pruned before
    the threshold are missing, and not by chance. ``seconds_to_threshold`` is the training time, without
    validation, up to ``iterations_to_threshold``; it assumes that an epoch's iterations take equally long.

    Args:
        record: The trial's record.
        threshold: Threshold of the training loss; None if the study sets none.
    """
    if (kept := record.measures(threshold)) is not None:
        return dict(kept)
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
