"""Training against loops written out here, and the promise of the same bits every time."""

import math
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from study.config.loader import Trial
from study.training.trainer import evaluate, train
from study.training.user_errors import LastBatchError
from study.workloads import datasets
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")
LEARNED = ["sgd-sgd", "sgd-sgdn", "sgd-adam", "sgdn-sgd", "sgdn-sgdn", "sgdn-adam", "adam-sgd", "adam-adam"]


def blobs(folder=None) -> Data:
    """Two overlapping clouds of 2-D points: 200 to train on, 50 to validate on."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(250) % 2
    inputs = torch.randn(250, 2, generator=random, dtype=torch.float64) + targets[:, None]
    return Data(inputs[:200], targets[:200], inputs[200:], targets[200:])


def zeros() -> nn.Module:
    model = nn.Linear(2, 2, dtype=torch.float64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 2)).double()


def jitter(inputs, random):
    if random is None:
        return inputs
    return inputs + 0.1 * torch.randn(inputs.shape, generator=random, dtype=inputs.dtype)


PLAIN = Workload("plain", blobs, zeros)
NOISY = Workload("noisy", blobs, noisy, prepare=jitter)


def trial(optimizer="adam-adam", alpha0=0.01, beta=1e-4, seed=0, epochs=3, **more) -> Trial:
    return Trial("plain", optimizer, alpha0, beta, seed=seed, epochs=epochs, **more)


def joined(records, name):
    return np.concatenate([getattr(record, name) for record in records])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, weight_decay=1e-4)),
        ("sgdn", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-4)),
    ],
)
def test_a_plain_trial_is_torchs_loop(name, make):
    """Whole-data batches, so that the order of the data matters to the last digits of a sum alone."""
    data, model = blobs(), zeros()
    optimizer, losses, val_losses = make(model.parameters()), [], []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data.train_inputs), data.train_targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        val_losses.append(nn.functional.cross_entropy(model(data.val_inputs), data.val_targets).item())
    records = list(train(trial(name, epochs=20, batch_size=1000), PLAIN, data, CPU))
    np.testing.assert_allclose(joined(records, "train_loss"), losses, rtol=1e-11)
    np.testing.assert_allclose([record.val_loss for record in records], val_losses, rtol=1e-11)
    assert set(joined(records, "alpha")) == {0.01}
    assert np.isnan(joined(records, "hypergradient")).all()


def test_epochs_visit_every_row_once_in_an_order_of_the_seed():
    seen: list[torch.Tensor] = []

    def spy(inputs, random):
        if random is not None:
            seen.append(inputs[:, 0])
        return inputs

    data = blobs()
    list(train(trial(epochs=2, batch_size=64), Workload("spy", blobs, zeros, prepare=spy), data, CPU))
    assert [len(batch) for batch in seen] == [64, 64, 64, 8] * 2
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert not torch.equal(first, second)
    for order in (first, second):
        assert torch.equal(order.sort().values, data.train_inputs[:, 0].sort().values)


@pytest.mark.parametrize("optimizer", LEARNED)
def test_alone_or_interleaved_the_bits_are_the_same(optimizer):
    """Dropout, augmentation and order draw from the trial's own streams."""
    mine, other, data = trial(optimizer), trial("sgd", seed=5), blobs()
    alone = list(train(mine, NOISY, data, CPU))
    torch.manual_seed(99)
    beside = []
    for record, _ in zip(train(mine, NOISY, data, CPU), train(other, NOISY, data, CPU), strict=True):
        beside.append(record)
        torch.rand(7)
    for name in ("train_loss", "alpha", "hypergradient"):
        assert joined(alone, name).tobytes() == joined(beside, name).tobytes()
    assert alone[-1].val_loss == beside[-1].val_loss
    different = list(train(trial(optimizer, seed=1), NOISY, data, CPU))
    assert joined(alone, "train_loss").tobytes() != joined(different, "train_loss").tobytes()


