"""A worker's packs: their journals are those of single trials, whatever interrupts them."""

import numpy as np
import pytest
import torch
from torch import nn

from study.config.loader import Trial
from study.execution import planning
from study.storage.study_folder import StudyFolder
from study.training import checkpoints, loop, pack_limits
from study.training.packed_trainer import PackTraining
from study.training.worker import WorkerOptions, run_bundle
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")


class Cut(BaseException):
    """Ends the process, as far as the worker can tell."""


def load(folder) -> Data:
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(120) % 3
    inputs = torch.randn(120, 4, generator=random, dtype=torch.float64) + targets[:, None]
    return Data(inputs[:90], targets[:90], inputs[90:], targets[90:])


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()


WORK = Workload("w", load, build)


def trials(**more) -> list[Trial]:
    more = {"epochs": 4, "batch_size": 30} | more
    return [
        Trial("w", "adam-adam", alpha0, 1e-5, seed=seed, **more)
        for alpha0 in (0.01, 0.02)
        for seed in (3, 1, 2)
    ]


@pytest.fixture
def use(monkeypatch):
    """A function that has every trial train a workload; called with the usual one already."""

    def use(workload):
        monkeypatch.setattr("study.workloads.registry.resolve", lambda *_: workload)

    use(WORK)
    return use


@pytest.fixture
def packed_sizes(monkeypatch):
    """Sizes of the packs that are trained."""
    sizes = []
    real = PackTraining.__init__

    def noted(self, trials, *rest):
        sizes.append(len(trials))
        real(self, trials, *rest)

    monkeypatch.setattr(PackTraining, "__init__", noted)
    return sizes


def run(folder, todo, pack=None, **more):
    return list(run_bundle(todo, folder, WorkerOptions(pack=pack, **more)))


def assert_same_records(folder, other, todo):
    for ours, theirs in zip(folder.records(todo), other.records(todo), strict=True):
        assert (ours.status, ours.trial, ours.error) == (theirs.status, theirs.trial, theirs.error)
        assert ours.machine == theirs.machine
        assert [epoch.epoch for epoch in ours.epochs] == [epoch.epoch for epoch in theirs.epochs]
        for name in ("train_loss", "alpha", "hypergradient"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-9)
        for mine, other_epoch in zip(ours.epochs, theirs.epochs, strict=True):
            assert mine.val_accuracy == other_epoch.val_accuracy
            assert mine.seconds > 0


def test_a_packed_bundle_leaves_what_single_trials_leave(tmp_path, use, packed_sizes):
    todo = [*trials(), Trial("w", "sgd", 0.1, None, 0, epochs=2), *trials(weight_decay=0.1)[:2]]
    packed, single = StudyFolder(tmp_path / "packed", "s"), StudyFolder(tmp_path / "single", "s")
    ends = run(packed, todo)
    assert packed_sizes == [6, 2]
    assert sorted(trial.key for trial, _ in ends) == sorted(trial.key for trial in todo)
    assert {status for _, status in ends} == {"finished"}
    assert [status for _, status in run(single, todo, pack=1)] == ["finished"] * 9
    assert packed_sizes == [6, 2]
    assert_same_records(packed, single, todo)
    assert not list(packed.path.glob("checkpoints/*"))
    before = {path: path.read_bytes() for path in packed.path.glob("trials/*")}
    run(packed, todo)
    assert {path: path.read_bytes() for path in packed.path.glob("trials/*")} == before


@pytest.mark.parametrize("size", [2, 4, 100])
def test_packs_are_no_larger_than_asked_for(size, tmp_path, use, packed_sizes):
    run(StudyFolder(tmp_path, "s"), trials(), pack=size)
    assert packed_sizes == {2: [2, 2, 2], 4: [3, 3], 100: [6]}[size]


def test_packs_fit_into_memory(tmp_path, use, packed_sizes, monkeypatch):
    monkeypatch.setattr("study.training.process_limits.free_memory", lambda: 4e5)
    folder = StudyFolder(tmp_path, "s")
    run(folder, trials())
    assert 1 < max(packed_sizes) < 6
    notes = {note for record in folder.records(trials()) for note in record.notes}
    (note,) = notes
    assert note == "packs of at most 5 trials instead of up to 256: a pack may fill 0.1 MB of memory here"


