"""A bundle that is cut off goes on where it was, and ends as if it had not been."""

import io
import pickle
import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from study.config.loader import OPTIMIZERS, Trial
from study.storage import journal
from study.storage.study_folder import StudyFolder
from study.training.trainer import Training
from study.training.worker import WorkerOptions, run_bundle, run_side_by_side
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")


class Cut(BaseException):
    """Ends the process, as far as the worker can tell."""


def workload() -> Workload:
    return counted(None)[0]


def counted(cut_at: int | None) -> tuple[Workload, Callable[[], int]]:
    """Return a workload that is cut off at a batch, and what says how many batches it has had.

    Dropout, batch norm and augmentation, so that every random stream and buffer matters, numpy's and Python's
    among them.
    """
    batches = 0

    def load(folder) -> Data:
        generator = torch.Generator().manual_seed(1)
        inputs, targets = torch.randn(120, 4, generator=generator), torch.arange(120) % 3
        return Data(inputs[:90], targets[:90], inputs[90:], targets[90:])

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))

    def prepare(inputs, generator):
        nonlocal batches
        if generator is None:
            return inputs
        if batches == cut_at:
            raise Cut
        batches += 1
        more = np.random.rand() + random.random()
        return inputs + 0.1 * more * torch.randn(inputs.shape, generator=generator)

    return Workload("cut", load, build, prepare=prepare), lambda: batches


