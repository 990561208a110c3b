"""When a run must end, and what it expects after its last trial."""

import time

import pytest

from study.execution import run_clock
from study.execution.run_clock import RunClock
from study.execution.speeds import Speeds
from study.storage import interrupt


@pytest.mark.parametrize(
    ("hours", "known", "kept"),
    [
        (10, Speeds(ends=[(6, 90.0)]), 90),  # as long as MLflow and the report took before
        (10, Speeds(), 60),
        (60 / 3600, Speeds(ends=[(6, 90.0)]), 12),  # at most a fifth of the budget
    ],
)
def test_training_ends_in_time_for_the_report(write_study, hours, known, kept):
    study, _ = write_study(budget=hours)
    clock = RunClock.of(study, 6, known, began=1000.0)
    assert clock.stop_at == pytest.approx(1000 + hours * 3600 - kept)


def test_without_a_budget_it_never_ends(write_study):
    clock = RunClock.of(write_study()[0], 6, None, began=0.0)
    assert (clock.stop_at, clock.is_time_up, clock.has_time_for([])) == (None, False, True)


def test_the_time_is_up_when_it_is(write_study):
    study, _ = write_study(budget=1)
    assert not RunClock.of(study, 6, None, began=time.time()).is_time_up
    assert RunClock.of(study, 6, None, began=time.time() - 3600).is_time_up


def test_a_run_that_starts_slowly_ends_slowly(write_study):
    study, _ = write_study()
    clock = RunClock.of(study, 6, Speeds(start=10.0, ends=[(6, 20.0)]), began=1000.0)
    ends = [clock.end_seconds(int(1000 * (1000 + start))) for start in (10, 20, 1000, 0.1)]
    assert ends == pytest.approx([20, 40, 60, 20 / 3])
    assert RunClock.of(study, 6, None, began=1000.0).end_seconds(0) is None


def test_workers_that_do_not_end_in_time_are_stopped(write_study, monkeypatch):
    monkeypatch.setattr(run_clock, "GRACE", 0.1)
    study, _ = write_study(budget=1)
    trained = False
    with RunClock.of(study, 6, None, began=time.time() - 7200).interrupting():
        time.sleep(100)
        trained = True
    assert not trained


def test_a_person_who_interrupts_is_not_taken_for_the_clock(write_study):
    study, _ = write_study(budget=1)
    clock = RunClock.of(study, 6, None, began=time.time())

    def train():
        with clock.interrupting():
            interrupt.interrupt()
            time.sleep(100)

    with pytest.raises(KeyboardInterrupt):
        train()
