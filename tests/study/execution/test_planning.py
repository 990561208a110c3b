"""Sharing out trials and what they cost, against sums done by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config.loader import Trial
from study.config.search_space import SearchState
from study.execution import planning
from study.execution.planning import iterations, measured_rates, plan
from study.storage.records import EpochRecord, TrialRecord

np = pytest.importorskip("numpy")


def trial(seed=0, workload="mnist-logreg", epochs=None, iterations=None, optimizer="sgd", batch_size=128):
    if epochs is None and iterations is None:
        epochs = 20
    return Trial(workload, optimizer, 0.01, 1e-3, seed, epochs, iterations, batch_size)


@pytest.mark.parametrize(
    ("of", "count"),
    [
        (trial(epochs=20), 9_380),  # the report's: 469 per epoch, the last batch short
        (trial(workload="cifar10-vgg16", epochs=200), 78_200),
        (trial(workload="digits-mlp", epochs=1, batch_size=1437), 1),
        (trial(workload="a:b", iterations=7), 7),
        (trial(workload="a:b"), None),
    ],
)
def test_iterations(of, count):
    assert iterations(of) == count


def test_costs_by_hand():
    trials = [trial(iterations=1000), trial(iterations=100, optimizer="adam")]
    rates = {("mnist-logreg", "sgd"): 0.5, ("mnist-logreg", "adam"): 2.0}
    planned = plan(trials, 1, rates)
    assert planned.trials == tuple(trials)
    assert planned.iterations == 1100
    assert planned.seconds == 700.0
    # 16 B per iteration twice; three curves each of 320 and 100 points of 150 B.
    assert planned.bytes == pytest.approx(1100 * 32 + 3 * (320 + 100) * 150)


def test_a_rate_that_is_not_measured_is_the_catalogues():
    trials = [trial(iterations=1000), trial(iterations=1000, optimizer="adam")]
    planned = plan(trials, 1, {("mnist-logreg", "sgd"): 1.0})
    assert planned.seconds == pytest.approx(1000 + 1000 * 0.0006)


def test_unknown_workloads_have_no_estimate_until_they_are_measured():
    trials = [trial(), trial(workload="a:b", iterations=10)]
    planned = plan(trials, 2)
    assert (planned.seconds, planned.iterations) == (None, 9_390)
    assert plan(trials[1:], 2, {("a:b", "sgd"): 0.5}).seconds == 5.0
    by_epoch = plan([trial(workload="a:b")], 2, {("a:b", "sgd"): 0.5})
    assert (by_epoch.iterations, by_epoch.seconds, by_epoch.bytes) == (None, None, None)


@pytest.mark.parametrize(
    ("seconds", "count", "slots", "bundles"),
    [
        (0.1, 100, 4, 4),  # 2.5 s per slot
        (1, 3, 4, 3),
        (10, 9, 4, 9),  # 90 s are worth nine bundles
        (100, 100, 4, 32),  # never more than eight per slot
        (1000, 5, 4, 5),
    ],
)
def test_number_of_bundles(seconds, count, slots, bundles):
    trials = [trial(seed, iterations=1) for seed in range(count)]
    assert len(plan(trials, slots, {("mnist-logreg", "sgd"): seconds}).bundles) == bundles


def test_the_costliest_go_first_and_balance():
    """7, 6, 5, 4, 3 on two: longest first gives 7 + 4 + 3 and 6 + 5 — loads 14 and 11, not 18 and 7."""
    trials = [trial(iterations=n) for n in (3, 4, 5, 6, 7)]
    planned = plan(trials, 2, {("mnist-logreg", "sgd"): 1.0})
    assert [[t.iterations for t in bundle] for bundle in planned.bundles] == [[3, 4, 7], [5, 6]]


@given(st.lists(st.integers(1, 10_000), max_size=60), st.integers(1, 9), st.floats(1e-4, 1.0))
def test_every_trial_once_and_balanced(lengths, slots, rate):
    trials = [trial(seed, iterations=length) for seed, length in enumerate(lengths)]
    rates = {("mnist-logreg", "sgd"): rate}
    planned = plan(trials, slots, rates)
    assert sorted(t.seed for bundle in planned.bundles for t in bundle) == list(range(len(lengths)))
    assert plan(trials, slots, rates) == planned
    loads = [sum(t.iterations for t in bundle) for bundle in planned.bundles]
    assert min(len(lengths), slots) <= len(loads) <= 8 * slots
    if loads:
        assert loads == sorted(loads, reverse=True)
        # Graham: no load exceeds the lightest by more than the longest trial.
        assert max(loads) - min(loads) <= max(lengths)


def test_nothing_to_do():
    planned = plan([], 3)
    assert (planned.bundles, planned.iterations, planned.seconds, planned.bytes) == ((), 0, 0, 0)


def test_slots():
    with pytest.raises(ValueError, match="slots must be at least 1; got 0"):
        plan([trial()], 0)


def test_measured_rates():
    def record(optimizer, *epochs):
        def one(first, n, seconds):
            curve = np.zeros(n, dtype=np.float32)
            return EpochRecord(1, first, curve, curve, curve, 0.0, 0.0, seconds)

        return TrialRecord(trial(optimizer=optimizer), epochs=tuple(one(*epoch) for epoch in epochs))

    records = [
        record("sgd", (1, 10, 1.0), (11, 10, 3.0)),
        record("sgd", (1, 20, 0.0)),
        record("sgd", (1, 20, 8.0)),
        record("adam"),
    ]
    assert measured_rates(records) == {("mnist-logreg", "sgd"): pytest.approx(12 / 40)}


class TestSearch:
    def test_points_share_a_unit_while_they_are_short_and_all_slots_have_work(self, searched):
        study = searched(optimizers=["sgd", "sgdn", "adam", "sgd-sgd"], epochs=None, iterations=100)
        optimizers = [arm.template.optimizer for arm in study.arms()]

        def size(seconds, slots=1, of=study):
            # A point is 2 seeds of 100 iterations.
            return planning.unit_size(of, slots, {("digits-logreg", o): seconds / 200 for o in optimizers})

        assert [size(seconds) for seconds in (1, 15, 20, 30, 59, 61, 1000)] == [4, 4, 3, 2, 1, 1, 1]
        assert [size(1, slots) for slots in (1, 2, 3, 4, 9)] == [4, 2, 2, 1, 1]
        assert size(1, of=searched(scheduler="asha", epochs=None, iterations=100)) == 1

    def test_what_is_left_and_what_it_costs(self, searched):
        study = searched(optimizers=["sgd"], points=3, epochs=None, iterations=100, scheduler="asha")
        (arm,) = study.arms()
        rates = {("digits-logreg", "sgd"): 1.0}
        state = SearchState((arm.point(0, {"alpha0": 0.1}),))
        planned = list(map(TrialRecord, study.planned_trials(state)))
        assert planning.plan(planning.pending_trials(study, planned), 1, rates).seconds == 800
        first, second, *others = planned
        records = [replace(first, status="finished"), replace(second, status="pruned"), *others]
        assert len(planning.pending_trials(study, records)) == 6
        assert len(planning.pending_trials(searched(optimizers=["sgd"], points=3), records)) == 7, (
            "then it is wanted whole"
        )
