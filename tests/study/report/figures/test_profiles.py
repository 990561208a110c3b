"""The figures of shares draw their tables' numbers, as steps, with a panel per workload and threshold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from study.analysis import profiles
from study.analysis.tables import trial_table
from study.config.loader import Study
from study.report.figures import best_of_k, panels, performance, runtime, step_size
from study.storage.records import EpochRecord, TrialRecord


def make_trials(hits, **changes) -> pd.DataFrame:
    """Trials of 100 iterations that reach the threshold when ``hits`` says; None is never."""
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg", "digits-mlp"],
        "optimizers": ["adam", "adam-sgd"],
        "alpha0": [0.1, 0.01],
        "beta": 1e-4,
        "seeds": [0, 1],
        "epochs": 1,
        "threshold": 0.3,
    }
    study = Study.model_validate(settings | changes)
    records = []
    for trial in study.trials():
        loss = np.where(np.arange(1, 101) >= (hits(trial) or 101), 0.2, 2.0)
        epoch = EpochRecord(
            1, 1, np.full(100, trial.alpha0), np.zeros(100), loss, 0.1 / trial.alpha0, 0.5, 1.0
        )
        records.append(TrialRecord(trial, status="finished", epochs=(epoch,)))
    return trial_table(records, study)


def steps(line) -> dict[float, float]:
    """The values that a step line comes to, by where it does."""
    return dict(zip(line.get_xdata(), line.get_ydata(), strict=True))


def hits(trial):
    if trial.optimizer == "adam":
        return {0.1: 10, 0.01: None}[trial.alpha0]
    return {0.1: 20, 0.01: 50}[trial.alpha0]


def test_the_runtime_distribution_rises_at_each_hit_and_ends_below_one_if_some_never_get_there():
    trials = make_trials(hits)
    figure = runtime.runtime_figure(profiles.runtime_distribution(trials), trials, "made-up")
    assert [panel.get_title() for panel in figure.axes] == [
        "digits-logreg\ntraining loss ≤ 0.3",
        "digits-mlp\ntraining loss ≤ 0.3",
    ]
    adam, learned = figure.axes[0].lines
    assert steps(adam) == {8.0: 0.0, 10.0: 0.5, 100.0: 0.5}
    assert steps(learned) == {8.0: 0.0, 20.0: 0.5, 50.0: 1.0, 100.0: 1.0}
    assert adam.get_drawstyle() == "steps-post"


def test_the_step_size_profile_is_relative_to_its_own_best_above_and_to_all_below():
    trials = make_trials(hits, workloads=["digits-logreg"])
    profile = profiles.step_size_profile(trials)
    figure = step_size.profile_figure(profile, trials, "made-up")
    own, overall = figure.axes
    assert steps(own.lines[1])[2.5] == 1.0  # 50 is 2.5 times 20
    assert steps(overall.lines[1])[2.0] == 0.5  # 20 is twice adam's 10
    assert steps(overall.lines[1])[5.0] == 1.0


def test_best_of_k_has_a_row_per_measure_and_the_same_k_for_all():
    trials = make_trials(hits, workloads=["digits-logreg"], beta=[1e-3, 1e-4])
    best = profiles.best_of_k(trials)
    figure = best_of_k.best_of_k_figure(best, "made-up")
    timed, loss = figure.axes
    for line in (*timed.lines, *loss.lines):
        assert line.get_xdata().tolist() == [1, 2]  # adam has two points, though adam-sgd has four
    np.testing.assert_allclose(timed.lines[0].get_ydata(), [55, 10])  # mean of 10 and the budget; the best
    assert loss.get_ylabel() == "best validation loss"


def test_more_workloads_than_fit_side_by_side_go_on_below():
    workloads = [{"use": "digits-mlp", "width": width} for width in (8, 16, 32, 64, 128)]
    trials = make_trials(hits, workloads=workloads)
    figure = step_size.profile_figure(profiles.step_size_profile(trials), trials, "made-up")
    visible = [panel for panel in figure.axes if panel.get_visible()]
    assert len(visible) == 2 * 5
    assert len(figure.axes) == 4 * panels.COLUMNS
    assert figure.get_size_inches()[0] < 12
    profile = profiles.performance_profile(trials)
    drawn = performance.performance_figure(profile, "made-up")
    assert steps(drawn.axes[0].lines[0])[1.0] == pytest.approx(1.0)  # adam is the fastest on all five
