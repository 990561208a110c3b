"""Captured iterations, with stand-ins for the CUDA objects: a graph that repeats operations in place.

The stand-in keeps what a CUDA graph keeps, and no more: the tensors that were made during the capture. Of all
others it knows the address, and says so if nothing keeps them alive when it is replayed. As on a GPU, the
capture itself changes nothing.
"""

import contextlib
import gc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from study.config.trial import Trial
from study.training import capture
from study.training.capture import CapturedIteration
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")
aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense.default: "a value is read back",
    aten.lift_fresh.default: "numbers of the host are copied to the device",
}


class Outside:
    """A tensor that was there before the capture, as a graph knows it: by its address."""

    def __init__(self, tensor):
        self.storage = StorageWeakRef(tensor.untyped_storage())
        self.dtype, self.place = tensor.dtype, (tensor.storage_offset(), tensor.size(), tensor.stride())

    def get(self):
        storage = (
            None if self.storage.expired() else torch.UntypedStorage._new_with_weak_ptr(self.storage.cdata)
        )
        assert storage is not None, "the graph reads or writes freed memory"
        return torch.empty(0, dtype=self.dtype).set_(storage, *self.place)


class Recorder(TorchDispatchMode):
    """Notes every operation, those of autograd and of ``vmap`` as well."""

    def __init__(self):
        super().__init__()
        self.calls, self.made, self.before = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in FORBIDDEN, f"cannot be captured: {FORBIDDEN.get(func)}"
        given = tree_map(self.known, (args, kwargs or {}))
        addresses = self.addresses((args, kwargs or {}))
        results = func(*args, **(kwargs or {}))
        fresh = []
        for tensor in tensors_in(results):
            if address(tensor) not in addresses:
                self.made[address(tensor)] = tensor.untyped_storage()
                fresh.append(tensor)
            else:
                fresh.append(None)
        self.calls.append((func, given, fresh))
        return results

    def known(self, value):
        if not isinstance(value, torch.Tensor) or address(value) in self.made:
            return value
        if address(value) not in self.before:
            storage = value.untyped_storage()
            self.before[address(value)] = storage, storage.clone()
        return Outside(value)

    def undo(self):
        """Put back what was outside, as a capture executes nothing."""
        for storage, content in self.before.values():
            storage.copy_(content)
        self.before.clear()

    @staticmethod
    def addresses(values):
        return {address(tensor) for tensor in tensors_in(values)}


def address(tensor):
    return tensor.untyped_storage()._cdata


def tensors_in(values):
    return [value for value in torch.utils._pytree.tree_leaves(values) if isinstance(value, torch.Tensor)]


class Graph:
    """In place of ``torch.cuda.CUDAGraph``."""

    replays = 0

    def replay(self):
        Graph.replays += 1
        with torch.no_grad():
            for func, given, fresh in self.recorder.calls:
                args, kwargs = tree_map(lambda v: v.get() if isinstance(v, Outside) else v, given)
                results = func(*args, **kwargs)
                for before, after in zip(fresh, tensors_in(results), strict=True):
                    if before is not None:
                        before.copy_(after)


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


@contextlib.contextmanager
def graph(into):
    with Recorder() as into.recorder:
        yield
    into.recorder.undo()


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Models this small are trained by waiting for each other's threads otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(Graph, "replays", 0)


def test_what_an_iteration_refers_to_lives_as_long_as_the_capture():
    repeats, moved = torch.tensor([2, 1]), torch.zeros(3)

    def iterate(chosen, repeats):
        moved.add_(chosen.repeat_interleave(repeats, output_size=3))
        return moved * 1.0

    chosen = torch.tensor([1.0, 10.0])
    captured = CapturedIteration(partial(iterate, repeats=repeats), [chosen], [moved])
    alive = weakref.ref(repeats)
    del repeats
    gc.collect()
    assert alive() is not None
    assert moved.tolist() == [0.0, 0.0, 0.0]  # the warm-up is undone
    assert captured([chosen]).tolist() == [1.0, 1.0, 10.0]
    assert captured([torch.tensor([2.0, 20.0])]).tolist() == [3.0, 3.0, 30.0]
    assert captured.takes([chosen + 1])
    assert not captured.takes([chosen[:1]])


