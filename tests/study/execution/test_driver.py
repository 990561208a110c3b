"""The driver in this process: what it refuses, what it finds out before it starts, and what it does then."""

import pytest
import torch

from study.config.loader import load_study
from study.execution import driver, planning
from study.execution.executor import Capacity, ExecutorError, LostWorkersError
from study.execution.in_process import InProcessExecutor
from study.execution.search import open_search
from study.storage import journal, search_journal
from study.storage.driver_lock import DriverLock
from study.storage.failures import failures
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.training.optimizers import OptimizerError
from study.training.worker import WorkerOptions, run_bundle
from study.workloads.datasets import DataError
from study.workloads.registry import WorkloadError

WORKLOADS = '''
import torch
from torch import nn
from study.workloads.base import Data, Workload
from study.workloads.datasets import DataError

def load(folder):
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.arange(64) % 2
    return Data(x[:40], y[:40], x[40:], y[40:])

def make(width=8, fail_after=None, absent=False):
    """Fails in batch ``fail_after`` of each training, counted from 0."""
    def find(folder):
        if absent:
            raise DataError("the data are not there")
        return load(folder)
    def build():
        seen = 0
        class Model(nn.Linear):
            def forward(self, inputs):
                nonlocal seen
                if self.training:
                    if seen == fail_after:
                        raise ValueError(f"batch {seen} is wrong")
                    seen += 1
                return super().forward(inputs)
        return Model(width, 2)
    return Workload("made", find, build)
'''

TRYING = "trying one batch of every workload with every optimizer"


class Executor(InProcessExecutor):
    """This process, with a note of what was asked of it, and GPUs if it is said to have some."""

    def __init__(self, gpus=0.0, is_local=True):
        self.calls, self.gpus, self.is_local = [], gpus, is_local

    def check(self, resources):
        self.calls.append("check")

    def wait(self, resources, folder):
        self.calls.append("wait")
        return Capacity(1, self.gpus)

    def train(self, bundles, folder, options):
        self.calls.append("train")
        super().train(bundles, folder, options)

    def search(self, search, folder, options):
        self.calls.append("search")
        super().search(search, folder, options)

    def shutdown(self):
        self.calls.append("shutdown")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The current folder, with a module that no other test has imported."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def module(home):
    name = f"made_{abs(hash(home))}"
    (home / f"{name}.py").write_text(WORKLOADS)
    return name


def pending(study, folder):
    return planning.pending_trials(study, folder.planned_records(study))


@pytest.fixture
def run(home):
    def run(study, executor=None):
        """Run a study; return how it stands, what was said, and its records."""
        folder = StudyFolder(home / "runs", study.name)
        folder.runs.mkdir(exist_ok=True)
        executor = executor or Executor()
        said = []
        driver.check(study, pending(study, folder), executor)
        tracker = open_tracker(study, embedded_uri(folder.runs), folder)
        progress = driver.run(study, folder, tracker, executor, on_message=said.append)
        return progress, said, folder.records(study.trials(folder.search_state()))

    return run


def test_if_one_batch_of_everything_fails_nothing_is_started(write_study, module, run, home):
    study, _ = write_study(
        workloads=[{"use": f"{module}:make", "width": 9}], optimizers=["sgd", "adam"], seeds=4, threshold=None
    )
    executor = Executor()
    progress, said, records = run(study, executor)
    assert executor.calls == ["check", "shutdown"]
    assert (progress.failed, progress.done, progress.total) == (8, 0, 8)
    assert said == [TRYING], "the failures say it all"
    (failure,) = failures(records)
    assert "mat1 and mat2 shapes cannot be multiplied" in failure.cause
    assert failure.place.startswith(str(home / module))
    with DriverLock(StudyFolder(home / "runs", "small").lock_file):
        pass


def test_what_fails_on_one_batch_is_said_at_once_and_the_rest_trains(write_study, module, run):
    wide = {"use": f"{module}:make", "width": 9}
    study, _ = write_study(
        workloads=[wide, f"{module}:make"], optimizers=["sgd", "adam"], seeds=2, epochs=1, threshold=None
    )
    executor = Executor()
    progress, said, records = run(study, executor)
    assert executor.calls == ["check", "wait", "train", "shutdown"]
    assert (progress.failed, progress.done) == (4, 4)
    assert {record.status for record in records if not record.trial.workload_args} == {"finished"}
    waited_for, line, *rest = said
    assert (waited_for, rest) == (TRYING, ["sending the last results to MLflow"])
    assert line.startswith(
        f"not trained, because one batch fails: {module}:make with sgd, {module}:make with adam: "
    )
    assert "mat1 and mat2 shapes cannot be multiplied" in line

    # Mended, they are trained when the study is run again, and the others are not touched.
    study, _ = write_study(
        workloads=[{"use": f"{module}:make", "width": 8}, f"{module}:make"],
        optimizers=["sgd", "adam"],
        seeds=2,
        epochs=1,
        threshold=None,
    )
    assert run(study)[0].done == 8