def test_packs_that_were_planned_for_a_gpu_are_smaller_without_one(tmp_path, use, packed_sizes, monkeypatch):
    """The planner goes by what the study asks for; where there is no GPU the worker says what it did."""
    monkeypatch.setattr("study.training.pack_limits.CPU_MEMBERS", 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = StudyFolder(tmp_path, "s")
    run(folder, trials(), gpus=1)
    assert packed_sizes == [3, 3]
    for record in folder.records(trials()):
        assert record.notes == (
            "packs of at most 4 trials instead of up to 1024: planned for a GPU, and this process sees none",
        )
        assert record.machine["device"].startswith("cpu")


def test_gpus_that_a_study_does_not_ask_for_change_nothing(tmp_path, use, packed_sizes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("study.training.pack_limits.CPU_MEMBERS", 4)
    folder = StudyFolder(tmp_path, "s")
    run(folder, trials())
    assert packed_sizes == [3, 3]
    for record in folder.records(trials()):
        assert record.machine["device"].startswith("cpu")
        assert record.notes == ()


@pytest.mark.parametrize("size", [None, 2, 4, 1])
def test_the_planner_and_the_worker_cut_the_same_packs(tmp_path, use, packed_sizes, size):
    todo = [*trials(), *trials(weight_decay=0.1)]
    limit = pack_limits.planned_limit(size, on_gpu=False)
    planned = planning.plan(todo, 1, {}, limit)
    folder = StudyFolder(tmp_path, "s")
    for bundle in planned.bundles:
        run(folder, bundle, pack=size)
    assert sorted(packed_sizes) == sorted(len(pack) for pack in planned.packs if len(pack) > 1)
    assert all(record.notes == () for record in folder.records(todo))


def cut_after(batches):
    """A loss that cuts the process off after so many batches."""
    count = 0

    def loss(outputs, targets):
        nonlocal count
        if torch.is_grad_enabled():
            count += 1
            if count > batches:
                raise Cut
        return nn.functional.cross_entropy(outputs, targets)

    return loss


@pytest.mark.parametrize(("first", "then"), [(None, None), (None, 1), (1, None)], ids=str)
def test_a_pack_that_is_interrupted_resumes_packed_or_alone(tmp_path, use, packed_sizes, first, then):
    """After two of four epochs, of three batches each: of all trials, or of the first if each is alone."""
    todo = trials()
    calm, folder = StudyFolder(tmp_path / "calm", "s"), StudyFolder(tmp_path / "cut", "s")
    run(calm, todo, pack=1)
    use(Workload("w", load, build, cut_after(8)))
    with pytest.raises(Cut):
        run(folder, todo, pack=first, checkpoint_seconds=0)
    before = folder.records(todo)
    packed_sizes.clear()
    use(WORK)
    run(folder, todo, pack=then)
    # One that is ahead of the others, alone, trains by itself.
    assert packed_sizes == ([] if then else [6] if first is None else [5])
    assert_same_records(folder, calm, todo)
    # What was recorded up to the checkpoint is not recorded again.
    for old, new in zip(before, folder.records(todo), strict=True):
        assert [epoch.time_ms for epoch in new.epochs[: len(old.epochs)]] == [e.time_ms for e in old.epochs]
    assert not list(folder.path.glob("checkpoints/*"))


def noisy() -> nn.Module:
    layers = nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.3), nn.Linear(12, 3)).double()


def jitter(inputs, random):
    return inputs if random is None else inputs + torch.randn(inputs.shape, generator=random).double()


@pytest.mark.parametrize(("first", "then"), [(6, 6), (6, 1), (1, 6)], ids=str)
def test_a_pack_that_draws_at_random_resumes_where_it_was(tmp_path, use, packed_sizes, first, then):
    """Convolution, batch norm, dropout and augmentation: cut in the third of four epochs."""
    todo = trials()
    calm, folder = StudyFolder(tmp_path / "calm", "s"), StudyFolder(tmp_path / "cut", "s")
    use(Workload("w", load, noisy, prepare=jitter))
    run(calm, todo, pack=1)
    use(Workload("w", load, noisy, cut_after(8), prepare=jitter))
    with pytest.raises(Cut):
        run(folder, todo, pack=first, checkpoint_seconds=0)
    assert packed_sizes == ([6] if first == 6 else [])
    packed_sizes.clear()
    use(Workload("w", load, noisy, prepare=jitter))
    run(folder, todo, pack=then)
    assert packed_sizes == ([] if then == 1 else [6] if first == 6 else [5])
    assert_same_records(folder, calm, todo)


def test_without_a_checkpoint_a_pack_is_trained_anew_and_its_first_numbers_are_not_kept(tmp_path, use):
    todo = trials()
    folder = StudyFolder(tmp_path, "s")
    use(Workload("w", load, build, cut_after(8)))
    with pytest.raises(Cut):
        run(folder, todo)
    before = folder.records(todo)
    assert all(len(record.epochs) == 2 for record in before)
    use(WORK)
    run(folder, todo, pack=1)
    for old, new in zip(before, folder.records(todo), strict=True):
        assert new.attempt != old.attempt
        assert new.epochs[0].time_ms >= old.epochs[-1].time_ms
        assert [epoch.epoch for epoch in new.epochs] == [1, 2, 3, 4]


