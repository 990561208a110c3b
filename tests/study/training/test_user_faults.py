"""What a user's code raises fails its trials, with the cause in their journals; everything else trains."""

import numpy as np
import pytest
import torch

from study.config.loader import Trial
from study.storage.failures import failures
from study.storage.study_folder import StudyFolder
from study.training import pack_limits, worker
from study.training.device import BrokenDeviceError
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.training.worker import WorkerOptions, run_bundle, run_side_by_side


def faulty(name, optimizer="adam-adam", seeds=8, **more):
    more = {"epochs": 2, "batch_size": 30} | more
    return [Trial(name, optimizer, 0.01, 1e-5, seed=seed, **more) for seed in range(seeds)]


def healthy(seeds=3):
    return [Trial("digits-logreg", "sgd-sgd", 0.01, 1e-3, seed=seed, epochs=1) for seed in range(seeds)]


def run(trials, folder, **options):
    return dict(run_bundle(trials, folder, WorkerOptions(**options)))


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path, "s")


MISTAKES = {
    "layer width": ({"model": "nn.Linear(9, 3)"}, "mat1 and mat2"),
    "labels from 1": ({"data": "targets += 1"}, "out of bounds"),
    "a label in validation": ({"data": "targets[101] = 7"}, "Target 7 is out of bounds"),
    "loss": ({"loss": "raise KeyError('l')"}, "KeyError: 'l'"),
    "no gradient": ({"loss": "outputs = outputs.detach()"}, "does not require grad"),
    "a disk, in prepare": ({"prepared": True, "prepare": "open('/missing/file')"}, "No such file"),
    "build": ({"build": "raise KeyError('b')"}, "KeyError: 'b'"),
    "load": ({"load": "open('/missing/file')"}, "No such file"),
    "work": ({"work": "raise KeyError('w')"}, "KeyError: 'w'"),
    "module": ({"top": "raise KeyError('t')"}, "KeyError: 't'"),
    "it ends the process": ({"loss": "raise SystemExit(3)"}, "SystemExit: 3"),
}


