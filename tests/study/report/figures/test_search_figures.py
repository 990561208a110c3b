"""Importance and contours of a search, against scores whose shape is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from study.analysis import tables
from study.config.search_space import SearchState
from study.report.figures import contour, importance
from study.report.figures import searched as arms
from study.report.figures.base import Evidence
from study.report.figures.searched import ENOUGH
from study.storage.records import EpochRecord, TrialRecord


def evidence(study, score, points=30):
    """A search whose points are even in the logarithms and whose trials' validation losses are ``score``."""
    random = np.random.default_rng(0)
    asked, records = [], []
    for arm in study.arms():
        for number in range(points):
            drawn = {
                name: float(10 ** random.uniform(math.log10(within.low), math.log10(within.high)))
                for name, within in arm.space.items()
            }
            point = arm.point(number, drawn)
            asked.append(point)
            value = score(math.log10(point.alpha0), math.log10(point.beta or 1.0))
            for trial in arm.trials(point, arm.search.seeds):
                records.append(record(trial, value))
    state = SearchState(tuple(asked))
    trials = tables.trial_table(records, study, state)
    return Evidence(study, records, trials, state, records)


def record(trial, value):
    curve = np.ones(4, dtype=np.float32)
    epoch = EpochRecord(1, 1, curve, curve, curve, value, 0.5, 0.1, time_ms=1)
    status = "finished" if math.isfinite(value) else "diverged"
    return TrialRecord(trial, status, (epoch,), attempt="a", started_ms=1, ended_ms=2)


@pytest.fixture
def study(searched):
    return searched(optimizers=["sgd-sgd"], points=30)


@pytest.mark.parametrize(
    ("score", "alpha0"),
    [
        (lambda a, b: 10 ** ((a + 2) ** 2 / 4), 1.0),
        (lambda a, b: 10 ** ((b + 3.5) ** 2 / 4), 0.0),
        # Independent and of the same variance: (a + 2) and (b + 3.5) × 4 / 5 over ranges of 4 and 5 decades.
        (lambda a, b: 10 ** ((a + 2) + (b + 3.5) * 4 / 5), 0.5),
    ],
)
def test_importance_is_the_share_of_the_variance(searched, score, alpha0):
    (arm,) = arms.searched(evidence(searched(optimizers=["sgd-sgd"], points=200), score, points=200))
    assert len(arm.finite) == 200
    found = importance.importances(arm)
    assert found["alpha0"] == pytest.approx(alpha0, abs=0.1)
    assert sum(found.values()) == pytest.approx(1)


def test_the_figures_show_what_was_found(study):
    (drawn,) = importance.draw(evidence(study, lambda a, b: 10 ** ((a + 2) ** 2)))
    (panel,) = drawn.figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["sgd-sgd"]
    widths = [bar.get_width() for bar in panel.patches]
    assert widths[0] > 0.8
    assert sum(widths) == pytest.approx(1)

    # A bowl around α₀ 0.01, β 1e-4, that diverges at large α₀.
    def bowl(a, b):
        return math.inf if a > -0.5 else 10 ** ((a + 2) ** 2 + (b + 4) ** 2)

    known = evidence(study, bowl)
    (drawn,) = contour.draw(known)
    panel, bar = drawn.figure.axes
    places = [(math.log10(p.alpha0), math.log10(p.beta)) for p in known.search_state.points]
    finite = [place for place in places if math.isfinite(bowl(*place))]
    best = min(places, key=lambda place: bowl(*place))
    _, dots, crosses, star = panel.collections
    np.testing.assert_allclose(dots.get_offsets(), finite)
    np.testing.assert_allclose(crosses.get_offsets(), [place for place in places if place not in finite])
    np.testing.assert_allclose(star.get_offsets(), [best])
    assert len(panel.get_xticks())
    assert bar.get_yticklabels()[0].get_text()


@pytest.mark.parametrize("module", [contour, importance])
@pytest.mark.parametrize(
    ("points", "score", "words"),
    [
        (ENOUGH - 1, lambda a, b: 1 + a * a, f"{ENOUGH - 1} with a finite score"),
        (30, lambda a, b: 1.0 if a < -3.9 else math.inf, f"{ENOUGH} needed"),
        (30, lambda a, b: 1.0, "same score"),
    ],
)
def test_an_arm_with_too_little_says_so(study, module, points, score, words):
    (drawn,) = module.draw(evidence(study, score, points))
    (panel,) = drawn.figure.axes
    assert words in " ".join(text.get_text().replace("\n", " ") for text in panel.texts)
    assert not panel.patches


def test_arms_of_several_workloads_are_told_apart_and_those_of_one_number_are_left_out(searched):
    study = searched(optimizers=["sgd", "sgd-sgd", "adam-adam"], workloads=["digits-logreg", "digits-mlp"])
    (drawn,) = importance.draw(evidence(study, lambda a, b: 1.0, points=4))
    labels = [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()]
    # Of adam-adam β is fixed; sgd has none.
    assert labels == ["sgd-sgd, digits-logreg", "sgd-sgd, digits-mlp"]


def test_points_on_one_line_are_drawn_without_contours(study):
    known = evidence(study, lambda a, b: 10**a)
    (arm,) = arms.searched(known)
    line = tuple(replace(s, point=replace(s.point, beta=1e-3)) for s in arm.finite)
    figure = contour.contour_figure([arm._replace(finite=line)], "x")
    (panel,) = figure.axes
    assert len(panel.collections) == 2


@pytest.mark.parametrize("module", [contour, importance])
def test_a_grid_has_neither(write_study, module):
    study, _ = write_study()
    records = [record(trial, 1.0) for trial in study.trials()]
    trials = tables.trial_table(records, study)
    assert not list(module.draw(Evidence(study, records, trials, search_records=records)))
