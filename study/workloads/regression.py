"""Regressions on made-up tables: a curved function of few columns, and columns that are almost collinear."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from study.workloads import models
from study.workloads.base import Data, Workload

__all__ = ["collinear_linear", "friedman_deep", "friedman_mlp", "load_collinear", "load_friedman"]

TRAIN, VAL = 3200, 800
"""Numbers of rows for training and for validation."""
COLUMNS = 32
"""Columns of the collinear table."""
SMALLEST = 0.05
"""The standard deviation of the collinear table along its narrowest direction; 1 along its widest."""
NOISE = 0.1
"""Standard deviation of the noise in the collinear table's targets."""
MEAN, STD = 14.4, 4.9
"""Mean and standard deviation of Friedman's function with its noise."""


def load_friedman(folder: Path) -> Data:
    """Return a table of ten columns as float32 (3200, 10) and (800, 10); ``folder`` is not used.

    The target is 10 sin(π x₁ x₂) + 20 (x₃ − ½)² + 10 x₄ + 5 x₅ + N(0, 1) for x uniform on [0, 1]; columns 6
    to 10 have no influence. Inputs and targets are standardised, so the noise has a variance of 0.042, and no
    model can have a lower loss. The table is the same for every seed and version (``RandomState``'s stream is
    frozen by numpy's policy), and, up to the last digits, on every machine.

    Source: Friedman 1991, Multivariate Adaptive Regression Splines, section 4.3,
    https://doi.org/10.1214/aos/1176347963
    """
    random = np.random.RandomState(2019)
    x = random.uniform(size=(TRAIN + VAL, 10))
    curved = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    targets = curved + random.normal(size=len(x))
    return _split((x - 0.5) * math.sqrt(12), (targets - MEAN) / STD)


def load_collinear(folder: Path) -> Data:
    """Return a badly conditioned table as float32 (3200, 32) and (800, 32); ``folder`` is not used.

    Rows are normal, with standard deviations from 1 down to 0.05 along 32 directions, none of which is
    parallel to an axis: the condition number of their covariance is 400, and scaling the columns does not
    help. The target depends equally on every direction, plus noise with a variance of 0.01. The data are
    always the same, as in ``load_friedman``.
    """
    random = np.random.RandomState(2019)
    directions, _ = np.linalg.qr(random.normal(size=(COLUMNS, COLUMNS)))
    lengths = np.logspace(0, math.log10(SMALLEST), COLUMNS)
    z = random.normal(size=(TRAIN + VAL, COLUMNS))
    signs = random.choice([-1, 1], size=COLUMNS) / math.sqrt(COLUMNS)
    targets = z @ signs + NOISE * random.normal(size=len(z))
    return _split(z * lengths @ directions.T, targets)


def _split(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> Data:
    x, y = (torch.from_numpy(values.astype(np.float32)) for values in (inputs, targets[:, None]))
    return Data(x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:])


def friedman_mlp() -> Workload:
    """Return a ReLU perceptron, 10–32–32–1, on Friedman's function: 1,441 parameters."""
    return Workload("friedman-mlp", load_friedman, partial(models.mlp, 10, 32, 32, 1), F.mse_loss)


def friedman_deep() -> Workload:
    """Return a tanh perceptron with ten hidden layers of width 10, on the same function: 1,111 parameters."""
    build = partial(models.mlp, *[10] * 11, 1, activation=nn.Tanh)
    return Workload("friedman-deep", load_friedman, build, F.mse_loss)


def collinear_linear() -> Workload:
    """Return linear regression on the badly conditioned table: 33 parameters."""
    return Workload("collinear-linear", load_collinear, partial(nn.Linear, COLUMNS, 1), F.mse_loss)