@pytest.mark.parametrize("pack", [1, 2, None], ids=lambda pack: f"pack {pack}")
@pytest.mark.parametrize(("mistake", "cause"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_fails_its_trials_and_no_others(users_workload, folder, mistake, cause, pack):
    """With as many trials as packs are measured for; the healthy workload comes after the faulty one."""
    name = users_workload(**mistake)
    bad, good = faulty(name), healthy()
    ends = run([*bad, *good], folder, pack=pack)
    assert {ends[trial] for trial in bad} == {"failed"}
    assert {ends[trial] for trial in good} == {"finished"}
    (failure,) = failures(folder.records([*bad, *good]))
    assert cause in failure.cause
    assert name.partition(":")[0] in failure.place
    assert (failure.workloads, failure.trials) == ((name,), 8)
    assert "Traceback (most recent call last)" in failure.traceback
    # The last line is the exception, or all that there is of it.
    assert failure.traceback.rstrip().splitlines()[-1].endswith(failure.cause)


def test_an_optimizer_that_raises_fails_its_trials_and_no_others(users_workload, folder, tmp_path):
    name = users_workload()
    (tmp_path / "users" / "users_optimizer.py").write_text(
        "import torch\n"
        "class Faulty(torch.optim.SGD):\n"
        "    def step(self, closure=None):\n"
        "        raise ZeroDivisionError('step')\n"
    )
    bad, good = faulty(name, "users_optimizer.Faulty"), faulty(name, "sgd-sgd")
    ends = run([*bad, *good], folder, pack=None)
    assert [ends[trial] for trial in (*bad, *good)] == ["failed"] * 8 + ["finished"] * 8
    (failure,) = failures(folder.records([*bad, *good]))
    assert failure.cause == "ZeroDivisionError: step"
    assert failure.place.endswith("users_optimizer.py:4")
    assert failure.optimizers == ("Faulty",)


def test_a_mistake_in_a_search_fails_its_trials(users_workload, folder):
    name = users_workload(loss="raise KeyError('l')")
    bad = faulty(name, seeds=2)
    assert list(run_side_by_side(bad, folder)) == []
    assert [record.status for record in folder.records(bad)] == ["failed"] * 2


def test_one_member_that_raises_leaves_the_others_of_its_pack_trained(users_workload, folder):
    """Its loss is not finite, at which this workload raises; alone, the others train on."""
    name = users_workload(loss="if not bool(torch.isfinite(outputs).all()): raise OverflowError")
    trials = [
        Trial(name, "sgd", alpha0, None, seed=0, epochs=3, batch_size=30) for alpha0 in (0.01, 1e30, 0.02)
    ]
    ends = run(trials, folder, pack=3)
    assert [ends[trial] for trial in trials] == ["finished", "failed", "finished"]


def test_epochs_that_are_recorded_stay_where_the_next_start_fails(users_workload, folder, monkeypatch):
    """So that a checkpoint of a trial whose data are away for a moment is not ahead of its journal."""
    name = users_workload()
    (trial,) = faulty(name, seeds=1, epochs=4)
    monkeypatch.setattr("study.training.loop.is_repeatable", lambda device: False)

    class Cut(BaseException):
        pass

    def cut(records):
        for record in records:
            yield record
            if record.epoch == 3:
                raise Cut

    real = Training.epochs
    monkeypatch.setattr(Training, "epochs", lambda self: cut(real(self)))
    with pytest.raises(Cut):
        run([trial], folder, checkpoint_seconds=0)
    monkeypatch.setattr(Training, "epochs", real)
    monkeypatch.setattr("study.training.loop.datasets.load", lambda *_: 1 / 0)
    assert run([trial], folder) == {trial: "failed"}
    assert len(folder.records([trial])[0].epochs) == 3
    monkeypatch.undo()
    monkeypatch.chdir(folder.runs / "users")
    assert run([trial], folder) == {trial: "finished"}
    (record,) = folder.records([trial])
    assert [epoch.epoch for epoch in record.epochs] == [1, 2, 3, 4]
    assert record.epochs[0].time_ms < record.started_ms  # resumed, not trained anew


@pytest.mark.parametrize("place", ["top", "load", "build", "loss", "prepare", "forward"])
@pytest.mark.parametrize("first", ["users", "digits"])
def test_a_workload_in_float64_and_the_digits_train_in_one_process(users_workload, folder, place, first):
    statement = "torch.set_default_dtype(torch.float64)"
    name = users_workload(prepared=place == "prepare", model="Net()", **{place: statement})
    users, digits = faulty(name, seeds=2), healthy(2)
    order = [*users, *digits, *users] if first == "users" else [*digits, *users]
    ends = run(list(dict.fromkeys(order)), folder, pack=1)
    if place in ("top", "load"):
        assert {ends[trial] for trial in users} == {"finished"}
        assert {record.train_loss.dtype for record in folder.records(users)} == {np.dtype(np.float64)}
    assert {ends[trial] for trial in digits} == {"finished"}
    assert {record.train_loss.dtype for record in folder.records(digits)} == {np.dtype(np.float32)}
    assert torch.get_default_dtype() == torch.float32
    alone = StudyFolder(folder.runs / "alone", "s")
    run(digits, alone, pack=1)
    for ours, theirs in zip(folder.records(digits), alone.records(digits), strict=True):
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()


class Gpu:
    """A device that an exception breaks, as a failed assertion breaks a GPU, until the process ends."""

    def __init__(self, monkeypatch):
        self.broken = False
        monkeypatch.setattr(worker, "is_broken", lambda device: self.broken)
        for trainer in (PackTraining, Training):
            monkeypatch.setattr(trainer, "epochs", self.breaking(trainer.epochs))
        monkeypatch.setattr(
            pack_limits, "fitting_members", self.breaking_at_once(pack_limits.fitting_members)
        )

    def breaking(self, epochs):
        def wrapped(training):
            assert not self.broken, "a broken device was used"
            try:
                yield from epochs(training)
            except Exception as error:
                self.broken = True
                raise RuntimeError("CUDA error: device-side assert triggered") from error

        return wrapped

    def breaking_at_once(self, measure):
        def wrapped(*args):
            try:
                return measure(*args)
            except Exception:
                self.broken = True
                raise

        return wrapped

    def new_process(self):
        self.broken = False


@pytest.fixture
def gpu(monkeypatch):
    # The trial on the CPU, in the middle of all this, is no training on the device.
    epochs = Training.epochs
    gpu = Gpu(monkeypatch)

    def tried(trial, data_folder, gpus):
        with monkeypatch.context() as patch:
            patch.setattr(Training, "epochs", epochs)
            return preflight(trial, data_folder, gpus=gpus)

    preflight = worker.preflight
    monkeypatch.setattr(worker, "preflight", tried)
    return gpu


def restarted(trials, folder, gpu, options):
    """Run a bundle in new processes until one takes it to its end; return how it ended and how many died."""
    for deaths in range(20):
        gpu.new_process()
        try:
            return dict(run_bundle(trials, folder, options)), deaths
        except BrokenDeviceError:
            continue
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("pack", [1, 4, None])
def test_trials_that_break_a_gpu_are_told_apart_in_a_new_process(users_workload, folder, gpu, pack):
    """Labels out of range: a trial on the CPU says what is wrong with each, and no further process dies.

    It breaks where one trial trains, where a pack trains, and where packs are measured.
    """
    name = users_workload(data="targets += 1")
    bad, good = faulty(name), healthy()
    options = WorkerOptions(pack=pack, run="first")
    ends, deaths = restarted([*bad, *good], folder, gpu, options)
    assert deaths == 1
    assert [ends[trial] for trial in (*bad, *good)] == ["failed"] * 8 + ["finished"] * 3
    told = failures(folder.records([*bad, *good]))
    assert sum(failure.trials for failure in told) == 8
    assert "out of bounds" in told[-1].cause
    notes = [note for record in folder.records(bad) for note in record.notes]
    assert len(notes) == (7 if pack == 1 else 8)
    assert all("broke the GPU" in note for note in notes)


def test_one_member_that_breaks_the_gpu_fails_alone(users_workload, folder, gpu):
    """What it does wrong is not seen in its first batch."""
    statement = "if not bool(torch.isfinite(outputs).all()): raise OverflowError"
    name = users_workload(loss=statement)
    trials = [
        Trial(name, "sgd", alpha0, None, seed=0, epochs=3, batch_size=30) for alpha0 in (0.01, 1e30, 0.02)
    ]
    options = WorkerOptions(pack=3, run="first")
    ends, deaths = restarted(trials, folder, gpu, options)
    assert deaths == 2  # of the pack, and of the trial alone
    assert [ends[trial] for trial in trials] == ["finished", "failed", "finished"]
    assert all(record.run == "first" for record in folder.records(trials))
    # A new run takes up what failed; the same run does not.
    assert restarted(trials, folder, gpu, options)[1] == 0
    assert restarted(trials, folder, gpu, WorkerOptions(pack=3, run="second"))[1] == 1


def test_a_trial_that_failed_is_not_trained_again_when_its_bundle_starts_again(users_workload, folder):
    name = users_workload(loss="open('tries', 'a').write('x'); raise KeyError('l')")
    bad = faulty(name, seeds=1)

    def tries():
        return len((folder.runs / "users" / "tries").read_text())

    assert run(bad, folder, run="first", retries=2) == {bad[0]: "failed"}
    assert tries() == 3
    assert run(bad, folder, run="first", retries=2) == {bad[0]: "failed"}
    assert tries() == 3
    assert run(bad, folder, run="second") == {bad[0]: "failed"}
    assert tries() == 4
