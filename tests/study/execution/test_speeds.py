"""What a machine is known to take, against runs whose times are given."""

import heapq
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.config.loader import Trial
from study.execution import speeds, time_estimate
from study.execution.load_balancing import PACK_START
from study.execution.speeds import Speeds, work_name
from study.storage.records import EpochRecord, TrialRecord

np = pytest.importorskip("numpy")
BEGAN = 1_000_000_000_000


def trial(seed=0, optimizer="sgd", iterations=100, workload="digits-mlp"):
    return Trial(workload, optimizer, 0.1, 1e-3, seed, iterations=iterations)


def ended(one, begin, end, status="finished", iterations=None):
    """A record of a trial that trained from ``begin`` to ``end``, in seconds after the start."""
    curve = np.zeros(iterations or one.iterations)
    epochs = (EpochRecord(1, 1, curve, curve, curve, 0.5, 0.5, 1.0),)
    started, last = (BEGAN + int(1000 * at) for at in (begin, end))
    return TrialRecord(one, status, epochs, started_ms=started, resumed_ms=started, ended_ms=last)


def learn(packs, records, before=None, slots=1):
    return speeds.learn(
        before or Speeds(),
        packs,
        {record.trial.key: record for record in records},
        since_ms=BEGAN,
        ready_ms=BEGAN + 4000,
        slots=slots,
        gpus=0,
    )


def test_the_next_run_takes_as_long_as_the_last():
    """Three trials alone of 2 s, with half a second between them, on one worker that took 1 s to start."""
    trials = [trial(seed) for seed in range(3)]
    known = learn([[t] for t in trials], [ended(t, 5 + 2.5 * t.seed, 7 + 2.5 * t.seed) for t in trials])
    assert known.start == 5
    assert known.gap == 0.5
    assert known.pack_seconds([trial()], gpus=0) == pytest.approx(2)
    assert known.pack_seconds([trial(iterations=50)], gpus=0) == pytest.approx(1)
    assert known.pack_seconds([trial(optimizer="adam")], gpus=0) is None
    assert known.pack_seconds([trial()], gpus=1) is None
    assert known.pack_seconds(trials, gpus=0) is None, "nobody saw it in a pack"


def test_a_pack_of_another_size_costs_its_members_and_a_fixed_part():
    """10 members in 6 s: a fixed cost of 20 members, so a member is 0.2 s, and 40 take 12 s."""
    pack = [trial(seed) for seed in range(10)]
    known = learn([pack], [ended(t, 5, 11) for t in pack])
    assert PACK_START == 20
    assert known.pack_seconds([trial(seed) for seed in range(40)], gpus=0) == pytest.approx(12)


def test_members_that_diverge_leave_the_pack():
    pack = [trial(seed) for seed in range(10)]
    records = [ended(t, 5, 11) if t.seed < 5 else ended(t, 5, 5, "diverged", 1) for t in pack]
    known = learn([pack], records)
    # 5 members of 100 iterations and 5 of one: 5.05 in the mean, and the fixed 20.
    (rate, _) = known.rates[work_name(pack[0], packed=True, gpus=0)]
    assert rate == pytest.approx(6 / (100 * 25.05))


def test_a_trial_that_a_budget_stopped_tells_of_what_it_did():
    """An epoch of 100 of 1000 iterations, in 2 s: the whole would take 20 s."""
    one = trial(iterations=1000)
    epoch = replace(ended(one, 5, 7, iterations=100).epochs[0], time_ms=BEGAN + 7000)
    stopped = TrialRecord(one, "running", (epoch,), started_ms=BEGAN + 5000, resumed_ms=BEGAN + 5000)
    assert learn([[one]], [stopped]).pack_seconds([one], gpus=0) == pytest.approx(20)


