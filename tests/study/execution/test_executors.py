"""What every executor does: the numbers of a plain loop, each trial once, failures kept, whole searches.

And what only worker processes of a real Ray do, with logical GPUs.
"""

import errno
import os
import textwrap
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from study.analysis.tables import trial_table
from study.config.loader import Resources
from study.execution.executor import ExecutorError
from study.execution.in_process import InProcessExecutor
from study.execution.planning import plan
from study.execution.ray_backend import remote_folder
from study.execution.ray_backend.cluster import Connection
from study.execution.ray_backend.executor import RayExecutor
from study.execution.ray_backend.folder_actor import FolderActor
from study.execution.search import open_search, train_unit
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.training.pack_limits import planned_limit
from study.training.worker import WorkerOptions, run_bundle, run_side_by_side

PROBE = '''
import os, time
from pathlib import Path
import torch
from torch import nn
from study.workloads.base import Data, Workload

def load(folder):
    torch.manual_seed(0)
    x, y = torch.randn(60, 3), torch.arange(60) % 2
    return Data(x[:40], y[:40], x[40:], y[40:])

def build():
    return nn.Linear(3, 2)

def probe(notes, kill_once=False):
    """Notes when it began and ended, and on which GPU; dies on the first start if asked to."""
    notes = Path(notes)
    def prepare(inputs, random):
        if random is not None:
            dead = notes / "dead"
            if kill_once and not dead.exists():
                dead.touch()
                os._exit(1)
            begun = time.time()
            time.sleep(1.0)
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            (notes / f"{os.getpid()}-{begun}").write_text(f"{begun} {time.time()} {gpu}")
        return inputs
    return Workload("probe", load, build, prepare=prepare)
'''


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The current folder, where the probe's module lies."""
    home = tmp_path_factory.mktemp("home")
    (home / "probing.py").write_text(textwrap.dedent(PROBE))
    before = os.getcwd()
    os.chdir(home)
    yield home
    os.chdir(before)


@pytest.fixture(scope="module")
def ray_executor(home):
    """A Ray with four CPUs and two GPUs, all logical."""
    executor = RayExecutor(Connection(cpus=4, gpus=2))
    executor.check(Resources())
    executor.start()
    assert executor.wait(Resources(), StudyFolder(home, "small")).slots == 4
    yield executor
    executor.shutdown()


@pytest.fixture(
    params=[
        "in process",
        pytest.param("ray", marks=pytest.mark.ray),
        pytest.param("ray, no shared folder", marks=pytest.mark.ray),
    ]
)
def executor(request, home):
    """Every executor; the last one is the same Ray, whose workers write through an actor."""
    if request.param != "in process":
        executor = request.getfixturevalue("ray_executor")
        executor.shared_folder = None if request.param == "ray" else False
        return executor
    executor = InProcessExecutor()
    executor.start()
    assert executor.wait(Resources(), StudyFolder(home, "small")).slots == 1
    return executor


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "runs", "small")


def probes(write_study, tmp_path, seeds, **args):
    notes = tmp_path / "notes"
    notes.mkdir()
    workload = {"use": "probing:probe", "notes": str(notes), **args}
    study, _ = write_study(workloads=[workload], optimizers=["sgd"], seeds=seeds, epochs=1, threshold=None)
    return study.trials(), notes


def test_curves_are_those_of_a_plain_loop(executor, folder, tmp_path, write_study):
    trials = write_study()[0].trials()
    executor.train([trials[0::2], trials[1::2]], folder, WorkerOptions())
    here = StudyFolder(tmp_path / "here", "small")
    list(run_bundle(trials[::-1], here))
    for ours, theirs in zip(folder.records(trials), here.records(trials), strict=True):
        assert ours.status == "finished"
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
        assert ours.alpha.tobytes() == theirs.alpha.tobytes()
        assert [epoch.val_loss for epoch in ours.epochs] == [epoch.val_loss for epoch in theirs.epochs]


@pytest.mark.ray
def test_a_process_takes_bundle_after_bundle(ray_executor, folder, tmp_path, write_study):
    trials, notes = probes(write_study, tmp_path, seeds=6)
    ray_executor.train([[trial] for trial in trials], folder, WorkerOptions(cpus=2))
    assert [record.status for record in folder.records(trials)] == ["finished"] * 6
    processes = [note.name.partition("-")[0] for note in notes.iterdir()]
    assert len(processes) == 6
    assert len(set(processes)) <= 3


