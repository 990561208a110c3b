"""Optimizers by dotted path and schedules, against loops written out here with the packages themselves."""

import importlib
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from study.config.loader import Trial
from study.training import optimizers
from study.training.optimizers import OptimizerError
from study.training.trainer import Training
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")
PRODIGY, FREE_ADAM, FREE_SGD = (
    *("prodigyopt.Prodigy", "schedulefree.AdamWScheduleFree", "schedulefree.SGDScheduleFree"),
)
# The name, its α₀, and what else makes it.
MOVING = [
    ("torch.optim.AdamW", 0.01, {}),
    ("torch.optim.NAdam", 0.01, {"schedule": {"name": "step", "every": 2, "warmup": 0.5}}),
    ("torch.optim.SGD", 0.1, {"schedule": "cosine", "optimizer_args": {"momentum": 0.9, "nesterov": True}}),
    ("sgdn", 0.1, {"schedule": {"name": "cosine", "warmup": 1}}),
    ("adam", 0.01, {"schedule": "cosine"}),
    (PRODIGY, 1.0, {}),
    (PRODIGY, 1.0, {"schedule": "cosine", "optimizer_args": {"slice_p": 2}}),
    (FREE_ADAM, 0.01, {"optimizer_args": {"warmup_steps": 5}}),
    (FREE_SGD, 0.5, {}),
    ("dadaptation.DAdaptAdam", 1.0, {"schedule": "cosine", "optimizer_args": {"decouple": True}}),
    ("dog.LDoG", 1.0, {"schedule": "cosine"}),
    ("sgdn-sgdn", 0.1, {"beta": 1e-3, "schedule": {"name": "cosine", "hold": 2}}),
    ("adam-sgd", 0.01, {"beta": 1e-4, "schedule": "cosine", "granularity": "tensor"}),
]


