"""A member of a pack: its trial, its progress, and its measurements of the current epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from study.config.trial import Trial
from study.storage.records import Array, EpochRecord
from study.training.curves import Curves


@dataclass(slots=True)
class Member:
    """A trial that trains, and its measurements so far in the current epoch."""

    trial: Trial
    epoch: int = 0
    iterations: int = 0
    curves: list[tuple[Array, ...]] = field(default_factory=list)
    seconds: float = 0.0

    def length(self, batches: int) -> int:
        """Return the iterations of the next epoch: ``batches``, or fewer if the budget ends before."""
        budget = self.trial.iterations
        return batches if budget is None else min(batches, budget - self.iterations)

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.epoch == self.trial.epochs or self.iterations == self.trial.iterations

    def close(self, val_loss: float, val_accuracy: float) -> EpochRecord:
        """End the epoch and return its record."""
        train_loss, *learned = (np.concatenate(values) for values in zip(*self.curves, strict=True))
        alpha, h = learned or (np.full(len(train_loss), self.trial.alpha0), None)
        curves = Curves.of(train_loss, alpha, h)
        record = curves.record(self.epoch, self.iterations, val_loss, val_accuracy, self.seconds)
        self.epoch, self.iterations = record.epoch, record.last_iteration
        self.curves, self.seconds = [], 0.0
        return record
