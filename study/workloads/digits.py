"""Handwritten digits of 8×8 pixels that come with scikit-learn: no download, seconds to train."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from study.workloads import models
from study.workloads.base import Data, Workload

__all__ = ["autoencoder", "conv", "load", "load_noisy", "load_pictures", "logreg", "mlp", "noisy_mlp"]

TRAIN = 1437
"""Pictures for training; the other 360 of the 1797 are for validation."""
MEAN, STD = 4.88, 6.01
"""Mean and standard deviation of the training pixels, which are 0 to 16."""
WRONG = 0.3
"""Probability that ``load_noisy`` gives a training picture a wrong label."""


def load(folder: Path) -> Data:
    """Return the digits as float32 inputs (1437, 64) and (360, 64); ``folder`` is not used.

    The split is a fixed permutation, because the pictures come in blocks of one writer each. It is the same
    for every seed, machine and version (``RandomState``'s stream is frozen by numpy's policy).
    """
    pixels, targets = _read()
    order = np.random.RandomState(2019).permutation(len(pixels))
    inputs = torch.from_numpy(((pixels[order] - MEAN) / STD).astype(np.float32))
    classes = torch.from_numpy(targets[order].astype(np.int64))
    return Data(inputs[:TRAIN], classes[:TRAIN], inputs[TRAIN:], classes[TRAIN:])


def load_noisy(folder: Path) -> Data:
    """Return the digits with 30 % of the training labels wrong, each drawn from the other nine.

    The validation labels are right, so a model that fits its training labels has a high validation loss.
    """
    data = load(folder)
    random = np.random.RandomState(2020)
    wrong = random.uniform(size=TRAIN) < WRONG
    others = (data.train_targets.numpy() + random.randint(1, 10, size=TRAIN)) % 10
    targets = np.where(wrong, others, data.train_targets.numpy())
    return replace(data, train_targets=torch.from_numpy(targets))


def load_pictures(folder: Path) -> Data:
    """Return the digits with each picture as its own target."""
    data = load(folder)
    return replace(data, train_targets=data.train_inputs, val_targets=data.val_inputs)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of ``sklearn.datasets.load_digits``, whose import would take 3 s in every worker."""
    package = find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        table = Path(folder, "datasets", "data", "digits.csv.gz")
        if table.is_file():
            rows = np.loadtxt(table, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(int)
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return pixels, targets


def logreg() -> Workload:
    """Return logistic regression, 64–10: 650 parameters."""
    return Workload("digits-logreg", load, partial(models.logreg, 64, 10))


def mlp() -> Workload:
    """Return a ReLU perceptron, 64–64–64–10: 8,970 parameters."""
    return Workload("digits-mlp", load, partial(models.mlp, 64, 64, 64, 10))


def noisy_mlp() -> Workload:
    """Return the perceptron of ``mlp``, with 30 % of the training labels wrong."""
    return Workload("digits-noisy-mlp", load_noisy, partial(models.mlp, 64, 64, 64, 10))


def autoencoder() -> Workload:
    """Return a tanh perceptron, 64–32–8–32–64, that codes its input in eight numbers: 4,744 parameters."""
    build = partial(models.mlp, 64, 32, 8, 32, 64, activation=nn.Tanh)
    return Workload("digits-autoencoder", load_pictures, build, F.mse_loss)


def conv() -> Workload:
    """Return 3×3 convolutions of 8 and 16 channels with batch norm, and a linear layer: 1,946 parameters."""
    return Workload("digits-conv", load, _conv)


def _conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), *_block(1, 8), *_block(8, 16), nn.Flatten(), nn.Linear(16 * 2 * 2, 10)
    )


def _block(before: int, after: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1)
    return convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)
