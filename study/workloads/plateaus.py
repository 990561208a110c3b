"""Problems with a plateau: the loss hardly changes at first, and then falls. Made-up data: no download."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.workloads import models
from study.workloads.base import Data, Workload

__all__ = ["AddingModel", "adding_gru", "load_adding", "load_parity", "parity_mlp"]

TRAIN, VAL = 6400, 1600
"""Numbers of rows for training and for validation."""
BITS = 20
"""Bits in a row of the parity problem."""
COUNTED = 3
"""Number of bits, the first in a row, that determine its class."""
FLIPPED = 0.1
"""Probability that a row's class is flipped."""
LENGTH = 10
"""Numbers in a row of the adding problem."""
NOISE = 0.1
"""Standard deviation of the noise in the sums."""


def load_parity(folder: Path) -> Data:
    """Return rows of ±1 as float32 (6400, 20) and (1600, 20); ``folder`` is not used.

    The class of a row is the parity of the ones among its first three numbers, for one row in ten the other
    class. One or two of the numbers carry no information about it, so a model learns nothing until it has
    found all three. Even the best model has a loss of 0.325, the entropy of the flips. The rows are the same
    for every seed, machine and version (``RandomState``'s stream is frozen by numpy's policy).

    Source: Barak et al. 2022, Hidden Progress in Deep Learning: SGD Learns Parities Near the Computational
    Limit, https://arxiv.org/abs/2207.08799
    """
    random = np.random.RandomState(2019)
    bits = random.randint(0, 2, size=(TRAIN + VAL, BITS))
    flipped = random.uniform(size=len(bits)) < FLIPPED
    inputs = torch.from_numpy((2 * bits - 1).astype(np.float32))
    classes = torch.from_numpy(((bits[:, :COUNTED].sum(1) + flipped) % 2).astype(np.int64))
    return Data(inputs[:TRAIN], classes[:TRAIN], inputs[TRAIN:], classes[TRAIN:])


def load_adding(folder: Path) -> Data:
    """Return sequences as float32 (6400, 10, 2) and (1600, 10, 2); ``folder`` is not used.

    Each step has a number, uniform on [0, 1], and a mark, which is 1 at two steps, one in each half, and 0
    otherwise. The target is the sum of the two marked numbers, plus noise with a variance of 0.01. The
    constant answer 1 has a loss of 0.177, and a recurrent network gives it for a while. The data are always
    the same, as in ``load_parity``.

    Source: Hochreiter and Schmidhuber 1997, Long Short-Term Memory, experiment 4,
    https://doi.org/10.1162/neco.1997.9.8.1735
    """
    random = np.random.RandomState(2019)
    numbers = random.uniform(size=(TRAIN + VAL, LENGTH))
    rows = np.arange(len(numbers))
    marks = np.zeros_like(numbers)
    marks[rows, random.randint(0, LENGTH // 2, size=len(rows))] = 1
    marks[rows, random.randint(LENGTH // 2, LENGTH, size=len(rows))] = 1
    sums = (numbers * marks).sum(axis=1, keepdims=True) + NOISE * random.normal(size=(len(rows), 1))
    inputs = torch.from_numpy(np.stack([numbers, marks], axis=2).astype(np.float32))
    targets = torch.from_numpy(sums.astype(np.float32))
    return Data(inputs[:TRAIN], targets[:TRAIN], inputs[TRAIN:], targets[TRAIN:])


def parity_mlp() -> Workload:
    """Return a ReLU perceptron, 20–64–2, on the parity of three bits among twenty: 1,474 parameters."""
    return Workload("parity-mlp", load_parity, partial(models.mlp, BITS, 64, 2))


def adding_gru() -> Workload:
    """Return a gated recurrent network of 16 units that adds two marked numbers among ten: 977 parameters."""
    return Workload("adding-gru", load_adding, partial(AddingModel, 16), F.mse_loss, stacks=True)


class AddingModel(nn.Module):
    """One GRU layer from a zero state, a linear layer on its last state: (n, length, 2) → (n, 1)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(2, hidden, batch_first=True)
        self.output = nn.Linear(hidden, 1)

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the sums."""
        states, _ = self.recurrent(sequences)
        sums: Tensor = self.output(states[:, -1])
        return sums