def test_training_leaves_the_global_generator_as_it_found_it():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    records = train(trial(), NOISY, blobs(), CPU)
    next(records)
    assert torch.equal(torch.rand(2), expected)


def test_divergence_ends_the_trial_and_keeps_its_curve():
    def fourth_power(outputs, targets):
        return (outputs**4).sum() + nn.functional.cross_entropy(outputs, targets)

    def ones():
        model = zeros()
        nn.init.ones_(model.weight)
        return model

    steep = Workload("steep", blobs, ones, fourth_power)
    records = list(train(trial("sgd", alpha0=10.0, epochs=50, batch_size=10), steep, blobs(), CPU))
    losses = joined(records, "train_loss")
    assert records[-1].diverged
    assert not any(record.diverged for record in records[:-1])
    assert not np.isfinite(losses[-1])
    assert np.isfinite(losses[:-1]).all()
    assert len(losses) == len(joined(records, "alpha"))


@pytest.mark.parametrize(("iterations", "lengths"), [(1, [1]), (4, [4]), (10, [4, 4, 2]), (8, [4, 4])])
def test_an_iteration_budget_is_kept_exactly(iterations, lengths):
    budget = Trial("plain", "sgd-sgd", 0.01, 1e-3, seed=0, iterations=iterations, batch_size=64)
    records = list(train(budget, PLAIN, blobs(), CPU))
    assert [record.iterations for record in records] == lengths
    assert records[-1].last_iteration == iterations


def test_one_alpha_per_tensor_is_kept_for_each():
    (record,) = train(trial(granularity="tensor", epochs=1, batch_size=64), PLAIN, blobs(), CPU)
    assert record.alpha_tensors.shape == (4, 2)
    np.testing.assert_allclose(record.alpha, record.alpha_tensors.mean(1))
    assert record.hypergradient.shape == (4,)


def test_evaluation_weights_batches_by_their_size(monkeypatch):
    monkeypatch.setattr("study.training.trainer.EVALUATION_BATCH", 7)
    data, model = blobs(), noisy().eval()
    outputs = model(data.val_inputs)
    loss, accuracy = evaluate(NOISY, data, model.train())
    assert math.isclose(loss, nn.functional.cross_entropy(outputs, data.val_targets).item(), rel_tol=1e-12)
    assert accuracy == (outputs.argmax(1) == data.val_targets).double().mean().item()


