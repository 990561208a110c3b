"""The figures without tuning draw their tables' numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from study.analysis import untuned
from study.analysis.tables import trial_table
from study.config.loader import Study
from study.report.figures import loss_over_alpha0, untuned_profile
from study.report.figures.base import Evidence
from study.storage.records import EpochRecord, TrialRecord

INF = math.inf
TWO = {
    ("digits-logreg", "adam"): {0.1: 2, 0.01: 4},
    ("digits-logreg", "sgd"): {0.1: INF, 0.01: 3},
    ("digits-mlp", "adam"): {0.1: 10, 0.01: 20},
    ("digits-mlp", "sgd"): {0.1: 10.5, 0.01: 40},
}


def evidence(losses, default=None) -> Evidence:
    """A study with one seed; losses by workload and optimizer, and α₀."""
    alpha0 = list(next(iter(losses.values())))
    optimizers = [
        {"name": "adam"},
        {"name": "sgd"} | ({"default_alpha0": default} if default else {}),
    ]
    study = Study(
        name="made-up",
        workloads=list(dict.fromkeys(workload for workload, _ in losses)),
        optimizers=optimizers,
        alpha0=alpha0,
        iterations=1,
    )
    records = []
    for trial in study.trials():
        loss = losses[trial.workload, trial.optimizer][trial.alpha0]
        epoch = EpochRecord(1, 1, np.ones(1), np.zeros(1), np.ones(1), loss, 0.5, 1.0)
        status = "diverged" if loss == INF else "finished"
        records.append(TrialRecord(trial, status=status, epochs=(epoch,)))
    return Evidence(study, records, trial_table(records, study))


def steps(line) -> dict[float, float]:
    return {round(float(x), 6): float(y) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}


def test_the_profile_has_a_panel_for_every_kind_of_points():
    (drawn,) = untuned_profile.draw(evidence(TWO, default=0.01))
    every, default, tuned = drawn.figure.axes
    assert [panel.get_title().partition("\n")[0] for panel in drawn.figure.axes] == [
        "every α₀ on every workload",
        "one α₀ for all workloads",
        "the best α₀ of each workload",
    ]
    sgd, adam = every.lines[:2]  # in the order of legends
    assert steps(sgd) == {1.0: 0.0, 1.05: 0.25, 1.5: 0.5, 4.0: 0.75}
    assert steps(adam) == {1.0: 0.5, 2.0: 1.0, 4.0: 1.0}
    assert sgd.get_drawstyle() == "steps-post"
    assert steps(default.lines[0])[4.0] == 1.0
    assert steps(tuned.lines[1])[1.0] == 1.0
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts() if text.get_text().strip()] == [
        "SGD",
        "Adam",
    ]


def test_without_defaults_there_is_no_such_panel():
    (drawn,) = untuned_profile.draw(evidence(TWO))
    assert len(drawn.figure.axes) == 2
    assert "default" not in drawn.caption


def test_one_workload_or_one_alpha0_make_no_profile():
    one = {key: value for key, value in TWO.items() if key[0] == "digits-mlp"}
    assert list(untuned_profile.draw(evidence(one))) == []
    assert len(list(loss_over_alpha0.draw(evidence(one)))) == 1
    fixed = {key: {0.1: value[0.1]} for key, value in TWO.items()}
    assert list(untuned_profile.draw(evidence(fixed))) == []
    assert list(loss_over_alpha0.draw(evidence(fixed))) == []


def test_losses_are_drawn_over_alpha0_and_what_diverged_at_the_edge():
    (drawn,) = loss_over_alpha0.draw(evidence(TWO, default=0.01))
    logreg, mlp = (panel for panel in drawn.figure.axes if panel.get_visible())
    assert [logreg.get_title(), mlp.get_title()] == ["digits-logreg", "digits-mlp"]
    sgd, triangle, adam = logreg.lines[:3]
    np.testing.assert_allclose(adam.get_xydata(), [(0.01, 4), (0.1, 2)])
    top = 4 * 1.1
    np.testing.assert_allclose(sgd.get_xydata(), [(0.01, 3), (0.1, top)])
    np.testing.assert_allclose(triangle.get_xydata(), [(0.1, top)])
    assert triangle.get_marker() == "^"
    np.testing.assert_allclose(mlp.lines[0].get_xydata(), [(0.01, 40), (0.1, 10.5)])


def test_losses_far_above_the_best_are_at_the_edge_so_that_the_rest_can_be_told_apart():
    losses = {
        ("digits-mlp", "adam"): {0.1: 1.0, 0.01: 1e6},
        ("digits-mlp", "sgd"): {0.1: 2.0, 0.01: 3.0},
    }
    figure = loss_over_alpha0.losses_figure(untuned.losses(evidence(losses).trials), "made-up")
    panel = figure.axes[0]
    assert panel.get_ylim()[1] == pytest.approx(loss_over_alpha0.HIGHEST, rel=0.1)