def test_a_trial_under_way_keeps_its_epochs_when_its_code_breaks(write_study, module, run, home):
    """A journal that is marked as failed resumes where it was."""
    study, _ = write_study(
        workloads=[f"{module}:make"], optimizers=["sgd"], seeds=1, epochs=2, threshold=None
    )
    _, _, (before,) = run(study)
    folder = StudyFolder(home / "runs", study.name)

    (trial,) = study.trials()
    path = folder.journal(trial)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))  # its start and its first epoch
    journal.mark_failed(path, trial, "Traceback (most recent call last):\nValueError: broken")
    (failed,) = folder.records([trial])
    assert (failed.status, len(failed.epochs), failed.attempt) == ("failed", 1, before.attempt)
    progress, _, (after,) = run(study)
    assert progress.done == 1
    assert after.attempt == before.attempt
    assert after.train_loss.tobytes() == before.train_loss.tobytes()


def test_without_preflight_everything_is_left_to_the_workers(write_study, module, home):
    study, _ = write_study(
        workloads=[{"use": f"{module}:make", "width": 9}], optimizers=["sgd"], seeds=2, threshold=None
    )
    folder, executor = StudyFolder(home / "runs", study.name), Executor()
    folder.runs.mkdir()
    tracker = open_tracker(study, embedded_uri(folder.runs), folder)
    progress = driver.run(study, folder, tracker, executor, preflight=False)
    assert executor.calls == ["wait", "train", "shutdown"]
    assert progress.failed == 2


@pytest.mark.parametrize(("gpus", "asked"), [(2.0, 0), (0.0, 0), (2.0, 1)])
def test_gpus_that_a_study_leaves_unused_are_said_in_a_line(write_study, run, gpus, asked, monkeypatch):
    study, _ = write_study(optimizers=["sgd"], seeds=1, epochs=1, resources={"cpus": 1, "gpus": asked})
    _, said, _ = run(study, Executor(gpus))
    expected = "there are 2 GPUs, and the study asks for none: it trains on CPUs; "
    assert [line.startswith(expected) for line in said if "GPUs, and" in line] == [True] * (gpus > 0 == asked)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"workloads": ["no_such_module:make"]}, WorkloadError),
        ({"optimizers": ["torch.optim.Adamm"]}, OptimizerError),
        ({"workloads": [{"use": "{module}:make", "absent": True}], "threshold": None}, DataError),
    ],
)
def test_a_refused_study_leaves_nothing_behind(write_study, module, run, home, change, error):
    for workload in change.get("workloads", ()):
        if isinstance(workload, dict):
            workload["use"] = f"{module}:make"
    study, _ = write_study(**change)
    executor = Executor()
    with pytest.raises(error):
        run(study, executor)
    assert "wait" not in executor.calls
    assert list((home / "runs").iterdir()) == []


def test_data_are_not_wanted_here_if_trials_run_elsewhere(write_study, module, home):
    study, _ = write_study(
        workloads=[{"use": f"{module}:make", "absent": True}], optimizers=["sgd"], threshold=None
    )
    driver.check(study, study.trials(), Executor(is_local=False))


def test_a_study_that_is_done_needs_neither_its_code_nor_a_cluster(write_study, module, run, home):
    study, _ = write_study(
        workloads=[f"{module}:make"], optimizers=["sgd"], seeds=1, epochs=1, threshold=None
    )
    run(study)
    (home / f"{module}.py").unlink()
    executor = Executor()
    progress, _, _ = run(study, executor)
    assert progress.done == 1
    assert executor.calls == ["shutdown"]


class Lost(Executor):
    """An executor that loses its workers."""

    def train(self, bundles, folder, options):
        super().train([bundles[0][:1]], folder, options)
        raise LostWorkersError("all are gone")


def test_what_was_trained_before_the_workers_were_lost_is_published(write_study, run, home):
    study, _ = write_study(optimizers=["sgd"], seeds=3, epochs=1, pack=1)
    with pytest.raises(LostWorkersError):
        run(study, Lost())
    folder = StudyFolder(home / "runs", study.name)
    assert [record.status for record in folder.records(study.trials())].count("finished") == 1
    assert run(study)[0].done == 3


SEARCH = {"alpha0": {"low": 1e-3, "high": 1.0}, "search": {"points": 4, "seeds": 1}, "threshold": None}