def trial(optimizer="adam-adam", **more) -> Trial:
    return Trial("cut", optimizer, 0.01, 1e-4, seed=3, epochs=6, batch_size=30, **more)


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_saved_and_loaded_elsewhere_it_goes_on_bit_for_bit(optimizer, granularity):
    settings, work = trial(optimizer, granularity=granularity), workload()
    data = work.load(None)
    whole = list(Training(settings, work, data, CPU).epochs())
    first = Training(settings, work, data, CPU)
    epochs = first.epochs()
    begun = [next(epochs) for _ in range(3)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    next(epochs)  # what is saved does not change as the training goes on
    file.seek(0)
    second = Training(settings, work, data, CPU)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = [*begun, *second.epochs()]
    assert [record.epoch for record in resumed] == [1, 2, 3, 4, 5, 6]
    assert [record.first_iteration for record in resumed] == [record.first_iteration for record in whole]
    for ours, theirs in zip(resumed, whole, strict=True):
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
        assert ours.alpha.tobytes() == theirs.alpha.tobytes()
        assert ours.val_loss == theirs.val_loss


def test_another_trials_checkpoint_is_refused():
    work = workload()
    data = work.load(None)
    saved = Training(trial("sgd"), work, data, CPU).state_dict()
    with pytest.raises(ValueError, match=trial("sgd").key):
        Training(trial("adam"), work, data, CPU).load_state_dict(saved)


@pytest.fixture
def at_work(tmp_path, monkeypatch):
    """A function that runs the one trial in a folder, cut off at a batch or not, and counts its batches."""

    def run(name, cut_at=None):
        folder, (work, batches) = StudyFolder(tmp_path / name, "s"), counted(cut_at)
        monkeypatch.setattr("study.workloads.registry.resolve", lambda *_: work)
        if cut_at is None:
            list(run_bundle([trial()], folder, WorkerOptions(checkpoint_seconds=0)))
        else:
            with pytest.raises(Cut):
                list(run_bundle([trial()], folder, WorkerOptions(checkpoint_seconds=0)))
        return folder, batches()

    return run


def assert_same_curves(folder, other):
    (ours,), (theirs,) = folder.records([trial()]), other.records([trial()])
    assert ours.status == theirs.status == "finished"
    for name in ("train_loss", "alpha", "hypergradient"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_a_cut_trial_goes_on_from_its_checkpoint(at_work):
    calm, all_batches = at_work("calm")
    folder, _ = at_work("cut", cut_at=13)  # in the fifth of six epochs of three batches
    (before,) = folder.records([trial()])
    assert (before.status, len(before.epochs)) == ("running", 4)
    assert folder.checkpoint(trial()).exists()
    _, batches = at_work("cut")
    assert (all_batches, batches) == (18, 6)
    assert_same_curves(folder, calm)
    (after,) = folder.records([trial()])
    assert [epoch.time_ms for epoch in after.epochs[:4]] == [epoch.time_ms for epoch in before.epochs]
    assert not folder.checkpoint(trial()).exists()


def test_a_trial_that_raises_is_started_again_as_often_as_asked(tmp_path, monkeypatch):
    starts = []

    def unlucky(*_):
        starts.append(1)
        if len(starts) < 3:
            raise OSError("the disk was busy")
        return workload()

    monkeypatch.setattr("study.workloads.registry.resolve", unlucky)
    folder = StudyFolder(tmp_path, "s")
    assert [status for _, status in run_bundle([trial()], folder, WorkerOptions(retries=1))] == ["failed"]
    assert "the disk was busy" in folder.records([trial()])[0].error
    assert [status for _, status in run_bundle([trial()], folder, WorkerOptions(retries=1))] == ["finished"]
    assert len(starts) == 3


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was executed",))


DAMAGES = {
    "empty": lambda content: b"",
    "torn": lambda content: content[: len(content) // 2],
    "flipped": lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
    "bomb": lambda content: pickle.dumps(Bomb()),
    "signed bomb": lambda content: b"%08x\n" % zlib.crc32(pickle.dumps(Bomb())) + pickle.dumps(Bomb()),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(at_work, damage):
    calm, _ = at_work("calm")
    folder, _ = at_work("cut", cut_at=13)  # in the fifth of six epochs of three batches
    last = folder.checkpoint(trial())
    last.write_bytes(damage(last.read_bytes()))
    _, batches = at_work("cut")
    assert batches == 9
    assert_same_curves(folder, calm)
    assert folder.records([trial()])[0].notes == (f"checkpoint {last.name} is damaged",)


def test_without_a_whole_checkpoint_a_trial_starts_over(at_work):
    calm, _ = at_work("calm")
    folder, _ = at_work("cut", cut_at=13)
    files = sorted(folder.checkpoint(trial()).parent.iterdir())
    assert len(files) == 2
    for path in files:
        path.write_bytes(b"")
    _, batches = at_work("cut")
    assert batches == 18
    assert_same_curves(folder, calm)
    assert len(folder.records([trial()])[0].notes) == 2
    assert list(folder.checkpoint(trial()).parent.iterdir()) == []


def test_a_checkpoint_ahead_of_a_damaged_journal_is_not_used(at_work):
    calm, _ = at_work("calm")
    folder, _ = at_work("cut", cut_at=13)
    path = folder.journal(trial())
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    at_work("cut")
    assert_same_curves(folder, calm)


class TestSideBySide:
    def test_it_yields_every_epoch_of_every_trial_and_ends_as_one_by_one(self, searched, tmp_path):
        study = searched(optimizers=["adam-adam"], seeds=3, epochs=3)
        (arm,) = study.arms()
        trials = arm.trials(arm.middle, [1, 2, 3])
        folder, other = StudyFolder(tmp_path / "a", "s"), StudyFolder(tmp_path / "b", "s")
        list(run_bundle(trials, other))
        seen = []
        for number, known in run_side_by_side(trials, folder):
            seen.append((number, [len(epochs) for epochs in known]))
            ended = [record.status for record in folder.records(trials)]
            assert ended == ["finished" if number == 3 else "running"] * 3
        assert seen == [(1, [1] * 3), (2, [2] * 3), (3, [3] * 3)]
        for ours, theirs in zip(folder.records(trials), other.records(trials), strict=True):
            assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
        again = [number for number, _ in run_side_by_side(trials, folder)]
        assert again == [1, 2, 3], "what a scheduler was told, it can be told again"
        starts = [file.read_bytes().count(b'{"event":"start"') for file in (folder.path / "trials").iterdir()]
        assert starts == [1] * 3

    def test_a_pruned_trial_says_so_and_can_be_trained_on(self, searched, tmp_path):
        (arm,) = searched(optimizers=["sgd"], epochs=3).arms()
        (trial,) = arm.trials(arm.middle, [1])
        folder, other = StudyFolder(tmp_path / "a", "s"), StudyFolder(tmp_path / "b", "s")
        next(run_side_by_side([trial], folder))
        journal.mark_pruned(folder.journal(trial), trial)
        (record,) = folder.records([trial])
        assert (record.status, len(record.epochs), record.is_complete, record.is_final) == (
            "pruned",
            1,
            False,
            True,
        )
        list(run_bundle([trial], folder))
        list(run_bundle([trial], other))
        (ours,), (theirs,) = folder.records([trial]), other.records([trial])
        assert ours.status == "finished"
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
