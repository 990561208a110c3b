"""Packs with convolution, batch norm, dropout and augmentation, against each of their trials alone."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from study.config.trial import Trial
from study.training import packed_trainer
from study.training.mapped_model import Mapped
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import cifar
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")
CURVES = ("train_loss", "alpha", "hypergradient", "alpha_tensors")
SEEDS = [(3,), (2, 2, 2), (0, 1, 2), (0, 0, 1, 1), (5, 0, 5, 1)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(folder=None) -> Data:
    """Bright, dark and striped squares of 8×8 pixels: the last of four batches of 16 is short."""
    random = np.random.RandomState(7)
    targets = np.arange(90) % 3
    pixels = random.randint(0, 120, size=(90, 3, 8, 8))
    pixels[targets == 1] += 80
    pixels[targets == 2, :, ::2] += 120
    inputs, classes = torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(targets)
    return Data(inputs[:60], classes[:60], inputs[60:], classes[60:])


def augment(inputs, generator, dtype):
    return cifar.prepare(inputs, generator).to(dtype)


def vgg() -> nn.Module:
    """VGG in small: two blocks, batch norm after every convolution, dropout before the linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(24, 8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(8, 3),
    )


def spatial() -> nn.Module:
    """Channels are dropped out whole; batch norm without weights, and without running statistics."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Dropout2d(0.3, inplace=True),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.BatchNorm1d(8, track_running_stats=False, momentum=0.3),
        nn.Linear(8, 3),
    )


class Residual(nn.Module):
    """A user's module, whose buffer differs from seed to seed."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.output = nn.Linear(4, 3)
        self.register_buffer("noise", torch.randn(4))

    def forward(self, inputs):
        hidden = self.norm(self.features(inputs)).relu().mean((2, 3))
        return self.output(hidden + self.drop(hidden * self.noise))


class Recurrent(nn.Module):
    """Rows of a picture, read one after the other by two layers."""

    def __init__(self):
        super().__init__()
        self.rows, self.output = nn.GRU(24, 5, num_layers=2, batch_first=True), nn.Linear(5, 3)

    def forward(self, inputs):
        states, last = self.rows(inputs.transpose(1, 2).flatten(2))
        return self.output(states.mean(1) + last[0])


MODELS = {"vgg": vgg, "spatial": spatial, "residual": Residual, "recurrent": Recurrent}


def workload(model="vgg", dtype=torch.float64) -> Workload:
    return Workload(
        model,
        pictures,
        lambda: MODELS[model]().to(dtype),
        prepare=partial(augment, dtype=dtype),
        stacks=model in ("residual", "recurrent"),
    )


def grid(optimizer="sgdn-adam", seeds=(0, 1, 1, 4), **more) -> list[Trial]:
    alpha0, beta = (0.003, 1e-5) if optimizer.startswith("adam") else (0.02, 1e-3)
    more = {"epochs": 3, "batch_size": 16} | more
    return [
        Trial("w", optimizer, alpha0 * (1 + i / 2), beta / (1 + i), seed=seed, **more)
        for i, seed in enumerate(seeds)
    ]


def alone(trials, work):
    return {trial.key: list(Training(trial, work, pictures(), CPU).epochs()) for trial in trials}


def packed(training):
    records = {trial.key: [] for trial in training.trials}
    for epoch in training.epochs():
        for trial, record in epoch:
            records[trial.key].append(record)
    return records


def together(trials, work):
    return packed(PackTraining(trials, work, pictures(), CPU))


