"""Made-up ratings of items by users, for matrix factorisation: a batch uses few rows of the embeddings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study.workloads.base import Data, Workload

__all__ = ["Factors", "factors", "load"]

TRAIN, VAL = 12_800, 3200
"""Numbers of ratings for training and for validation."""
USERS, ITEMS = 300, 200
RANK = 4
"""Number of tastes in which the users differ."""
NOISE = 0.5
"""Standard deviation of the noise in the ratings."""


def load(folder: Path) -> Data:
    """Return pairs of user and item as int64 (12800, 2) and (3200, 2), and their ratings; no file is read.

    A rating is ⟨p_user, q_item⟩ of normal p and q with four entries, plus an offset of the user and one of
    the item, plus noise with a variance of 0.25. The ratings are the same for every seed, machine and version
    (``RandomState``'s stream is frozen by numpy's policy).
    """
    random = np.random.RandomState(2019)
    tastes, traits = (random.normal(size=(n, RANK)) / RANK**0.25 for n in (USERS, ITEMS))
    of_users, of_items = (0.5 * random.normal(size=n) for n in (USERS, ITEMS))
    users, items = (random.randint(0, n, size=TRAIN + VAL) for n in (USERS, ITEMS))
    ratings = (tastes[users] * traits[items]).sum(axis=1) + of_users[users] + of_items[items]
    ratings += NOISE * random.normal(size=len(ratings))
    pairs = torch.from_numpy(np.stack([users, items], axis=1).astype(np.int64))
    targets = torch.from_numpy(ratings.astype(np.float32))
    return Data(pairs[:TRAIN], targets[:TRAIN], pairs[TRAIN:], targets[TRAIN:])


def factors(rank: int = 8) -> Workload:
    """Return matrix factorisation with offsets: 4,500 parameters at rank 8."""
    return Workload("ratings-factors", load, partial(Factors, USERS, ITEMS, rank), F.mse_loss, stacks=True)


class Factors(nn.Module):
    """⟨u, v⟩ + b + c for the user's factors u and offset b, and the item's v and c: (n, 2) → (n,).

    Factors and offsets start from N(0, 0.1²). Gradients are dense, and zero for rows that the batch lacks.

    Source: Koren et al. 2009, Matrix Factorization Techniques for Recommender Systems,
    https://doi.org/10.1109/MC.2009.263
    """

    def __init__(self, users: int, items: int, rank: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank + 1), nn.Embedding(items, rank + 1)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, pairs: Tensor) -> Tensor:
        """Return the ratings."""
        user, item = self.users(pairs[..., 0]), self.items(pairs[..., 1])
        ratings: Tensor = (user[..., 1:] * item[..., 1:]).sum(-1) + user[..., 0] + item[..., 0]
        return ratings