def test_the_stand_in_notices_freed_memory():
    moved = torch.zeros(2)
    given = torch.ones(2)
    into = Graph()
    with graph(into):
        moved.add_(given * 2)
    into.replay()
    into.replay()
    assert moved.tolist() == [4.0, 4.0]
    del given
    gc.collect()
    with pytest.raises(AssertionError, match="freed memory"):
        into.replay()


def test_the_stand_in_refuses_what_a_graph_cannot_capture():
    values = torch.ones(2)
    for forbidden in (lambda: float(values.sum()), lambda: torch.tensor([1, 2]) + values):
        with pytest.raises(AssertionError, match="cannot be captured"), graph(Graph()):
            forbidden()


def load(folder=None) -> Data:
    """77 rows to train on: the last of five batches of 16 is short."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(100) % 3
    inputs = torch.randn(100, 6, generator=random, dtype=torch.float64) + targets[:, None]
    return Data(inputs[:77], targets[:77], inputs[77:], targets[77:])


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def convolutional() -> nn.Module:
    layers = nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    return nn.Sequential(*layers).double()


def drawing() -> nn.Module:
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    return nn.Sequential(*layers).double()


def jitter(inputs, random):
    return inputs if random is None else inputs + torch.randn(inputs.shape, generator=random).double()


def grid(optimizer, seeds, **more):
    """Members that leave: after one epoch, after two, and in the middle of the third."""
    alpha0, beta = (0.003, 1e-5) if optimizer.startswith("adam") else (0.05, 1e-3)
    budgets = [{"epochs": 4}, {"epochs": 1}, {"epochs": 2}, {"iterations": 12}, {"epochs": 4}]
    return [
        Trial("w", optimizer, alpha0 * (1 + i / 2), beta, seed=seed, batch_size=16, **budget, **more)
        for i, (seed, budget) in enumerate(zip(seeds, budgets, strict=False))
    ]


def trained(training):
    records = {trial.key: [] for trial in training.trials}
    for epoch in training.epochs():
        gc.collect()
        for trial, record in epoch:
            records[trial.key].append(record)
    return records


@pytest.fixture
def steps_as_on_a_gpu(monkeypatch):
    """No kernels in C, which no dispatcher sees; Adam counts its steps with tensors, as it does compiled."""
    from hypergrad import directions, kernels

    monkeypatch.setattr(kernels, "at_hand", lambda tensor: False)
    real = directions.Adam._corrections

    def corrections(self, states):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_compiling", lambda: True)
            return real(self, states)

    monkeypatch.setattr(directions.Adam, "_corrections", corrections)


@pytest.mark.parametrize("seeds", [(0, 0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 4, 4)], ids=str)
@pytest.mark.parametrize("build", [perceptron, convolutional, drawing])
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam"])
def test_a_captured_pack_trains_as_its_trials_do_alone(
    optimizer, build, seeds, monkeypatch, steps_as_on_a_gpu
):
    prepare = jitter if build is drawing else None
    work, trials = Workload("w", load, build, prepare=prepare), grid(optimizer, seeds)
    alone = {trial.key: list(Training(trial, work, load(), CPU).epochs()) for trial in trials}
    monkeypatch.setattr("study.training.packed_trainer.can_capture", lambda device: True)
    captured = trained(PackTraining(trials, work, load(), CPU, capture=True))
    # Each of the four whole batches of an epoch, except as they are run anew to be captured.
    assert Graph.replays == 4 * 4
    assert captured.keys() == alone.keys()
    for key, records in captured.items():
        assert [r.iterations for r in records] == [r.iterations for r in alone[key]]
        for mine, other in zip(records, alone[key], strict=True):
            for name in ("train_loss", "alpha", "hypergradient"):
                a, b = getattr(mine, name), getattr(other, name)
                scale = np.nanmax(np.abs(b), initial=0.0) if np.isfinite(b).all() else 0.0
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * scale, err_msg=name)
            np.testing.assert_allclose(mine.val_loss, other.val_loss, rtol=1e-9)


def test_without_a_gpu_and_unless_asked_nothing_is_captured(monkeypatch):
    trials = grid("sgd-sgd", (0, 1))
    assert not capture.can_capture(CPU)
    assert capture.can_capture(torch.device("cuda", 0))
    trained(PackTraining(trials, Workload("w", load, perceptron), load(), CPU, capture=True))
    monkeypatch.setattr("study.training.packed_trainer.can_capture", lambda device: True)
    trained(PackTraining(trials, Workload("w", load, perceptron), load(), CPU))
    assert Graph.replays == 0
