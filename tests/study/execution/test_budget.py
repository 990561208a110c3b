"""A study that ends when its budget of time is used up: cleanly, with a report, and resumable."""

import subprocess
import sys
import time

import pytest

from study.config.loader import ConfigError, load_study
from study.execution import driver
from study.execution.in_process import InProcessExecutor
from study.storage import journal_reader
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.training.checkpoints import Checkpoints
from study.training.worker import WorkerOptions, run_bundle

PROGRAM = [sys.executable, "-m", "study"]
ENDLESS = {"epochs": 100_000, "optimizers": ["sgd"], "pack": 1, "threshold": None}
"""A trial of it takes ten minutes or more, and an epoch milliseconds."""


def train(study, folder, **options):
    folder.runs.mkdir(exist_ok=True)
    tracker = open_tracker(study, embedded_uri(folder.runs), folder)
    return driver.run(study, folder, tracker, InProcessExecutor(), **options)


def train_some(write, folder, epochs=0):
    """Train with a budget that is long enough here for more than ``epochs`` epochs in all.

    Returns:
        The study, and how it stands.
    """
    seconds = 3
    while True:
        study = write(budget=seconds / 3600)
        progress = train(study, folder, preflight=False)
        if sum(len(record.epochs) for record in folder.planned_records(study)) > epochs:
            return study, progress
        seconds *= 2
        assert seconds < 300


def checkpoint(folder, trial):
    recorded = len(journal_reader.read(folder.journal(trial), trial).epochs)
    state, _ = Checkpoints(folder.checkpoint(trial)).newest(trial.key, recorded)
    return state


def test_a_trial_under_way_ends_at_a_checkpoint_and_resumes_from_it(write_study, tmp_path):
    def write(**changes):
        return write_study(**ENDLESS, seeds=2, **changes)[0]

    folder = StudyFolder(tmp_path / "runs", "small")
    study, progress = train_some(write, folder)
    first, second = study.trials()
    assert (progress.out_of_time, progress.done) == (True, 0)
    records = folder.records([first, second])
    assert [bool(record.epochs) for record in records] == [True, False]
    assert checkpoint(folder, first)["epoch"] == len(records[0].epochs), "no epoch is trained twice"
    train_some(write, folder, epochs=len(records[0].epochs))
    again = journal_reader.read(folder.journal(first), first)
    assert again.attempt == records[0].attempt
    assert [epoch.time_ms for epoch in again.epochs[: len(records[0].epochs)]] == [
        epoch.time_ms for epoch in records[0].epochs
    ]


def test_a_run_whose_time_is_up_trains_nothing_and_the_next_trains_all(write_study, tmp_path):
    study, path = write_study(budget=1, seeds=2)
    folder = StudyFolder(tmp_path / "runs", study.name)
    progress = train(study, folder, began=time.time() - 3600)
    assert (progress.out_of_time, progress.done, progress.total) == (True, 0, 6)
    progress = train(load_study(path, ["budget="]), folder)
    assert (progress.out_of_time, progress.done) == (False, 6)


@pytest.mark.parametrize("pack", [1, None])
def test_a_curve_is_the_same_whether_or_not_a_budget_ended_it_in_between(write_study, tmp_path, pack):
    study, _ = write_study(optimizers=["adam-adam"], seeds=8, epochs=60, pack=pack)
    whole, broken = (StudyFolder(tmp_path / name, study.name) for name in ("whole", "broken"))
    list(run_bundle(study.trials(), whole, WorkerOptions(pack=pack)))
    stops = 0
    while not all(record.is_complete for record in broken.records(study.trials())):
        assert stops < 400
        options = WorkerOptions(pack=pack, stop_at=time.time() + 0.1 + 0.02 * stops)
        list(run_bundle(study.trials(), broken, options))
        stops += 1
    for expected, found in zip(*(f.records(study.trials()) for f in (whole, broken)), strict=True):
        if pack == 1:
            assert found.train_loss.tobytes() == expected.train_loss.tobytes()
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3)


def test_a_trial_that_is_nearly_done_ends(write_study, tmp_path):
    """Its last tenth, from where it was interrupted, is trained although the time is up meanwhile."""
    study, _ = write_study(optimizers=["sgd"], seeds=1, epochs=10)
    (trial,) = study.trials()
    folder = StudyFolder(tmp_path / "runs", study.name)
    training = run_bundle(study.trials(), folder, WorkerOptions(checkpoint_seconds=0, stop_at=time.time()))
    assert list(training) == [], "nothing begins when the time is up"

    class Clock:
        """The time is up once nine epochs are recorded."""

        @staticmethod
        def time():
            return float(len(journal_reader.read(folder.journal(trial), trial).epochs) >= 9)

        monotonic = time

    from study.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "time", Clock)
        ended = list(run_bundle(study.trials(), folder, WorkerOptions(stop_at=1.0)))
    assert [(found.key, status) for found, status in ended] == [(trial.key, "finished")]


def test_a_search_asks_for_no_more_and_keeps_the_points_under_way_open(searched, tmp_path):
    def write(**changes):
        settings = {**ENDLESS, "points": 4, "seeds": 1, **changes}
        return searched(**settings)

    folder = StudyFolder(tmp_path / "runs", "small")
    study, progress = train_some(write, folder)
    assert progress.out_of_time
    (arm,) = study.arms()
    (point,) = arm.points(folder.search_state())
    (record,) = folder.records(arm.trials(point, study.search.seeds))
    assert record.status == "running"
    train_some(write, folder, epochs=len(record.epochs))
    assert arm.points(folder.search_state()) == [point], "the open point comes first"


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("searches", [False, True])
def test_on_ray_the_command_ends_with_a_report_and_says_how_to_resume(write_study, tmp_path, searches):
    """The trials would take hours, so what ends them is the budget, however fast the machine is."""
    search = {"search": {"points": 3, "seeds": 1}, "alpha0": {"low": 1e-3, "high": 0.1}} if searches else {}
    _, path = write_study(**ENDLESS, seeds=3, **search)
    runs = tmp_path / "runs"
    words = ["run", str(path), "--runs", str(runs), "--cpus", "1", "--hours"]
    hours = 40 / 3600
    while True:  # on a busy machine Ray takes long to start
        done = subprocess.run([*PROGRAM, *words, str(hours)], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        if "no trial has finished an epoch" not in done.stdout:
            break
        hours *= 2
        assert hours < 1
    last = done.stdout.splitlines()[-1]
    assert "h of the budget are up; " in last
    assert f"of {6 if searches else 3} left; resume with: python -m study run {path}" in last
    assert last.endswith("--cpus 1 --set budget=")
    assert "died" not in done.stderr
    assert "Last result" not in done.stdout
    assert (runs / "small" / "report" / "index.html").is_file()
    folder = StudyFolder(runs, "small")
    records = folder.planned_records(load_study(folder.study_file))
    (under_way,) = [record for record in records if record.epochs]
    assert checkpoint(folder, under_way.trial)["epoch"] == len(under_way.epochs)


@pytest.mark.parametrize("value", [0, -1, "long", {"hours": 0}, {"minutes": 3}, {}])
def test_a_budget_is_a_number_of_hours(write_study, value):
    with pytest.raises(ConfigError, match="budget"):
        write_study(budget=value)


def test_a_budget_is_kept_with_the_study_and_is_no_part_of_its_trials(write_study, tmp_path):
    without, _ = write_study()
    study, _ = write_study(budget=1.5)
    assert study.budget.hours == 1.5
    assert study.trials() == without.trials()
    (tmp_path / "again.yaml").write_text(study.to_yaml())
    assert load_study(tmp_path / "again.yaml") == study
