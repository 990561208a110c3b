"""Single trials on the GPU: against the CPU, resumed, beside others, and in which precision."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from study.config.trial import Trial
from study.training.checkpoints import Checkpoints
from study.training.trainer import Training
from study.workloads.base import Data, Workload

from .problems import CPU, MODELS, NOISY, alone, assert_same, grid, through_a_file, workload

pytestmark = pytest.mark.gpu
OPTIMIZERS = ("sgd", "sgdn", "adam", "sgd-sgd", "sgdn-sgdn", "adam-sgd", "adam-adam", "torch.optim.AdamW")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_trial_on_the_gpu_is_that_on_the_cpu(optimizer, device):
    work, trials = workload("mlp"), grid(optimizer, seeds=(0, 1))
    assert_same(alone(trials, work, device), alone(trials, work, CPU))


@pytest.mark.parametrize("work", [workload("convolutional"), NOISY], ids=lambda work: work.name)
@pytest.mark.parametrize("optimizer", ["sgdn-sgdn", "adam-adam"])
def test_a_trial_is_resumed_from_its_checkpoint(optimizer, work, device, tmp_path):
    """Dropout, augmentation and order continue where they were, also where other code draws meanwhile."""
    (trial,) = grid(optimizer, seeds=(3,))
    whole = alone([trial], work, device)
    data = work.load(None).to(device)
    first = Training(trial, work, data, device)
    epochs = first.epochs()
    begun = [next(epochs), next(epochs)]
    checkpoints = Checkpoints(tmp_path / "trial.pt")
    checkpoints.save(first.state_dict())
    torch.rand(9, device=device)
    state, problems = checkpoints.newest(trial.key, recorded=2)
    assert problems == []
    second = Training(trial, work, data, device)
    second.load_state_dict(state)
    assert_same({trial.key: [*begun, *second.epochs()]}, whole)


@pytest.mark.parametrize("there", [False, True], ids=["to the GPU", "from the GPU"])
@pytest.mark.parametrize("model", MODELS)
def test_a_trial_is_resumed_on_another_device(model, there, device, tmp_path):
    work, (trial,) = workload(model), grid("adam-adam", seeds=(3,))
    source, target = (device, CPU) if there else (CPU, device)
    first = Training(trial, work, work.load(None).to(source), source)
    begun = next(first.epochs())
    second = Training(trial, work, work.load(None).to(target), target)
    second.load_state_dict(through_a_file(first.state_dict(), tmp_path / "s.pt"))
    assert_same({trial.key: [begun, *second.epochs()]}, alone([trial], work, CPU))


def test_alone_or_interleaved_a_trial_draws_the_same(device):
    mine, other = grid("adam-adam", seeds=(0, 5))
    expected = alone([mine], NOISY, device)
    data = NOISY.load(None).to(device)
    beside = []
    trainings = (Training(trial, NOISY, data, device).epochs() for trial in (mine, other))
    for record, _ in zip(*trainings, strict=True):
        beside.append(record)
        torch.rand(7, device=device)
    assert_same({mine.key: beside}, expected)


def test_training_leaves_the_global_generator_of_the_device_as_it_found_it(device):
    data, (trial,) = NOISY.load(None).to(device), grid("sgd-sgd", seeds=(0,))
    torch.manual_seed(3)
    expected = torch.rand(2, device=device)
    torch.manual_seed(3)
    list(Training(trial, NOISY, data, device).epochs())
    assert torch.equal(torch.rand(2, device=device), expected)


@pytest.mark.parametrize("work", [workload("convolutional"), NOISY], ids=lambda work: work.name)
@pytest.mark.parametrize("optimizer", ["sgdn", "sgdn-sgdn", "adam-adam"])
def test_a_longer_epoch_waits_for_the_gpu_no_more_often(optimizer, work, cuda):
    data, waits = work.load(None).to(cuda), []
    for batch_size in (39, 11):
        (trial,) = grid(optimizer, seeds=(0,), epochs=2, batch_size=batch_size)
        epochs = Training(trial, work, data, cuda).epochs()
        next(epochs)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                next(epochs)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchroniz" in str(warning.message) for warning in caught))
    assert waits[0] == waits[1] > 0


def wide(dtype, folder=None) -> Data:
    """Rows wide enough for a product or a convolution to be worth the tensor cores."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 512, generator=random, dtype=torch.float64).to(dtype)
    targets = torch.randint(10, (512,), generator=random)
    return Data(inputs[:384], targets[:384], inputs[384:], targets[384:])


def products() -> nn.Module:
    return nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def convolutions() -> nn.Module:
    layers = [nn.Unflatten(1, (8, 8, 8)), nn.Conv2d(8, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10))


@pytest.mark.parametrize("model", [products, convolutions])
def test_float32_is_not_rounded_further_unless_the_workload_asks(model, device):
    """Losses of small batches differ by 1e-7 in float32, and by 7e-5 or more with factors rounded to TF32."""

    def build(dtype):
        torch.manual_seed(0)
        return model().to(dtype)

    trial = Trial("wide", "sgd-sgd", 1e-2, 1e-9, seed=0, epochs=1, batch_size=4)
    losses = {}
    for dtype, where in ((torch.float32, device), (torch.float64, CPU)):
        work = Workload("wide", partial(wide, dtype), partial(build, dtype))
        records = Training(trial, work, wide(dtype).to(where), where).epochs()
        losses[dtype] = np.concatenate([record.train_loss for record in records])
    np.testing.assert_allclose(losses[torch.float32], losses[torch.float64], rtol=2e-5)


def test_a_forward_pass_in_bfloat16_learns_with_alpha_in_float32(device):
    class Autocast(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, inputs):
            with torch.autocast(inputs.device.type, torch.bfloat16):
                return self.model(inputs).float()

    plain = workload("mlp", torch.float32)
    half = replace(plain, build=lambda: Autocast(MODELS["mlp"]()))
    (trial,) = grid("adam-adam", seeds=(0,), epochs=20)
    (ours,), (theirs,) = (list(alone([trial], work, device).values()) for work in (half, plain))
    assert ours[-1].alpha.dtype == np.float32
    assert ours[-1].val_loss != theirs[-1].val_loss
    np.testing.assert_allclose(ours[-1].train_loss.mean(), theirs[-1].train_loss.mean(), rtol=0.05)
    assert ours[-1].train_loss.mean() < 0.8 * ours[0].train_loss.mean()
