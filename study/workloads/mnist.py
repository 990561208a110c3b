"""MNIST, with the paper's logistic regression and multilayer perceptron."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from study.workloads import models
from study.workloads.base import Data, Workload
from study.workloads.datasets import open_or_download

__all__ = ["load", "logreg", "mlp"]

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of the training pixels, scaled to 0 to 1."""


def load(folder: Path) -> Data:
    """Return MNIST as float32 inputs (60000, 784) and (10000, 784); validation is MNIST's test set.

    It reads ``MNIST/raw`` in ``folder``, torchvision's layout.

    Raises:
        DataError: The files are not there and cannot be downloaded.
    """
    found = [tensor for name in FILES if (tensor := _read_idx(folder / "MNIST" / "raw" / name)) is not None]
    if [tensor.ndim for tensor in found] == [3, 1, 3, 1]:
        return _data(*found)
    from torchvision.datasets import MNIST

    train, val = open_or_download(
        lambda root, download: [MNIST(root, train=train, download=download) for train in (True, False)],
        folder,
        what="MNIST",
        files="MNIST/raw",
        source=" or ".join(MNIST.mirrors),
    )
    return _data(train.data, train.targets, val.data, val.targets)


def _data(images: Tensor, labels: Tensor, val_images: Tensor, val_labels: Tensor) -> Data:
    return Data(_normalised(images), labels.long(), _normalised(val_images), val_labels.long())


def _read_idx(path: Path) -> Tensor | None:
    """Return the tensor in a file of MNIST's format; None if it is incomplete, so that torchvision reads it.

    Importing torchvision takes longer than reading the files, in every worker.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError:
        return None
    if len(content) < 4 or tuple(content[:3]) != (0, 0, 8):  # 8: unsigned bytes
        return None
    start = 4 * (1 + int(content[3]))
    if len(content) < start:
        return None
    shape = content[4:start].view(">i4").tolist()
    return (
        torch.from_numpy(content[start:].reshape(shape)) if len(content) - start == math.prod(shape) else None
    )


def _normalised(pictures: Tensor) -> Tensor:
    return pictures.flatten(1).to(torch.float32).div_(255).sub_(MEAN).div_(STD)


def logreg() -> Workload:
    """Return logistic regression, 784–10: 7,850 parameters."""
    return Workload("mnist-logreg", load, partial(models.logreg, 784, 10))


def mlp() -> Workload:
    """Return a ReLU perceptron, 784–1000–1000–10: 1,796,010 parameters."""
    return Workload("mnist-mlp", load, partial(models.mlp, 784, 1000, 1000, 10))
