"""What is printed while a study runs."""

import math

import numpy as np
import pytest

from study.analysis import progress_text
from study.config.loader import Trial
from study.storage.progress import progress_of
from study.storage.records import EpochRecord, TrialRecord


def record(seed, losses, status):
    """A trial with one iteration per epoch and these validation losses."""
    ones = np.ones(1)
    epochs = tuple(
        EpochRecord(number, number, ones, ones, ones, loss, 0.5, 1.0) for number, loss in enumerate(losses, 1)
    )
    return TrialRecord(Trial("digits-logreg", "sgd", 0.1, None, seed=seed, epochs=2), status, epochs)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_study_whose_every_trial_diverged_has_no_best_loss(loss):
    progress = progress_of([record(0, [loss], "diverged"), record(1, [loss, loss], "diverged")])
    assert progress_text.describe(progress) == "2/2 trials done, 2 diverged"


def test_the_best_loss_is_the_lowest_finite_one():
    progress = progress_of([record(0, [math.nan], "diverged"), record(1, [0.5, math.inf], "diverged")])
    assert "best validation loss 0.5 (digits-logreg sgd α₀=0.1 seed=1)" in progress_text.describe(progress)
    progress = progress_of([record(0, [0.75, 0.25], "finished"), record(1, [0.5], "running")])
    assert "best validation loss 0.25 (digits-logreg sgd α₀=0.1 seed=0)" in progress_text.describe(progress)
