"""The time left, against a simulated run whose end is known: workers that train at given speeds."""

from dataclasses import replace

import numpy as np
import pytest

from study.analysis.time_left import training_left
from study.config.loader import Trial
from study.storage.records import EpochRecord, TrialRecord

BEGAN = 1_000_000_000_000
EPOCHS = 10


def trial(seed, optimizer="sgd", workload="digits-logreg"):
    return Trial(workload, optimizer, 0.1, 1e-3, seed, epochs=EPOCHS)


def epoch(number, end, seconds, loss=0.5):
    ones = np.ones(1)
    return EpochRecord(number, number, ones, ones, ones * loss, loss, 0.5, seconds, time_ms=int(end))


def simulate(queues, until):
    """Records after ``until`` seconds, and when all is done.

    Args:
        queues: for each worker, (trial, seconds per epoch, seconds of it that are recorded) in their order.
        until: in seconds after the start.
    """
    records, ends = [], []
    for queue in queues:
        clock = 0.0
        for one, wall, recorded in queue:
            begun, epochs = clock, []
            for number in range(1, EPOCHS + 1):
                clock += wall
                if clock <= until:
                    epochs.append(epoch(number, BEGAN + 1000 * clock, recorded))
            status = "finished" if clock <= until else "running" if begun <= until else "pending"
            started = BEGAN + int(1000 * begun) if begun <= until else 0
            records.append(TrialRecord(one, status, tuple(epochs), started_ms=started, resumed_ms=started))
        ends.append(clock)
    return records, max(ends)


def left(queues, until, **options):
    records, end = simulate(queues, until)
    bundles = [[one for one, *_ in queue] for queue in queues]
    options = {"slots": len(queues), "bundles": bundles, **options}
    return training_left(records, BEGAN, BEGAN + int(until * 1000), **options), end - until


QUEUE = [
    (trial(seed, name), wall, wall / 2) for seed in range(6) for name, wall in (("sgd", 1.0), ("adam", 3.0))
]


@pytest.mark.parametrize("until", [41, 75.5, 100, 160, 239])
def test_one_worker_whose_trials_cost_one_or_three(until):
    found, truth = left([QUEUE], until)
    assert found == pytest.approx(truth, abs=3.5)  # an epoch is 3 s


@pytest.mark.parametrize("until", [45, 80, 115])
def test_two_workers_share_the_work(until):
    found, truth = left([QUEUE[::2] + QUEUE[6::2], QUEUE[1:6:2] + QUEUE[7::2]], until)
    assert found == pytest.approx(truth, rel=0.25)


def test_the_longest_bundle_takes_longer_than_an_equal_share():
    long = [(trial(seed, "adam"), 4.0, 4.0) for seed in range(5)]
    short = [(trial(seed), 1.0, 1.0) for seed in range(5)]
    found, truth = left([long, short], 44)
    assert truth == 156
    assert found == pytest.approx(truth, abs=5)
    shared, _ = left([long, short], 44, slots=None)
    assert shared < 100, "which an equal share would be"


def test_time_passes_between_two_epochs():
    queue = [(trial(0), 60.0, 60.0)]
    for until in (60, 90, 119):
        found, truth = left([queue], until)
        assert found == pytest.approx(truth)


def test_nothing_is_said_before_every_kind_has_begun():
    queue = [(trial(0), 1.0, 1.0), (trial(0, workload="chars-gru"), 50.0, 50.0)]
    assert left([queue], 0.5)[0] is None, "no epoch has ended"
    assert left([queue], 1.5)[0] is None, "too short to tell"
    assert left([queue], 8)[0] is None, "nobody knows chars-gru"
    found, truth = left([queue], 60)
    assert found == pytest.approx(truth)


def test_what_has_not_begun_counts_as_in_earlier_runs():
    queue = [(trial(0), 1.0, 1.0), (trial(0, workload="chars-gru"), 50.0, 50.0)]
    earlier = {trial(0).key: 5.0, trial(0, workload="chars-gru").key: 250.0}  # on an idle machine
    found, truth = left([queue], 8, expected=earlier)
    assert found == pytest.approx(truth)


def test_an_optimizer_that_has_not_begun_costs_as_much_as_others_that_pack_on_its_workload():
    queue = [(trial(seed, name), 1.0, 1.0) for seed in range(2) for name in ("sgd", "adam-adam")]
    found, truth = left([queue], 9)
    assert found == pytest.approx(truth)
    alone = [*queue, (trial(0, "torch.optim.AdamW"), 7.0, 7.0)]
    assert left([alone], 9)[0] is None


def test_trials_that_diverge_at_once_are_expected_of_those_ahead():
    """Each takes 10 s, but half of those that began diverged in their first second."""
    records, _ = simulate([[(trial(seed), 1.0, 1.0) for seed in range(10)]], 20)
    gone = [replace(r, status="diverged", epochs=r.epochs[:1]) for r in records[1:2]]
    whole = [records[0], *gone]
    ahead = [TrialRecord(trial(seed)) for seed in range(2, 6)]
    found = training_left([*whole, *ahead], BEGAN, BEGAN + 11_000)
    # 11 s so far for 11 s of training; ahead are four trials that take (1 + 0.1) / 2 of 10 s.
    assert found == pytest.approx(4 * 5.5)


def test_trials_of_earlier_runs_tell_the_cost_but_not_the_speed():
    before = TrialRecord(trial(0), "finished", tuple(epoch(n, BEGAN - 10**6 + n, 1.0) for n in range(1, 11)))
    now = TrialRecord(trial(1), "running", (epoch(1, BEGAN + 4000, 1.0),), resumed_ms=BEGAN)
    assert training_left([before], BEGAN, BEGAN + 4000) is None
    assert training_left([before, now], BEGAN, BEGAN + 4000) == pytest.approx(9 * 4)


def test_a_failed_trial_takes_no_time():
    now = TrialRecord(trial(1), "running", (epoch(1, BEGAN + 4000, 1.0),), resumed_ms=BEGAN)
    failed = TrialRecord(trial(2), "failed")
    assert training_left([failed, now], BEGAN, BEGAN + 4000) == pytest.approx(9 * 4)
