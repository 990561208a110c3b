"""Small problems for the tests marked ``gpu``, and how their curves are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from study.config.trial import Trial
from study.storage.records import EpochRecord
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import models
from study.workloads.base import Data, Workload

CPU = torch.device("cpu")
CURVES = ("train_loss", "alpha", "hypergradient", "alpha_tensors")
Records = dict[str, list[EpochRecord]]


def clusters(dtype: torch.dtype, folder: object = None) -> Data:
    """Return three noisy classes in 6 dimensions. Of 77 training rows the last batch of 16 is short."""
    random = torch.Generator().manual_seed(1)
    targets = torch.arange(100) % 3
    inputs = torch.randn(100, 6, generator=random, dtype=torch.float64) + targets[:, None]
    inputs = inputs.to(dtype)
    return Data(inputs[:77], targets[:77], inputs[77:], targets[77:])


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)
    )


def _convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    )


MODELS = {"logreg": partial(models.logreg, 6, 3), "mlp": _mlp, "convolutional": _convolutional}


def workload(model: str = "mlp", dtype: torch.dtype = torch.float64, **more: Any) -> Workload:
    """Return a workload of one of :data:`MODELS`, which stack."""
    return Workload(model, partial(clusters, dtype), lambda: MODELS[model]().to(dtype), **more)


def _noisy_model() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3)
    ).double()


def _jitter(inputs: Tensor, random: torch.Generator | None) -> Tensor:
    if random is None:
        return inputs
    noise = torch.randn(inputs.shape, generator=random, device=random.device, dtype=inputs.dtype)
    return inputs + 0.1 * noise.to(inputs.device)


NOISY = Workload("noisy", partial(clusters, torch.float64), _noisy_model, prepare=_jitter)
"""Draws on the device: augmentation and dropout; and keeps statistics."""


def grid(
    optimizer: str, granularity: str = "group", seeds: Iterable[int] = (0, 1, 1, 4), **more: Any
) -> list[Trial]:
    """Return trials of different α₀ and β, on as many streams of data as there are seeds."""
    alpha0, beta = (0.003, 1e-5) if optimizer.startswith("adam") else (0.05, 1e-3)
    more = {"epochs": 4, "batch_size": 16, "granularity": granularity, "weight_decay": 0.01} | more
    return [
        Trial("w", optimizer, alpha0 * (1 + i / 2), beta / (1 + i), seed=seed, **more)
        for i, seed in enumerate(seeds)
    ]


def alone(trials: Sequence[Trial], work: Workload, device: torch.device) -> Records:
    """Return the records of trials that are trained one after the other."""
    data = work.load(None).to(device)  # type: ignore[arg-type]
    return {trial.key: list(Training(trial, work, data, device).epochs()) for trial in trials}


def together(
    trials: Sequence[Trial],
    work: Workload,
    device: torch.device,
    states: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    capture: bool = False,
) -> Records:
    """Return the records of a pack. Between its epochs, memory that it freed is filled with other values."""
    data = work.load(None).to(device)  # type: ignore[arg-type]
    pack = PackTraining(trials, work, data, device, states, capture=capture)
    records: Records = {trial.key: [] for trial in pack.trials}
    others = []
    for epoch in pack.epochs():
        for trial, record in epoch:
            records[trial.key].append(record)
        others.append(occupy_freed_memory(device))
    return records


def occupy_freed_memory(device: torch.device) -> list[Tensor]:
    """Return many tensors of absurd values, of the sizes of what a pack allocates and frees."""
    sizes = [1, 16, 64, 128, 512, 2048, 8192]
    return [torch.full((size,), 2**50, dtype=torch.int64, device=device) for size in sizes for _ in range(40)]


def through_a_file(state: Mapping[str, Any], path: Any) -> dict[str, Any]:
    """Return a state as it comes back from a checkpoint file."""
    torch.save(state, path)
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def assert_same(ours: Records, theirs: Records, rtol: float = 1e-8) -> None:
    """Assert that two sets of records tell of the same training, up to rounding."""
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert [(r.epoch, r.first_iteration) for r in ours[key]] == [
            (r.epoch, r.first_iteration) for r in theirs[key]
        ]
        for mine, other in zip(ours[key], theirs[key], strict=True):
            for name in CURVES:
                a, b = getattr(mine, name), getattr(other, name)
                assert (a is None) == (b is None)
                if a is not None:
                    # h passes through zero: what counts is its size beside the curve's
                    scale = np.nanmax(np.abs(b), initial=0.0)
                    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * scale, err_msg=name)
            np.testing.assert_allclose(mine.val_loss, other.val_loss, rtol=rtol)
            assert abs(mine.val_accuracy - other.val_accuracy) < 0.05