def test_what_cannot_be_trained_together_is_trained_alone(tmp_path, use, packed_sizes):
    """This loss reads values, which a loss that is mapped over members cannot."""

    def reading(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets) * (
            1.0 if float(outputs.detach().sum()) < 1e9 else 2.0
        )

    use(Workload("w", load, build, reading))
    folder, plain = StudyFolder(tmp_path / "a", "s"), StudyFolder(tmp_path / "b", "s")
    assert {status for _, status in run(folder, trials())} == {"finished"}
    assert packed_sizes == [6]
    use(WORK)
    run(plain, trials(), pack=1)
    assert_same_records(folder, plain, trials())


def test_a_workload_that_fails_says_so_in_every_journal(tmp_path, use, monkeypatch):
    def broken(*_):
        raise OSError("the disk is away")

    monkeypatch.setattr("study.workloads.registry.resolve", broken)
    folder = StudyFolder(tmp_path, "s")
    assert [status for _, status in run(folder, trials())] == ["failed"] * 6
    assert all("the disk is away" in record.error for record in folder.records(trials()))


def test_when_memory_runs_out_packs_get_smaller(tmp_path, use, packed_sizes, monkeypatch):
    real = PackTraining.epochs

    def hungry(self):
        if len(self.trials) > 2:
            raise torch.OutOfMemoryError
        return real(self)

    monkeypatch.setattr(PackTraining, "epochs", hungry)
    folder, plain = StudyFolder(tmp_path / "a", "s"), StudyFolder(tmp_path / "b", "s")
    assert {status for _, status in run(folder, trials())} == {"finished"}
    assert packed_sizes == [6, 3, 3]  # and then one at a time, as half of three is one
    for record in folder.records(trials()):
        halved, alone = record.notes
        assert halved == "packs of at most 3 trials: memory ran out with 6"
        assert alone.startswith("trained alone: a pack of 3 trials raised OutOfMemoryError")
    run(plain, trials(), pack=1)
    assert_same_records(folder, plain, trials())


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")]
)
def test_a_model_that_fits_twice_is_trained_in_packs_of_two(error, tmp_path, use, packed_sizes):
    """Of eight members, once they are trained: halved until they fit, and none is trained twice."""

    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            weight = self.layer.weight
            members = 1
            while torch._C._functorch.is_batchedtensor(weight):
                weight = torch._C._functorch.get_unwrapped(weight)
                members = len(weight.flatten()) // 12
            if self.training and members > 2:
                raise error
            return self.layer(inputs)

    use(Workload("w", load, lambda: Greedy().double(), stacks=True))
    todo = trials(epochs=2)
    todo += [Trial("w", "adam-adam", 0.03, 1e-5, seed=seed, epochs=2, batch_size=30) for seed in (1, 2)]
    folder, plain = StudyFolder(tmp_path / "a", "s"), StudyFolder(tmp_path / "b", "s")
    assert {status for _, status in run(folder, todo)} == {"finished"}
    assert packed_sizes == [8, 4, 2, 2, 4, 2, 2]
    for record in folder.records(todo):
        assert record.notes == (
            "packs of at most 4 trials: memory ran out with 8",
            "packs of at most 2 trials: memory ran out with 4",
        )
    run(plain, todo, pack=1)
    assert_same_records(folder, plain, todo)


def test_a_diverged_member_is_reported_when_it_ends(tmp_path, use):
    def fourth_power(outputs, targets):
        return (outputs**4).mean() + nn.functional.cross_entropy(outputs, targets)

    use(Workload("w", load, build, fourth_power))
    todo = [Trial("w", "sgd-sgd", alpha0, 1e-3, seed=0, epochs=4) for alpha0 in (1e-3, 1e3)]
    folder = StudyFolder(tmp_path, "s")
    ends = run(folder, todo)
    assert [(trial.alpha0, status) for trial, status in ends] == [(1e3, "diverged"), (1e-3, "finished")]
    fine, diverged = folder.records(todo)
    assert (fine.status, diverged.status) == ("finished", "diverged")
    assert not np.isfinite(diverged.train_loss[-1]) or not np.isfinite(diverged.epochs[-1].val_loss)


def test_large_packs_write_checkpoints_less_often(tmp_path, use, monkeypatch):
    """Saves that take a second for all together may come every 20."""
    clock, saves, todo = [0.0], [], trials(epochs=25)

    written = []

    def save(self, state):
        written.append(state["key"])
        if len(written) % len(todo) == 0:
            saves.append(clock[0])
            clock[0] += 1.0

    monkeypatch.setattr(checkpoints.Checkpoints, "save", save)
    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])

    def ticking(self):
        for records in epochs(self):
            clock[0] += 2.0
            yield records

    epochs = PackTraining.epochs
    monkeypatch.setattr(PackTraining, "epochs", ticking)
    run(StudyFolder(tmp_path, "s"), todo, checkpoint_seconds=1)
    assert saves == [2.0, 23.0, 44.0]
