"""The rows of the live view, counted by hand."""

import math

import numpy as np
import pytest

from study.analysis.progress_rows import RowMaker
from study.config.loader import Trial
from study.storage.records import EpochRecord, TrialRecord


def record(seed, status, losses=(), optimizer="sgd", workload="digits-logreg", alpha=0.1):
    """A trial with two iterations per epoch, whose minibatch and validation losses are ``losses``."""
    epochs = tuple(
        EpochRecord(number, 2 * number - 1, np.full(2, alpha), np.zeros(2), np.full(2, loss), loss, 0.5, 1.0)
        for number, loss in enumerate(losses, 1)
    )
    return TrialRecord(Trial(workload, optimizer, 0.1, 1e-3, seed=seed, epochs=3), status, epochs)


def rows(*records, threshold=0.3):
    return RowMaker(lambda trial: threshold).rows(records)


def test_a_row_per_workload_and_optimizer_in_the_order_of_the_study():
    found = rows(
        record(0, "pending"),
        record(0, "pending", optimizer="adam"),
        record(1, "pending"),
        record(0, "pending", workload="digits-mlp"),
    )
    names = [(row.workload, row.optimizer, row.total) for row in found]
    assert names == [("digits-logreg", "sgd", 2), ("digits-logreg", "adam", 1), ("digits-mlp", "sgd", 1)]
    assert [(row.loss, row.alpha, row.iterations, row.reached) for row in found] == [
        (None, None, None, 0)
    ] * 3


def test_counts_and_medians():
    (row,) = rows(
        record(0, "finished", (0.9, 0.2, 0.1), alpha=0.1),  # reaches 0.3 at iteration 3
        record(1, "finished", (0.9, 0.8, 0.25), alpha=0.3),  # at iteration 5
        record(2, "finished", (0.9, 0.8, 0.7), alpha=0.2),  # never
        record(3, "diverged", (0.01, math.nan)),
        record(4, "running", (0.5,), alpha=0.4),
        record(5, "failed"),
        record(6, "pending"),
    )
    assert (row.total, row.done, row.running, row.diverged, row.failed) == (7, 4, 1, 1, 1)
    assert row.loss == pytest.approx((0.25 + 0.5) / 2)  # of 0.1, 0.25, 0.7, 0.5
    assert row.alpha == pytest.approx(0.25)
    assert row.reached == 3  # one of them before it diverged, at iteration 1
    assert row.iterations == pytest.approx(4)  # of 1, 3, 5, never


def test_a_median_that_was_not_reached_is_infinite_and_one_without_threshold_unknown():
    trials = (record(0, "finished", (0.2,)), record(1, "finished", (0.9,)))
    assert math.isinf(rows(*trials)[0].iterations)
    (row,) = rows(*trials, threshold=None)
    assert (row.reached, row.iterations) == (None, None)


def test_a_record_that_grew_is_measured_again():
    maker = RowMaker(lambda trial: 0.3)
    assert maker.rows([record(0, "running", (0.9,))])[0].loss == 0.9
    assert maker.rows([record(0, "running", (0.9, 0.4))])[0].loss == 0.4
