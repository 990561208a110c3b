"""Measures of one trial against hand-computed numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.analysis import metrics
from study.config.loader import Trial
from study.storage.records import EpochRecord, TrialRecord


def record(trial: Trial, losses, status="finished", val=(0.9, 0.8), alpha=None) -> TrialRecord:
    """A trial of epochs with the given minibatch losses, one list per epoch."""
    epochs, first = [], 1
    for number, (loss, val_loss) in enumerate(zip(losses, val, strict=False), start=1):
        alphas = np.full(len(loss), trial.alpha0) if alpha is None else np.array(alpha[number - 1])
        epochs.append(
            EpochRecord(
                number, first, alphas, np.zeros(len(loss)), np.array(loss), val_loss, 1 - val_loss, 1.5
            )
        )
        first += len(loss)
    return TrialRecord(trial, status=status, epochs=tuple(epochs))


TRIAL = Trial("digits-logreg", "adam-adam", 0.001, 1e-7, seed=0, epochs=2)


# iterations to threshold


@pytest.mark.parametrize(
    ("loss", "threshold", "expected"),
    [
        ([3.0, 2.0, 1.0], 2.0, 2),  # equal is reached
        ([3.0, 1.0, 5.0, 1.0], 1.5, 2),  # the first time counts, though it did not last
        ([0.1], 0.5, 1),  # iterations count from 1
        ([3.0, 2.0], 1.0, None),
        ([], 1.0, None),
        ([math.nan, 3.0, 0.2], 1.0, 3),
        ([math.nan, -math.inf, math.inf], 1.0, None),
    ],
)
def test_iterations_to_threshold(loss, threshold, expected):
    assert metrics.iterations_to_threshold(np.array(loss, dtype=np.float32), threshold) == expected


def test_the_threshold_is_not_rounded_to_the_losses_precision():
    # float32(0.1) is a little more than 0.1
    assert metrics.iterations_to_threshold(np.array([0.1], dtype=np.float32), 0.1) is None


@pytest.mark.parametrize("rate", [0.5, 0.01])
def test_exponential_decay_reaches_its_threshold_at_the_closed_form(rate):
    loss = 2.0 * np.exp(-rate * np.arange(1, 2001))
    assert metrics.iterations_to_threshold(loss, 0.3) == math.ceil(math.log(2.0 / 0.3) / rate)


@given(st.lists(st.floats(width=32), max_size=50), st.floats(-10, 10))
def test_a_hit_lies_within_the_curve_and_nothing_before_it_is_one(loss, threshold):
    hit = metrics.iterations_to_threshold(np.array(loss, dtype=np.float32), threshold)
    below = [
        index for index, value in enumerate(loss, start=1) if math.isfinite(value) and value <= threshold
    ]
    assert hit == (below[0] if below else None)
    assert hit is None or 1 <= hit <= len(loss)


# the smoothed measure


def ema(loss, decay):
    """The definition, step by step."""
    average, values = 0.0, []
    for step, value in enumerate(loss, start=1):
        average = decay * average + (1 - decay) * value
        values.append(average / (1 - decay**step))
    return values


@given(st.lists(st.floats(-100, 100), max_size=60), st.sampled_from([0.0, 0.5, 0.98]))
def test_smoothing_is_the_bias_corrected_average_of_its_definition(loss, decay):
    assert metrics.smoothed(np.array(loss), decay).tolist() == pytest.approx(ema(loss, decay), abs=1e-9)


def test_smoothing_has_its_closed_form_on_exponential_decay():
    r, d, t = 0.99, metrics.SMOOTHING, np.arange(1, 1001)
    closed = (1 - d) * r * (d**t - r**t) / (d - r) / (1 - d**t)
    assert metrics.smoothed(r**t) == pytest.approx(closed)


def test_smoothing_lags_by_49_iterations_on_a_curve_that_falls_steadily():
    t = np.arange(1, 3001)
    assert (metrics.smoothed(10 - 0.001 * t) - (10 - 0.001 * t))[-1] == pytest.approx(0.049)


def test_one_lucky_minibatch_is_not_enough_for_the_smoothed_measure():
    loss = np.full(400, 1.0)
    loss[100] = 0.0  # reaches 0.5 once, by luck
    loss[200:] = 0.2
    kept = record(TRIAL, [loss[:200], loss[200:]])
    summary = metrics.summarise(kept, 0.5)
    assert summary["iterations_to_threshold"] == 101
    # 1 − 0.8 (1 − d^k) ≤ 0.5, and the luck has decayed to less than one iteration's worth
    k = math.ceil(math.log(1 - 0.5 / 0.8) / math.log(metrics.SMOOTHING))
    assert summary["smoothed_iterations_to_threshold"] in (200 + k - 1, 200 + k)


def test_after_a_loss_that_is_not_finite_the_smoothed_measure_reaches_nothing():
    kept = record(TRIAL, [[4.0, math.nan], [0.1, 0.1]])
    assert metrics.summarise(kept, 0.5)["iterations_to_threshold"] == 3
    assert "smoothed_iterations_to_threshold" not in metrics.summarise(kept, 0.5)
    assert metrics.smoothed(np.array([])).tolist() == []


def test_the_smoothed_threshold_is_compared_in_float64():
    constant = np.full(3, 0.1, dtype=np.float32)  # a little more than 0.1, as is any average of it
    assert metrics.iterations_to_threshold(metrics.smoothed(constant), 0.1) is None
    assert metrics.iterations_to_threshold(metrics.smoothed(constant), float(np.float32(0.1)) + 1e-15) == 1


def test_validation_and_seconds_to_the_threshold():
    kept = record(TRIAL, [[4.0, 2.0, 2.0, 2.0], [1.0, 0.4]], val=(0.9, 0.5))  # 1.5 s per epoch
    summary = metrics.summarise(kept, 0.5)
    assert summary["epochs_to_val_threshold"] == 2
    assert summary["seconds_to_threshold"] == 3.0
    assert metrics.summarise(kept, 2.0)["seconds_to_threshold"] == pytest.approx(1.5 * 2 / 4)
    assert metrics.summarise(kept, 1.0)["seconds_to_threshold"] == pytest.approx(1.5 + 1.5 / 2)
    assert "epochs_to_val_threshold" not in metrics.summarise(kept, 0.4)


# summaries of one trial


def test_summary_of_a_finished_trial():
    kept = record(TRIAL, [[4.0, 2.0], [1.0, 0.4]], val=(0.6, 0.7), alpha=[[1e-3, 4e-3], [-1e-3, 2e-3]])
    assert metrics.summarise(kept, 0.5) == pytest.approx(
        {
            "iterations_to_threshold": 4,
            "seconds_to_threshold": 3.0,
            "best_val_loss": 0.6,
            "best_val_accuracy": 0.4,
            "final_train_loss": 0.7,
            "final_val_loss": 0.7,
            "alpha_min": -1e-3,
            "alpha_max": 4e-3,
            "alpha_final": 2e-3,
            "seconds": 3.0,
            "iterations": 4,
        }
    )
    assert metrics.outcome(kept, 0.5) == "reached"
    assert metrics.outcome(kept, 0.1) == "not_reached"
    assert "iterations_to_threshold" not in metrics.summarise(kept, 0.1)
    assert metrics.outcome(kept, None) == "completed"
    assert "iterations_to_threshold" not in metrics.summarise(kept, None)


def test_a_trial_that_reached_and_then_diverged_keeps_what_it_reached():
    kept = record(
        TRIAL, [[4.0, 0.5], [9.0, math.nan]], "diverged", val=(0.6, math.nan), alpha=[[1, 2], [3, math.inf]]
    )
    summary = metrics.summarise(kept, 0.5)
    assert metrics.outcome(kept, 0.5) == "diverged"
    assert summary["iterations_to_threshold"] == 2
    assert summary["best_val_loss"] == 0.6
    assert (summary["alpha_max"], summary["alpha_final"]) == (3, 3)
    assert not {"final_train_loss", "final_val_loss"} & set(summary)
    assert all(math.isfinite(value) for value in summary.values())


@pytest.mark.parametrize("status", ["pending", "running", "failed", "pruned"])
def test_a_trial_that_has_not_ended_is_not_called_not_reached(status):
    assert metrics.outcome(TrialRecord(TRIAL, status=status), 0.5) == status
    assert metrics.summarise(TrialRecord(TRIAL, status=status), 0.5) == {}