@contextmanager
def closing_hooks(*hooks):
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class CountReads(TorchDispatchMode):
    """Counts reads of a tensor's value into Python: each would wait for a GPU."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("optimizer", ["sgd", "sgdn-sgdn", "adam-adam"])
def test_outside_the_step_nothing_is_read_back_more_often_in_a_longer_epoch(optimizer):
    counts, in_step = [], []
    mode = CountReads()
    before = register_optimizer_step_pre_hook(lambda *_: in_step.append(-mode.reads))
    after = register_optimizer_step_post_hook(lambda *_: in_step.append(mode.reads))
    with mode, closing_hooks(before, after):
        for batch_size in (100, 4):
            mode.reads, in_step[:] = 0, []
            list(train(trial(optimizer, epochs=1, batch_size=batch_size), PLAIN, blobs(), CPU))
            counts.append(mode.reads - sum(in_step))
    assert counts[0] == counts[1] > 0


def test_numpys_and_pythons_generators_are_the_trials_own_too():
    """Augmentation that draws from the global generators, as much code does."""
    import random

    def drawing(inputs, generator):
        noise = torch.from_numpy(np.random.randn(*inputs.shape)) * random.random()
        return inputs + 0.1 * noise if generator else inputs

    def build():
        model = zeros()
        nn.init.constant_(model.bias, np.random.rand())
        return model

    work = Workload("drawing", blobs, build, prepare=drawing)
    state = np.random.get_state()[1].tolist(), random.getstate()
    first = joined(train(trial(), work, blobs(), CPU), "train_loss")
    assert (np.random.get_state()[1].tolist(), random.getstate()) == state
    np.random.seed(5)
    random.seed(5)
    again, other = train(trial(), work, blobs(), CPU), train(trial(seed=1), work, blobs(), CPU)
    turns = list(zip(again, other, strict=True))
    assert joined([turn[0] for turn in turns], "train_loss").tobytes() == first.tobytes()
    assert joined([turn[1] for turn in turns], "train_loss").tobytes() != first.tobytes()
    epochs = [record.train_loss.tobytes() for record, _ in turns]
    assert len(set(epochs)) == len(epochs)


SETTINGS = {
    "dtype": lambda: torch.set_default_dtype(torch.float16),
    "device": lambda: torch.set_default_device("meta"),
    "gradients": lambda: torch.set_grad_enabled(False),
    "threads": lambda: torch.set_num_threads(3),
}


@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_what_another_workload_sets_changes_no_bit(change):
    """It sets it wherever a workload's code runs; gradients only where its own training needs none."""
    settings = trial("adam-adam", epochs=2)
    alone = joined(train(settings, NOISY, blobs(), CPU), "train_loss").tobytes()

    def meddling(*values):
        change()
        return values[0]

    def build():
        model = noisy()
        change()
        return model

    def loss(outputs, targets):
        with torch.enable_grad():
            value = nn.functional.cross_entropy(outputs, targets)
        change()
        return value

    work = Workload("meddling", blobs, build, loss)
    beside = train(trial("sgd"), work, blobs(), CPU)
    with pytest.raises(RuntimeError) if change is SETTINGS["gradients"] else nullcontext():
        next(beside)
    records = []
    for record in train(settings, NOISY, blobs(), CPU):
        records.append(record)
        with suppress(RuntimeError):
            next(beside, None)
    assert joined(records, "train_loss").tobytes() == alone
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device() == CPU


def test_a_default_device_and_dtype_of_the_workload_are_in_force_in_its_model():
    """As the initial state of a recurrent model, which its forward pass makes."""

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs):
            return self.layer(inputs + torch.zeros(2))

    def load(folder):
        torch.set_default_dtype(torch.float64)
        return blobs()

    work = Workload("float64", load, Recurrent)
    data = datasets.load(work, None, CPU)
    records = list(train(trial(), work, data, CPU))
    assert {record.train_loss.dtype for record in records} == {np.dtype(np.float64)}
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(("size", "lengths"), [(32, 6), (100, 2), (200, 1), (201, 1)])
def test_a_smaller_last_batch_is_left_out_where_asked(size, lengths):
    """Of 200 rows, as ``torch.utils.data.DataLoader`` does it; but never all of them."""
    settings = trial(batch_size=size, epochs=2, drop_last=True)
    records = list(train(settings, PLAIN, blobs(), CPU))
    assert [record.iterations for record in records] == [lengths, lengths]
    if size <= 200:
        loader = torch.utils.data.DataLoader(torch.arange(200), batch_size=size, drop_last=True)
        assert len(loader) == lengths
    exact = list(train(trial(batch_size=100, epochs=2), PLAIN, blobs(), CPU))
    same = list(train(trial(batch_size=100, epochs=2, drop_last=True), PLAIN, blobs(), CPU))
    assert joined(exact, "train_loss").tobytes() == joined(same, "train_loss").tobytes()


def test_batch_normalisation_fails_on_a_last_batch_of_one_row_and_the_message_says_what_helps():
    def build():
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()

    work = Workload("normalised", blobs, build)
    with pytest.raises(LastBatchError, match="drop_last: true") as caught:
        list(train(trial(batch_size=199), work, blobs(), CPU))
    assert "Expected more than 1 value per channel" in str(caught.value)
    assert len(list(train(trial(batch_size=199, drop_last=True), work, blobs(), CPU))) == 3
    with pytest.raises(ValueError, match="Expected more than 1 value") as caught:
        list(train(trial(batch_size=1), work, blobs(), CPU))
    assert not isinstance(caught.value, LastBatchError)