def assert_same(ours, theirs, share):
    """Curves differ by at most ``share`` of their largest value."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert [r.epoch for r in ours[key]] == [r.epoch for r in theirs[key]]
        for mine, other in zip(ours[key], theirs[key], strict=True):
            for name in CURVES:
                a, b = getattr(mine, name), getattr(other, name)
                assert (a is None) == (b is None)
                if a is not None:
                    largest = np.nanmax(np.abs(b), initial=0.0)
                    np.testing.assert_allclose(a, b, rtol=0, atol=share * largest, err_msg=name)
            assert mine.val_loss == pytest.approx(other.val_loss, rel=share)
            assert mine.val_accuracy == other.val_accuracy


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_in_float64_every_member_trains_as_it_would_alone(model, seeds):
    work, trials = workload(model), grid(seeds=seeds)
    ours = together(trials, work)
    assert_same(ours, alone(trials, work), 1e-9)
    assert len({records[-1].val_loss for records in ours.values()}) == len(trials)


@pytest.mark.parametrize("granularity", ["group", "tensor", "released"])
@pytest.mark.parametrize("optimizer", ["sgd", "sgdn-sgd", "adam-adam"])
def test_by_any_optimizer(optimizer, granularity):
    work, trials = workload(), grid(optimizer, granularity=granularity)
    assert_same(together(trials, work), alone(trials, work), 1e-8)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam"])
def test_in_float32_the_curves_differ_by_rounding(optimizer, model):
    """After 12 iterations; another mask, picture or statistic would be seen in the first ones."""
    work, trials = workload(model, torch.float32), grid(optimizer)
    assert_same(together(trials, work), alone(trials, work), 5e-3)


def test_members_reach_their_own_budgets_and_the_rest_keep_their_statistics():
    """Four iterations an epoch; members leave the pack within the second and after it."""
    budgets = [{"iterations": n, "epochs": None} for n in (5, 8, 12)] + [{"epochs": 3}]
    trials = [
        Trial(**trial.settings() | budget)
        for trial, budget in zip(grid(seeds=(0, 1, 0, 1)), budgets, strict=True)
    ]
    work = workload()
    assert_same(together(trials, work), alone(trials, work), 1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_saved_members_resume_in_a_pack_or_alone_and_single_trials_in_a_pack(model, tmp_path):
    work, trials = workload(model), grid("adam-adam", seeds=(0, 2, 2))
    whole = alone(trials, work)

    def stored(state):
        torch.save(state, tmp_path / "state.pt")
        return torch.load(tmp_path / "state.pt", weights_only=True)

    singles = [Training(trial, work, pictures(), CPU) for trial in trials]
    pack = PackTraining(trials, work, pictures(), CPU)
    epochs = pack.epochs()
    next(epochs)
    for single in singles:
        next(single.epochs())
    of_pack = {trial.key: stored(pack.state_dict(trial)) for trial in trials}
    of_singles = {t.key: stored(single.state_dict()) for t, single in zip(trials, singles, strict=True)}
    for trial in trials:
        # Also what counts batches and what is drawn from here on; no tensor is left out, and none added.
        mine, other = of_pack[trial.key], of_singles[trial.key]
        assert mine["model"].keys() == other["model"].keys()
        for name, value in other["model"].items():
            torch.testing.assert_close(mine["model"][name], value, msg=name)
        torch.testing.assert_close(mine["random"], other["random"])
    next(epochs)  # what is saved does not change as the training continues
    for states in (of_pack, of_singles):
        again = packed(PackTraining(trials, work, pictures(), CPU, states))
        assert_same(again, {key: records[1:] for key, records in whole.items()}, 1e-8)
    for trial in trials:
        single = Training(trial, work, pictures(), CPU)
        single.load_state_dict(of_pack[trial.key])
        assert_same({trial.key: list(single.epochs())}, {trial.key: whole[trial.key][1:]}, 1e-8)


def test_members_of_one_seed_drop_out_the_same_and_of_another_seed_something_else(monkeypatch):
    drawn = []
    real = Mapped.masks
    monkeypatch.setattr(Mapped, "masks", lambda self, inputs: drawn.append(real(self, inputs)) or drawn[-1])
    together(grid(seeds=(0, 0, 1), epochs=1), workload())
    assert len(drawn) == 2 * 4  # once for each seed and iteration
    assert {round(float(value), 6) for value in drawn[0][0].unique()} == {0.0, 2.0}
    assert {round(float(value), 6) for value in drawn[0][1].unique()} == {0.0, 1.25}
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])


def test_training_leaves_the_global_generator_as_it_was():
    before = torch.get_rng_state()
    together(grid(epochs=1), workload())
    assert torch.equal(torch.get_rng_state(), before)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(4, 4), nn.Dropout()

    def forward(self, inputs):
        return self.drop(self.layer(self.drop(inputs)))


def test_a_dropout_that_a_module_calls_twice_is_refused():
    with pytest.raises(ValueError, match="drop drops out 2 times in one forward pass"):
        Mapped([Twice(), Twice()]).masks(torch.zeros(3, 4))


def test_evaluation_is_cut_into_batches_without_a_trace(monkeypatch):
    """Batch norm and dropout see each row by itself in evaluation."""
    work, trials = workload(), grid(seeds=(0, 1))
    whole = together(trials, work)
    monkeypatch.setattr(packed_trainer, "LEAST_EVALUATION_BATCH", 7)
    monkeypatch.setattr(packed_trainer, "EVALUATION_BATCH", 14)
    assert_same(together(trials, work), whole, 1e-9)