def test_what_failed_or_began_in_another_run_tells_nothing():
    one = trial()
    for record in (
        ended(one, 5, 7, "failed"),
        ended(one, -50, 7),
        TrialRecord(one, "running", resumed_ms=BEGAN + 5000),
        TrialRecord(one),
    ):
        before = Speeds()
        assert learn([[one]], [record], before) is before


def test_two_workers_have_gaps_of_their_own():
    trials = [trial(seed) for seed in range(4)]
    spans = [
        (5, 9),
        (5.5, 7),
        (8, 12),
        (9.5, 12),
    ]  # the second worker rests from 7 to 8, the first half a second
    known = learn([[t] for t in trials], [ended(t, *spans[t.seed]) for t in trials], slots=2)
    assert known.gap == pytest.approx((1 + 0.5) / 2)


def test_newer_runs_count_half():
    one = trial()
    known = learn([[one]], [ended(one, 5, 7)])
    known = learn([[one]], [ended(one, 15, 19)], known)
    assert known.pack_seconds([one], gpus=0) == pytest.approx(3)
    assert known.start == 10


def test_what_follows_the_last_trial_is_that_of_the_most_similar_run(tmp_path):
    for trials, seconds in ((10, 5.0), (1000, 60.0), (10, 7.0)):
        speeds.learn_end(tmp_path, trials, seconds)
    known = speeds.load(tmp_path)
    assert [known.end(trials) for trials in (1, 50, 200, 9000)] == [7, 7, 60, 60]
    assert Speeds().end(5) is None


def test_it_is_kept_in_a_file_and_a_damaged_file_is_as_none(tmp_path):
    one = trial()
    known = learn([[one]], [ended(one, 5, 7)])
    speeds.save(tmp_path, known)
    assert speeds.load(tmp_path) == known
    for text in ("", "[]", '{"format": 1}', '{"format": 2, "machines": {}}'):
        (tmp_path / speeds.FILE).write_text(text)
        assert speeds.load(tmp_path) == Speeds()
    speeds.save(tmp_path, known)
    assert speeds.load(tmp_path) == known


@given(st.lists(st.floats(0, 100), max_size=30), st.integers(1, 5))
def test_the_makespan_is_that_of_a_simulation(lengths, slots):
    """Seconds pass one event at a time."""
    waiting, running, now = list(lengths), [], 0.0
    while waiting or running:
        while waiting and len(running) < slots:
            heapq.heappush(running, now + waiting.pop(0))
        now = heapq.heappop(running)
    assert time_estimate.makespan(lengths, slots) == pytest.approx(now)


def test_a_plan_takes_start_training_and_end(write_study):
    study, _ = write_study(optimizers=["sgd"], seeds=4, epochs=None, iterations=100)
    trials = study.trials()
    rate = {work_name(trials[0], packed=False, gpus=0): (0.02, 12)}
    chains = [[[one]] for one in trials]
    found = time_estimate.estimate(study, chains, 2, Speeds(3.0, 0.5, [(4, 7.0)], rate))
    assert (found.training, found.seconds) == (pytest.approx(5), pytest.approx(3 + 5 + 7))
    assert time_estimate.estimate(study, chains, 2, Speeds(None, 0.5, [], rate)).seconds is None
    found = time_estimate.estimate(study, chains, 2, Speeds(3.0, 0.5, [(4, 7.0)]))
    assert (found.seconds, found.unknown) == (None, ("digits-logreg with sgd",))


def test_a_search_trains_one_point_of_an_arm_after_the_other(searched):
    study = searched(optimizers=["sgd", "adam"], points=3, seeds=2, epochs=None, iterations=100)
    from study.config.search_space import SearchState

    chains = time_estimate.search_chains(study, SearchState(), lambda trial: 256)
    assert [[len(pack) for pack in chain] for chain in chains] == [[2, 2, 2, len(study.seeds)]] * 2
    alone = time_estimate.search_chains(study, SearchState(), lambda trial: 1)
    assert [len(chain) for chain in alone] == [3 * 2 + len(study.seeds)] * 2
