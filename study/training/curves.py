"""Converts an epoch's measurements of every iteration into the arrays of a record. Needs only numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from study.storage.records import Array, EpochRecord


@dataclass(frozen=True)
class Curves:
    """The per-iteration arrays of an epoch, as ``study.storage.records.EpochRecord`` describes them."""

    alpha: Array
    hypergradient: Array
    train_loss: Array
    alpha_tensors: Array | None

    @classmethod
    def of(cls, train_loss: Array, alpha: Array, hypergradient: Array | None) -> Curves:
        """Return the curves up to the first iteration whose loss or α is not finite, that iteration included.

        Args:
            train_loss: Minibatch loss of every iteration, shape (n,).
            alpha: α of every iteration, shape (n,), or (n, tensors) with an α per tensor.
            hypergradient: The h of every iteration, shape (n, …), of which the sum counts; None if α is not
                learned.
        """
        tensors = None
        if alpha.ndim > 1:
            tensors, alpha = alpha, alpha.mean(1)
        count = len(train_loss)
        h = np.full(count, np.nan) if hypergradient is None else hypergradient.reshape(count, -1).sum(1)
        unusable = ~(np.isfinite(train_loss) & np.isfinite(alpha))
        end = int(unusable.argmax()) + 1 if unusable.any() else count
        return cls(alpha[:end], h[:end], train_loss[:end], None if tensors is None else tensors[:end])

    def record(
        self, epochs: int, iterations: int, val_loss: float, val_accuracy: float, seconds: float
    ) -> EpochRecord:
        """Return the record of the epoch that follows ``epochs`` epochs of ``iterations`` iterations in all.

        Args:
            epochs: Number of epochs before this one.
            iterations: Number of iterations before this epoch.
            val_loss: Validation loss after the epoch.
            val_accuracy: Validation accuracy after the epoch, 0 to 1; NaN for a regression.
            seconds: Seconds that the epoch's iterations took.
        """
        return EpochRecord(
            epoch=epochs + 1,
            first_iteration=iterations + 1,
            alpha=self.alpha,
            hypergradient=self.hypergradient,
            train_loss=self.train_loss,
            alpha_tensors=self.alpha_tensors,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=seconds,
        )
