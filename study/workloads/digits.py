"""Handwritten digits of 8×8 pixels that come with scikit-learn: no download, seconds to train."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from study.workloads import models
from study.workloads.base import Data, Workload

__all__ = ["load", "logreg", "mlp"]

TRAIN = 1437
"""Pictures for training; the other 360 of the 1797 are for validation."""
MEAN, STD = 4.88, 6.01
"""Of the training pixels, which are 0 to 16."""


def load(folder: Path) -> Data:
    """Return the digits as float32 inputs (1437, 64) and (360, 64); ``folder`` is not used.

    The split is a fixed permutation: the pictures come in runs by one writer. It is the same for every
    seed, machine and version (``RandomState``'s stream is frozen by numpy's policy).
    """
    pixels, targets = _read()
    order = np.random.RandomState(2019).permutation(len(pixels))
    inputs = torch.from_numpy(((pixels[order] - MEAN) / STD).astype(np.float32))
    classes = torch.from_numpy(targets[order].astype(np.int64))
    return Data(inputs[:TRAIN], classes[:TRAIN], inputs[TRAIN:], classes[TRAIN:])


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Return the arrays of ``sklearn.datasets.load_digits``, whose import takes 3 s in every worker."""
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
    """Logistic regression, 64–10: 650 parameters."""
    return Workload("digits-logreg", load, partial(models.logreg, 64, 10))


def mlp() -> Workload:
    """ReLU perceptron, 64–64–64–10: 8,970 parameters."""
    return Workload("digits-mlp", load, partial(models.mlp, 64, 64, 64, 10))
