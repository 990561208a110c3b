"""MNIST, with the report's logistic regression and multilayer perceptron."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from study.workloads import models
from study.workloads.base import Data, Workload
from study.workloads.storage import open_or_download

__all__ = ["load", "logreg", "mlp"]

MEAN, STD = 0.1307, 0.3081
"""Of the training pixels, which are 0 to 1."""


def load(folder: Path) -> Data:
    """Return MNIST as float32 inputs (60000, 784) and (10000, 784); validation is MNIST's test set.

    Reads ``MNIST/raw`` in ``folder``, torchvision's layout.

    Raises:
        DataError: the files are not there and cannot be downloaded.
    """
    from torchvision.datasets import MNIST

    train, val = open_or_download(
        lambda root, download: [MNIST(root, train=train, download=download) for train in (True, False)],
        folder,
        what="MNIST",
        files="MNIST/raw",
        source=" or ".join(MNIST.mirrors),
    )
    return Data(_normalised(train.data), train.targets, _normalised(val.data), val.targets)


def _normalised(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def logreg() -> Workload:
    """Logistic regression, 784–10: 7,850 parameters."""
    return Workload("mnist-logreg", load, partial(models.logreg, 784, 10))


def mlp() -> Workload:
    """ReLU perceptron, 784–1000–1000–10: 1,796,010 parameters."""
    return Workload("mnist-mlp", load, partial(models.mlp, 784, 1000, 1000, 10))