def test_packed_or_not_a_study_comes_to_the_same(executor, tmp_path, write_study):
    """The table of outcomes, the keys, and what MLflow is told but for times and last digits."""
    study, _ = write_study(optimizers=["sgd", "sgd-sgdn", "adam-adam"], seeds=4, epochs=3, threshold=1.0)
    trials, tables, runs = study.trials(), [], []
    for name, pack in (("packed", None), ("single", 1)):
        folder = StudyFolder(tmp_path / name, "small")
        limit = planned_limit(pack, on_gpu=False)
        bundles = plan(trials, 2, limit=limit).bundles
        executor.train(bundles, folder, WorkerOptions(pack=pack))
        records = folder.records(trials)
        assert [record.repeatable for record in records] == [pack == 1] * len(trials)
        tables.append(trial_table(records, study).drop(columns=["seconds", "seconds_to_threshold"]))
        tracker = open_tracker(study, embedded_uri(folder.runs), folder)
        for record in records:
            tracker.publish(record)
        client = MlflowClient(tracking_uri=tracker.location)
        found = client.search_runs([tracker.experiment_id], "tags.role = 'trial'")
        runs.append({run.data.tags["trial_key"]: run.data for run in found})
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-6)
    assert runs[0].keys() == runs[1].keys() == {trial.key for trial in trials}
    own = {"attempt", "mlflow.parentRunId"}
    for key, ours in runs[0].items():
        theirs = runs[1][key]
        assert ours.params == theirs.params
        assert {k: v for k, v in ours.tags.items() if k not in own} == {
            k: v for k, v in theirs.tags.items() if k not in own
        }
        assert ours.metrics.keys() == theirs.metrics.keys()


def test_ended_trials_are_not_run_again(executor, folder, write_study):
    trials = write_study()[0].trials()
    list(run_bundle(trials[:3], folder))
    before = {trial.key: folder.journal(trial).read_bytes() for trial in trials[:3]}
    executor.train([trials], folder, WorkerOptions())
    assert {trial.key: folder.journal(trial).read_bytes() for trial in trials[:3]} == before
    assert all(record.is_complete for record in folder.records(trials))


@pytest.mark.ray
def test_fractions_of_gpus_share_them_out(ray_executor, folder, tmp_path, write_study):
    resources = Resources(cpus=0.5, gpus=0.5)
    assert ray_executor.wait(resources, folder).slots == 4
    trials, notes = probes(write_study, tmp_path, seeds=6)
    ray_executor.train([[trial] for trial in trials], folder, WorkerOptions(cpus=0.5, gpus=0.5))
    assert all(record.status == "finished" for record in folder.records(trials))
    spans = [note.read_text().split() for note in notes.iterdir()]
    assert {gpu for _, _, gpu in spans} == {"0", "1"}
    times = [(float(begun), float(ended), gpu) for begun, ended, gpu in spans]
    for begun, _, _ in times:
        beside = [gpu for start, end, gpu in times if start <= begun < end]
        assert len(beside) <= 4
        assert all(beside.count(gpu) <= 2 for gpu in beside)


@pytest.mark.ray
def test_a_worker_that_dies_is_started_again(ray_executor, folder, tmp_path, write_study):
    trials, notes = probes(write_study, tmp_path, seeds=3, kill_once=True)
    ray_executor.train([trials], folder, WorkerOptions())
    assert (notes / "dead").exists()
    assert all(record.status == "finished" for record in folder.records(trials))


def test_a_trial_that_raises_does_not_stop_the_others(executor, folder, write_study):
    study, _ = write_study(
        optimizers=["sgd", {"name": "adam-adam", "args": {"lop_betas": [2.0, 0.5]}}], seeds=1
    )
    trials = study.trials()
    executor.train([trials[::-1]], folder, WorkerOptions())
    finished, failed = folder.records(trials)
    assert (finished.status, failed.status) == ("finished", "failed")
    assert "ValueError" in failed.error
    assert np.isfinite(finished.train_loss).all()


