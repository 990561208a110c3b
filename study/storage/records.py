"""The records of trials: the arrays of each epoch, and how each trial ended. Needs only numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from study.config.trial import Trial

Status = Literal["pending", "running", "finished", "diverged", "failed", "pruned"]
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class EpochRecord:
    """Every iteration of one epoch, and the validation after it.

    ``alpha``, ``hypergradient`` and ``train_loss`` have shape (n,), one entry per iteration of the epoch:
    the α that the iteration moved the parameters with, the h that this α was learned from, and the minibatch
    loss before that move. With several α (granularity ``"tensor"``) ``alpha`` is their mean,
    ``hypergradient`` their sum, and ``alpha_tensors``, shape (n, tensors), holds each α. The last epoch of an
    iteration budget may be short, and so is the epoch in which a trial diverges: it ends with the first
    non-finite iteration.
    """

    epoch: int
    first_iteration: int
    alpha: Array
    hypergradient: Array
    train_loss: Array
    val_loss: float
    val_accuracy: float
    seconds: float
    alpha_tensors: Array | None = None
    time_ms: int = 0
    """When the journal took the record, in Unix milliseconds; 0 before that."""

    @property
    def iterations(self) -> int:
        """Number of iterations in this epoch."""
        return len(self.train_loss)

    @property
    def last_iteration(self) -> int:
        """The trial's iteration count after this epoch; iterations count from 1."""
        return self.first_iteration + self.iterations - 1

    @property
    def diverged(self) -> bool:
        """Whether the loss or an α stopped being finite in this epoch or after it."""
        last = [self.train_loss[-1], self.alpha[-1], self.val_loss]
        return not bool(np.isfinite(last).all())

    @property
    def train_loss_epoch(self) -> float:
        """Mean minibatch loss over the epoch's iterations."""
        return float(np.mean(self.train_loss, dtype=np.float64))

    @property
    def alpha_epoch(self) -> float:
        """Mean α over the epoch's iterations."""
        return float(np.mean(self.alpha, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class TrialRecord:
    """One trial's settings, its epochs so far, and its status."""

    trial: Trial
    status: Status = "pending"
    epochs: tuple[EpochRecord, ...] = ()
    error: str | None = None
    """The traceback of a failed trial."""
    attempt: str = ""
    """Which start of the trial the epochs belong to; see ``study.storage.journal``."""
    machine: dict[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether training again on that machine gives the same numbers, bit for bit."""
    started_ms: int = 0
    """When the attempt started, in Unix milliseconds."""
    resumed_ms: int = 0
    """When a process last began to train the trial, in Unix milliseconds."""
    ended_ms: int = 0
    notes: tuple[str, ...] = ()
    """Notes for people: damaged files found when the trial resumed, and departures from the plan."""
    run: str = ""
    """Identifier of the run of the study that last started the trial; empty if not known."""
    suspect: bool = False
    """Whether the trial, or one trained beside it, has broken a GPU in that run."""

    @property
    def is_final(self) -> bool:
        """Whether the trial has ended in any way; a failed or pruned one may start again."""
        return self.status not in ("pending", "running")

    @cached_property
    def alpha(self) -> Array:
        """α of every iteration, shape (iterations,)."""
        return self._joined("alpha")

    @cached_property
    def hypergradient(self) -> Array:
        """h of every iteration, shape (iterations,)."""
        return self._joined("hypergradient")

    @cached_property
    def train_loss(self) -> Array:
        """Minibatch training loss of every iteration, shape (iterations,)."""
        return self._joined("train_loss")

    @property
    def is_complete(self) -> bool:
        """Whether the trial used up its budget or diverged.

        A failed trial is not complete, nor is a pruned one, which a search stopped early: if it is needed in
        full, it resumes.
        """
        return self.status in ("finished", "diverged")

    @cached_property
    def iterations(self) -> int:
        """Iterations done; 0 only before the first epoch has ended."""
        return self.epochs[-1].last_iteration if self.epochs else 0

    @cached_property
    def epoch_length(self) -> int:
        """Iterations of the first epoch; 0 before it has ended."""
        return self.epochs[0].iterations if self.epochs else 0

    @cached_property
    def last_ms(self) -> int:
        """When the last epoch was recorded, in Unix milliseconds; 0 if there is none."""
        return self.epochs[-1].time_ms if self.epochs else 0

    @property
    def budget(self) -> int | None:
        """Iterations of the whole trial; None if that depends on an epoch's length, not recorded yet."""
        if self.trial.iterations is not None:
            return self.trial.iterations
        if not self.epoch_length or self.trial.epochs is None:
            return None
        return self.trial.epochs * self.epoch_length

    @property
    def progress(self) -> float:
        """Share of the budget done, 0 to 1; 1 for a complete or pruned trial."""
        if self.is_complete or self.status == "pruned":
            return 1.0
        return self.iterations / self.budget if self.budget else 0.0

    @cached_property
    def best_val_loss(self) -> float | None:
        """The smallest finite validation loss; None if there is none."""
        losses = [epoch.val_loss for epoch in self.epochs if math.isfinite(epoch.val_loss)]
        return min(losses, default=None)

    @cached_property
    def seconds(self) -> float:
        """Wall-clock seconds of training, without validation."""
        return sum(epoch.seconds for epoch in self.epochs)

    def measures(self, threshold: float | None) -> Mapping[str, float] | None:
        """Return the measures of the trial that were kept for this threshold; None if there are none.

        See ``study.storage.stored_records``.
        """
        return None

    def _joined(self, name: str) -> Array:
        if not self.epochs:
            return np.empty(0, dtype=np.float32)
        return np.concatenate([getattr(epoch, name) for epoch in self.epochs])