def blobs(folder=None) -> Data:
    """Two overlapping clouds of 2-D points: 90 to train on, 30 to validate on."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(120) % 2
    inputs = torch.randn(120, 2, generator=random, dtype=torch.float64) + targets[:, None]
    return Data(inputs[:90], targets[:90], inputs[90:], targets[90:])


def sure() -> nn.Module:
    """A model of always the same weights."""
    model = nn.Linear(2, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter))
    return model


def noisy() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


PLAIN = Workload("plain", blobs, sure)
# In float32, as models are: torch's own load_state_dict rounds torch.optim.NAdam's state in float64.
NOISY = Workload("noisy", blobs, noisy, prepare=lambda inputs, random: inputs.float())


def trial(optimizer, alpha0=0.01, **more) -> Trial:
    settings = {"beta": None, "seed": 0, "epochs": 12, "batch_size": 1000, "weight_decay": 0.01, **more}
    return Trial("plain", optimizer, alpha0, **settings)


def by_path(path):
    module, _, name = path.rpartition(".")
    return getattr(pytest.importorskip(module), name)


def needs(path):
    """Skip where the package of an optimizer is not installed."""
    if "." in path:
        by_path(path)


def joined(records, name):
    return np.concatenate([getattr(record, name) for record in records])


def loop(make, rate=lambda group: group["lr"], schedule=None, epochs=12):
    """Whole-data batches by hand: losses, α before each step, validation losses after it."""
    data, model = blobs(), sure()
    optimizer = make(model.parameters())
    scheduler = schedule and schedule(optimizer)
    switched = hasattr(optimizer, "eval")
    losses, rates, val_losses = [], [], []
    for _ in range(epochs):
        if switched:
            optimizer.train()
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data.train_inputs), data.train_targets)
        loss.backward()
        rates.append(rate(optimizer.param_groups[0]))
        optimizer.step()
        if scheduler:
            scheduler.step()
        if switched:
            optimizer.eval()
        losses.append(loss.item())
        with torch.no_grad():
            val_losses.append(nn.functional.cross_entropy(model(data.val_inputs), data.val_targets).item())
    return losses, rates, val_losses


@pytest.mark.parametrize(
    ("settings", "make", "more"),
    [
        (trial("torch.optim.AdamW"), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.01), {}),
        (
            trial("torch.optim.AdamW", optimizer_args={"weight_decay": 0.5, "betas": [0.5, 0.9]}),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.5, betas=(0.5, 0.9)),
            {},
        ),
        (
            trial("sgdn", schedule="cosine"),
            lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
            {"schedule": lambda optimizer: CosineAnnealingLR(optimizer, 12)},
        ),
        (
            trial(PRODIGY, 0.5),
            lambda p: by_path(PRODIGY)(p, lr=0.5, weight_decay=0.01),
            {"rate": lambda group: group["lr"] * group["d"]},
        ),
        (trial(FREE_ADAM), lambda p: by_path(FREE_ADAM)(p, lr=0.01, weight_decay=0.01), {}),
        (
            trial(FREE_SGD, 0.5, optimizer_args={"warmup_steps": 4}),
            lambda p: by_path(FREE_SGD)(p, lr=0.5, weight_decay=0.01, warmup_steps=4),
            {"rate": lambda group: group["lr"] * min(1, (group["k"] + 1) / 4)},
        ),
    ],
    ids=["adamw", "adamw-args", "sgdn-cosine", "prodigy", "free-adamw", "free-sgd-warmup"],
)
def test_a_trial_is_the_packages_own_loop(settings, make, more):
    losses, rates, val_losses = loop(make, **more)
    records = list(Training(settings, PLAIN, blobs(), CPU).epochs())
    np.testing.assert_allclose(joined(records, "train_loss"), losses, rtol=1e-10)
    np.testing.assert_allclose([record.val_loss for record in records], val_losses, rtol=1e-10)
    np.testing.assert_allclose(joined(records, "alpha"), rates, rtol=1e-12)
    assert np.isnan(joined(records, "hypergradient")).all()
    assert losses[-1] < losses[0]


def test_a_schedule_multiplies_a_learned_rate():
    """With β = 0 the curves are those of torch's optimizer along torch's schedule, α with its factor."""
    settings = trial("adam-sgd", 0.03, beta=0.0, schedule="cosine", weight_decay=0)
    losses, rates, val_losses = loop(
        lambda p: torch.optim.Adam(p, lr=0.03), schedule=lambda optimizer: CosineAnnealingLR(optimizer, 12)
    )
    records = list(Training(settings, PLAIN, blobs(), CPU).epochs())
    np.testing.assert_allclose(joined(records, "train_loss"), losses, rtol=1e-6)
    np.testing.assert_allclose(joined(records, "alpha"), rates, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose([record.val_loss for record in records], val_losses, rtol=1e-6)
    assert np.isfinite(joined(records, "hypergradient")[1:]).all()


def test_a_scheduled_rate_goes_on_being_learned():
    """From equal α₀ the product with the schedule differs from the schedule alone by what was learned."""
    settings = trial("adam-sgd", 0.03, beta=1e-3, schedule="cosine")
    alpha = joined(list(Training(settings, PLAIN, blobs(), CPU).epochs()), "alpha")
    factor = (1 + np.cos(np.pi * np.arange(12) / 12)) / 2
    learned = alpha / factor
    assert learned[0] == pytest.approx(0.03)
    assert len(np.unique(learned.round(9))) > 8


def test_what_is_validated_are_the_averaged_weights():
    """Or the comparison above would hold without any switching."""
    make = by_path(FREE_SGD)
    averaged = loop(lambda p: make(p, lr=0.5))[2]
    model, data = sure(), blobs()
    optimizer = make(model.parameters(), lr=0.5)
    optimizer.train()
    for _ in range(12):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.train_inputs), data.train_targets).backward()
        optimizer.step()
    last = nn.functional.cross_entropy(model(data.val_inputs), data.val_targets).item()
    assert not math.isclose(last, averaged[-1], rel_tol=1e-3)


def test_weight_decay_goes_to_those_that_take_it(tmp_path, monkeypatch):
    (tmp_path / "takes.py").write_text(
        "import torch\n"
        "class Neither(torch.optim.SGD):\n"
        "    def __init__(self, params, lr):\n"
        "        super().__init__(params, lr=lr)\n"
        "class Some(torch.optim.SGD):\n"
        "    def __init__(self, params, lr, **rest):\n"
        "        super().__init__(params, lr=lr, **rest)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    params = [nn.Parameter(torch.zeros(1))]
    decay = {
        path: optimizers.build(trial(path, **more), params).param_groups[0]["weight_decay"]
        for path, more in {
            "torch.optim.SGD": {},
            "torch.optim.Adam": {"optimizer_args": {"weight_decay": 0.5}},
            "takes.Neither": {},
            "takes.Some": {"optimizer_args": {"weight_decay": 0.25}},
        }.items()
    }
    assert decay == {"torch.optim.SGD": 0.01, "torch.optim.Adam": 0.5, "takes.Neither": 0, "takes.Some": 0.25}


@pytest.mark.parametrize(("optimizer", "alpha0", "more"), MOVING)
def test_saved_and_loaded_elsewhere_it_goes_on_bit_for_bit(optimizer, alpha0, more):
    needs(optimizer)
    settings, data = trial(optimizer, alpha0, batch_size=32, epochs=5, **more), blobs()
    whole = list(Training(settings, NOISY, data, CPU).epochs())
    first = Training(settings, NOISY, data, CPU)
    epochs = first.epochs()
    begun = [next(epochs), next(epochs)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    next(epochs)
    file.seek(0)
    second = Training(settings, NOISY, data, CPU)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed = [*begun, *second.epochs()]
    for name in ("train_loss", "alpha"):
        assert joined(resumed, name).tobytes() == joined(whole, name).tobytes()
    assert [record.val_loss for record in resumed] == [record.val_loss for record in whole]
    if "schedule" in more:
        assert len(set(joined(whole, "alpha"))) > 2


@pytest.mark.parametrize(("optimizer", "alpha0", "more"), MOVING)
def test_the_seed_decides_everything(optimizer, alpha0, more):
    needs(optimizer)
    losses = []
    for seed, disturbance in ((0, 5), (0, 99), (1, 5)):
        torch.manual_seed(disturbance)
        settings = trial(optimizer, alpha0, batch_size=32, epochs=2, **{**more, "seed": seed})
        losses.append(joined(list(Training(settings, NOISY, blobs(), CPU).epochs()), "train_loss").tobytes())
    assert losses[0] == losses[1] != losses[2]


def test_an_optimizer_of_ours_by_its_path_shows_what_it_learns():
    settings = trial("hypergrad.SGD", optimizer_args={"lop": "sgd", "rule": "additive", "hypergrad_lr": 0.1})
    ours = Trial("plain", "sgd-sgd", 0.01, 0.1, 0, 12, batch_size=1000, weight_decay=0.01)
    records, same = (list(Training(t, PLAIN, blobs(), CPU).epochs()) for t in (settings, ours))
    for name in ("alpha", "hypergradient", "train_loss"):
        np.testing.assert_array_equal(joined(records, name), joined(same, name))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (trial("torch.optim.AdamX"), "torch.optim has no class 'AdamX' (did you mean 'Adam'?)"),
        (trial("torch.nn.Linear"), "not a class derived from torch.optim.Optimizer"),
        (trial("torch.optim.lr_scheduler.StepLR"), "not a class derived from torch.optim.Optimizer"),
        (trial("nosuchpackage.Thing"), "no module 'nosuchpackage' installed"),
        (
            trial("torch.optim.AdamW", optimizer_args={"beta": 1.0}),
            "got an unexpected keyword argument 'beta'; its arguments are lr, betas, eps,",
        ),
        (trial("torch.optim.AdamW", optimizer_args={"betas": [2, 0]}), "ValueError: Invalid beta parameter"),
        (trial("torch.optim.LBFGS"), "its step needs a closure, which a study does not give"),
        (trial("torch.optim.Optimizer"), "its arguments are"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_training(settings, words):
    with pytest.raises(OptimizerError, match=rf"\Aoptimizer {settings.optimizer}: [^\n]+\Z") as caught:
        optimizers.check(settings)
    assert words in str(caught.value)


def test_an_alpha0_that_the_class_refuses_is_found_before_training():
    needs(PRODIGY)
    with pytest.raises(OptimizerError, match="Invalid learning rate"):
        optimizers.check(trial(PRODIGY, 0.0))


def test_nothing_is_printed(capsys):
    """Prodigy prints when it is made."""
    needs(PRODIGY)
    optimizers.check(trial(PRODIGY, 1.0))
    assert capsys.readouterr().out == ""


def test_versions_are_those_of_other_packages():
    needs(PRODIGY)
    version = importlib.metadata.version("prodigyopt")
    assert optimizers.versions(trial(PRODIGY)) == {"prodigyopt": version}
    assert optimizers.versions(trial("adam")) == optimizers.versions(trial("torch.optim.AdamW")) == {}
    assert optimizers.versions(trial("mymodule.Mine")) == {}