def test_a_search_of_which_one_batch_fails_asks_one_point_and_starts_nothing(write_study, module, run, home):
    workload = {"use": f"{module}:make", "width": 9}
    study, _ = write_study(workloads=[workload], optimizers=["sgd", "adam"], **SEARCH)
    executor = Executor()
    progress, _, records = run(study, executor)
    assert executor.calls == ["check", "shutdown"]
    assert [record.status for record in records] == ["failed"] * 2
    assert progress.total == 2 * (4 + 2)


def test_a_trial_that_is_done_stays_so_when_its_point_fails_untrained(write_study, home):
    study, _ = write_study(
        optimizers=["sgd"], epochs=1, **{**SEARCH, "search": {"points": 2, "seeds": [7, 8]}}
    )
    folder, (arm,) = StudyFolder(home / "runs", study.name), study.arms()
    search = open_search(study, folder, 1)
    unit = search.next()
    done, left = unit.trials[0]
    list(run_bundle([done], folder))
    search = open_search(study, folder, 1)
    search.fail(arm.template.kind, "Traceback (most recent call last):\nValueError: broken")
    assert [record.status for record in folder.records([done, left])] == ["finished", "failed"]
    assert search.is_over


def test_of_a_search_that_fails_in_part_at_once_only_the_rest_is_said_to_stop(write_study, module, run):
    wide, late = {"use": f"{module}:make", "width": 9}, {"use": f"{module}:make", "fail_after": 1}
    study, _ = write_study(workloads=[wide, late], optimizers=["sgd"], batch_size=16, epochs=1, **SEARCH)
    _, said, records = run(study)
    assert [record.status for record in records] == ["failed"] * 2
    assert len([line for line in said if "not trained, because one batch fails" in line]) == 1
    assert len([line for line in said if line.startswith(f"the search of {module}:make stops")]) == 1


def test_a_search_that_always_fails_stops_after_the_first_point_of_every_optimizer(
    write_study, module, run, home
):
    """It passes one batch and fails in the second."""
    workload = {"use": f"{module}:make", "fail_after": 1}
    study, _ = write_study(
        workloads=[workload, "digits-logreg"], optimizers=["sgd", "adam"], batch_size=16, epochs=1, **SEARCH
    )
    _, said, records = run(study)
    failed = [record for record in records if record.status == "failed"]
    assert len(failed) == 2
    assert {record.trial.optimizer for record in failed} == {"sgd", "adam"}
    (failure,) = failures(records)
    assert failure.cause == "ValueError: batch 1 is wrong"
    reason = "because the first point of every optimizer failed in the same way"
    assert f"the search of {module}:make stops, {reason}" in said
    others = [record for record in records if record.trial.workload == "digits-logreg"]
    assert len(others) == 2 * (4 + 2)
    assert {record.status for record in others} == {"finished"}
    # Each further run tries one point of every optimizer again.
    assert len([r for r in run(study)[2] if r.status == "failed"]) == 2
    points = search_journal.read(StudyFolder(home / "runs", "small").search_journal).points
    assert len(points) == 2 * 4 + 2


def test_one_optimizer_that_always_fails_does_not_stop_the_search_of_the_others(write_study, home, tmp_path):
    wrong = {"name": "adam", "args": {"betas": [2.0, 0.5]}}
    study, _ = write_study(optimizers=["sgd", wrong], epochs=1, **SEARCH)
    folder = StudyFolder(tmp_path / "runs", study.name)
    search = open_search(study, folder, 1)
    InProcessExecutor().search(search, folder, WorkerOptions())
    trials = study.trials(folder.search_state())
    statuses = [record.status for record in folder.records(trials)]
    assert search.given_up == []
    assert statuses.count("finished") == 4
    assert statuses.count("failed") == 4


def test_a_study_in_a_folder_with_a_strange_name_is_searched(write_study, run, home, monkeypatch):
    strange = home / "a?b#c%41 {x} 'ü&'"
    strange.mkdir()
    study, path = write_study(optimizers=["sgd"], epochs=1, **SEARCH)
    folder = StudyFolder(strange / "runs", study.name)
    search = open_search(load_study(path), folder, 1)
    InProcessExecutor().search(search, folder, WorkerOptions())
    assert folder.sampler_database.is_file()
    assert search.is_over
    assert sorted(p.name for p in strange.iterdir()) == ["runs"]


def test_no_room_for_a_worker_is_found_before_anything_is_written(write_study, home):
    study, _ = write_study(resources={"gpus": 1})
    folder = StudyFolder(home / "runs", study.name)
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ExecutorError):
        driver.check(study, pending(study, folder), InProcessExecutor())
    assert not folder.runs.exists()
