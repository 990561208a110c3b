"""What is printed while a study runs."""

import io
import math

import numpy as np
import pytest
from rich.console import Console

from study.analysis import progress_text, tables
from study.cli import display
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


def test_of_many_rows_a_terminal_shows_the_best_of_each_optimizer(write_study, monkeypatch):
    monkeypatch.setattr(display, "MOST_ROWS", 5)
    study, _ = write_study(optimizers=["sgd", "adam"], alpha0=[0.1, 0.2, 0.3], epochs=1)
    losses = {0.1: 3.0, 0.2: 1.0, 0.3: 2.0}
    ones = np.ones(1)
    records = [
        TrialRecord(trial, "finished", (EpochRecord(1, 1, ones, ones, ones, losses[trial.alpha0], 0.5, 1.0),))
        for trial in study.trials()
    ]
    console = Console(width=200, file=io.StringIO())
    display.show_summary(console, tables.summary_table(tables.trial_table(records, study)))
    title, _, *rows = console.file.getvalue().splitlines()
    assert "at the α₀ and β of 6 in all with the lowest best val loss" in title
    assert [row.split()[:2] for row in rows] == [["sgd", "0.2"], ["adam", "0.2"]]
