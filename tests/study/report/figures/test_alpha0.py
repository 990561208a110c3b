"""The figure over α₀ shows medians and their intervals, and keeps what was not reached apart."""

from __future__ import annotations

import numpy as np
import pytest

from study.analysis.tables import trial_table
from study.config.loader import Study
from study.report.figures import style
from study.report.figures.alpha0 import alpha0_figure, has_alpha0_figure
from study.storage.records import EpochRecord, TrialRecord


def make_study(**changes) -> Study:
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam"],
        "alpha0": [0.01, 0.001, 0.1],
        "beta": 1e-4,
        "seeds": [0, 1, 2],
        "epochs": 1,
        "threshold": 0.3,
    }
    return Study.model_validate(settings | changes)


def table(study: Study, hits, diverged=()):
    """Trials of 100 iterations; the loss is 0.2 + seed / 100 from the given iteration on, or always 2."""
    records = []
    for trial in study.trials():
        hit = hits(trial) if callable(hits) else hits[trial.alpha0, trial.seed]
        loss = np.where(np.arange(1, 101) >= (hit or 101), 0.2 + trial.seed / 100, 2.0)
        status, val = "finished", 1.0
        if (trial.alpha0, trial.seed) in diverged:
            loss, status, val = np.array([2.0, np.nan]), "diverged", np.nan
        alpha = np.full(len(loss), trial.alpha0)
        epoch = EpochRecord(1, 1, alpha, np.zeros(len(loss)), loss, val, 0.5, 1.0)
        records.append(TrialRecord(trial, status=status, epochs=(epoch,)))
    return trial_table(records, study)


def test_points_are_medians_bars_their_intervals_and_censored_ones_are_apart():
    hits = {(0.001, 0): None, (0.001, 1): None, (0.001, 2): 80}
    hits |= {(0.01, 0): 40, (0.01, 1): None, (0.01, 2): 60}
    hits |= {(0.1, 0): 10, (0.1, 1): 30, (0.1, 2): 11}
    figure = alpha0_figure(table(make_study(), hits).sample(frac=1, random_state=0), "made-up")
    above, below = figure.axes
    medians, censored = above.lines[:2]
    np.testing.assert_allclose(medians.get_xdata(), [0.001, 0.01, 0.1])
    np.testing.assert_array_equal(medians.get_ydata(), [np.nan, 60, 11])
    assert (censored.get_marker(), censored.get_markerfacecolor()) == ("^", "white")
    np.testing.assert_allclose(censored.get_xydata(), [[0.001, 100]])
    # [min, max] is the interval that three values give; ∞ is cut at the budget.
    bars = [segment[:, 1].tolist() for segment in above.collections[0].get_segments()]
    assert bars == [[80, 100], [40, 100], [10, 30]]
    assert [text.get_text() for text in above.texts] == ["not reached within 100"]
    assert (above.get_xscale(), above.get_yscale()) == ("log", "log")
    # Means over the iterations: of seeds 0, 1, 2 at α₀ = 0.1 the middle one is 11 late or 30 late.
    expected = sorted([(9 * 2 + 91 * 0.2) / 100, (29 * 2 + 71 * 0.21) / 100, (10 * 2 + 90 * 0.22) / 100])[1]
    assert below.lines[0].get_ydata()[2] == pytest.approx(expected)


def test_a_diverged_trial_is_above_every_loss():
    figure = alpha0_figure(table(make_study(), lambda trial: 5, {(0.1, 0), (0.1, 1)}), "made-up")
    losses = figure.axes[1].lines[0].get_ydata()
    assert np.isnan(losses[2])
    assert np.isfinite(losses[:2]).all()
    assert "diverged" in [text.get_text() for text in figure.axes[1].texts]