def test_an_interrupted_trial_resumes_from_its_checkpoint(executor, folder, tmp_path, write_study):
    (trial,) = write_study(optimizers=["adam-adam"], seeds=1, epochs=4)[0].trials()
    epochs = run_side_by_side([trial], folder, WorkerOptions(checkpoint_seconds=0))
    next(epochs), next(epochs), next(epochs)
    epochs.close()
    assert folder.checkpoint(trial).exists()
    executor.train([[trial]], folder, WorkerOptions())
    whole = StudyFolder(tmp_path / "whole", "small")
    list(run_bundle([trial], whole))
    (ours,), (theirs,) = folder.records([trial]), whole.records([trial])
    assert ours.status == "finished"
    assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
    assert not folder.checkpoint(trial).exists()


@pytest.mark.parametrize("scheduler", [None, {"name": "asha", "grace": 1, "reduction": 2}])
def test_a_search_asks_the_same_points_and_comes_to_the_same(
    executor, folder, tmp_path, write_study, scheduler
):
    """As one that is carried through here by hand, a point at a time."""
    study, _ = write_study(
        optimizers=["sgd", "adam-adam"],
        alpha0={"low": 1e-4, "high": 1.0},
        search={"points": 5, "sampler": "random"},
        scheduler=scheduler,
        epochs=3,
        pack=1,
    )
    slots = executor.wait(study.resources, folder).slots
    executor.search(open_search(study, folder, slots), folder, WorkerOptions())
    here = StudyFolder(tmp_path / "here", "small")
    search = open_search(study, here, 1)
    while (unit := search.next()) is not None:
        for epoch, value in train_unit(unit.trials, unit.objective, here, WorkerOptions()):
            if search.stops(unit, epoch, value):
                break
        search.settle(unit, stopped=True)
    points = folder.search_state().points
    assert sorted(points, key=str) == sorted(here.search_state().points, key=str)
    assert len(points) == 10
    statuses = set()
    trials = study.trials(folder.search_state())
    for ours, theirs in zip(folder.records(trials), here.records(trials), strict=True):
        assert ours.status == theirs.status
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
        statuses.add(ours.status)
    assert statuses == ({"finished"} if scheduler is None else {"finished", "pruned"})
    assert open_search(study, folder, slots).is_over, "nothing is left to ask"


class LateActor:
    """A ``FolderActor`` that does nothing until somebody waits for its reply, as over a slow network."""

    def __init__(self, folder):
        self._actor = FolderActor(folder, "")

    def __getattr__(self, name):
        return SimpleNamespace(remote=partial(partial, getattr(self._actor, name)))


def test_an_epoch_is_in_the_journals_when_its_value_is_reported(folder, write_study, monkeypatch):
    """A scheduler may stop the point at this value, and then its score comes from the journals."""
    monkeypatch.setattr(remote_folder, "ray", SimpleNamespace(get=lambda reply: reply()))
    study, _ = write_study(
        optimizers=["sgd"],
        alpha0={"low": 1e-4, "high": 1.0},
        search={"points": 2, "seeds": 2},
        scheduler={"name": "asha", "grace": 1, "reduction": 2},
        epochs=3,
    )
    unit = open_search(study, folder, 1).next()
    through_actor = remote_folder.RemoteFolder(LateActor(folder))
    for epoch, _ in train_unit(unit.trials, unit.objective, through_actor, WorkerOptions()):
        assert [len(record.epochs) for record in folder.records(unit.trials[0])] == [epoch, epoch]
    assert epoch == 3


@pytest.mark.parametrize("method", ["settle", "next"])
def test_an_error_of_the_search_ends_it(executor, folder, write_study, monkeypatch, method):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    study, _ = write_study(
        optimizers=["sgd"], alpha0={"low": 1e-4, "high": 1.0}, search={"points": 2}, epochs=1
    )
    search = open_search(study, folder, 1)
    monkeypatch.setattr(search, method, fail)
    with pytest.raises(OSError, match="No space left on device"):
        executor.search(search, folder, WorkerOptions())


def test_without_a_gpu_a_study_that_wants_one_is_refused_in_process():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ExecutorError, match=r"a trial asks for 0\.5 GPUs, and PyTorch finds none here"):
        InProcessExecutor().check(Resources(gpus=0.5))