def test_many_optimizers_are_spread_by_op_and_threshold_and_others_have_a_panel():
    study = make_study(
        optimizers=["sgd", "sgd-sgd", "adam", "adam-sgd", "adam-adam"],
        alpha0=[0.1, 0.01],
        threshold={"sgd": 0.4, "adam": 0.3},
    )
    trials = table(study, lambda trial: 50)
    figure = alpha0_figure(trials, "made-up")
    titles = [panel.get_title() for panel in figure.axes[:2]]
    assert titles == ["SGD: training loss ≤ 0.4", "Adam: training loss ≤ 0.3"]
    assert len(figure.axes) == 4
    colors = {line.get_color() for line in figure.axes[0].lines}
    assert colors <= {style.COLOURS["sgd"], "#888888"}
    trials.loc[trials["optimizer"] == "adam", "optimizer"] = "torch.optim.AdamW"
    figure = alpha0_figure(trials, "made-up")
    assert figure.axes[2].get_title() == "other optimizers: training loss ≤ 0.3"
    assert "AdamW" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_rules_of_one_name_are_lines_of_their_own():
    """In the panel of their op, in shades of its colour, each by its name in the legend."""
    entry = {"name": "adam-sgdn", "rule": "cosine"}
    study = make_study(
        optimizers=[
            "adam-sgdn",
            entry,
            entry | {"beta": 0.1, "label": "adam-sgdn cosine fast"},
            "sgd",
            "sgd-sgd",
        ],
        alpha0=[0.1, 0.01],
    )
    hits = {"adam-sgdn": 20, "adam-sgdn cosine": 40, "adam-sgdn cosine fast": 60}
    figure = alpha0_figure(table(study, lambda trial: hits.get(trial.label, 80)), "made-up")
    assert [panel.get_title().partition(":")[0] for panel in figure.axes[:2]] == ["SGD", "Adam"]
    lines = {line.get_ydata()[0]: line for line in figure.axes[1].lines if line.get_color() != "#888888"}
    assert set(lines) >= {20, 40, 60}
    looks = {(lines[hit].get_color(), lines[hit].get_marker()) for hit in (20, 40, 60)}
    assert len(looks) == 3
    named = {"Adam–SGDN", "Adam–SGDN cosine", "Adam–SGDN cosine fast", "SGD", "SGD-HD"}
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= named


def test_every_panel_has_the_decades_on_its_axis():
    """Numbers stand at the first panel; the others have the same ticks, none of which says a number."""
    study = make_study(
        optimizers=["sgd", "sgd-sgd", "adam", "adam-sgd", "adam-adam"], alpha0=[0.1, 0.01, 0.001], epochs=1
    )
    hits = {0.1: 2, 0.01: 20, 0.001: 95}
    figure = alpha0_figure(table(study, lambda trial: hits[trial.alpha0]), "made-up")
    figure.draw_without_rendering()
    first, second = figure.axes[:2]
    written = {
        tick.label1.get_text()
        for tick in first.yaxis.get_major_ticks()
        if first.get_ylim()[0] <= tick.get_loc() <= first.get_ylim()[1]
    }
    assert {"10", "100"} <= written
    assert not second.yaxis.get_minor_ticks()
    assert not any(tick.label1.get_visible() for tick in second.yaxis.get_major_ticks())


def test_of_several_beta_the_first_is_shown_and_said():
    study = make_study(optimizers=["adam-sgd"], beta=[1e-3, 1e-7], alpha0=[0.1, 0.01])
    hits = {1e-3: 20, 1e-7: 70}
    figure = alpha0_figure(table(study, lambda trial: hits[trial.beta]), "made-up")
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), [20, 20])
    assert "β: Adam-HD 0.001" in figure.get_suptitle()


def test_without_thresholds_only_the_loss_is_drawn():
    figure = alpha0_figure(table(make_study(threshold={}), lambda trial: 5), "made-up")
    assert [panel.get_ylabel() for panel in figure.axes] == ["final training loss"]


def test_one_alpha0_or_trials_that_have_not_ended_make_no_figure():
    one = table(make_study(alpha0=[0.1]), lambda trial: 5)
    zero = table(make_study(alpha0=[0, 0.1]), lambda trial: 5)
    running = trial_table([], make_study())
    for trials in (one, zero, running):
        assert not has_alpha0_figure(trials)
        with pytest.raises(ValueError, match="study made-up: no two α₀"):
            alpha0_figure(trials, "made-up")
