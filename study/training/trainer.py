"""Trains one trial and yields its records, epoch by epoch. Needs torch and ``hypergrad`` only.

The same trial gives the same numbers on the same machine, on a CPU bit for bit, whatever else runs in the
process or on the machine. Every random draw comes from the trial's own streams, derived from its seed, and
process settings that a workload changes are in force only for its own trials.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from study.config.trial import FLOAT32, Trial
from study.storage.records import EpochRecord
from study.training import optimizers, precision
from study.training.curves import Curves
from study.training.random_state import RandomState
from study.training.user_errors import RAISED, LastBatchError
from study.workloads import torch_settings
from study.workloads.base import Data, Workload

EVALUATION_BATCH = 2000


def train(trial: Trial, workload: Workload, data: Data, device: torch.device) -> Iterator[EpochRecord]:
    """Train ``trial`` from its first iteration; see ``Training``."""
    return Training(trial, workload, data, device).epochs()


class Training:
    """Training of one trial. Between two epochs it can be saved, and resumed elsewhere without a difference.

    Example::

        training = Training(trial, workload, datasets.load(workload, None, device), device)
        for record in training.epochs():
            print(record.epoch, record.val_loss)

    Args:
        trial: The trial to train.
        workload: The trial's workload.
        data: The workload's data, on ``device``.
        device: The device to train on.
    """

    def __init__(self, trial: Trial, workload: Workload, data: Data, device: torch.device) -> None:
        self._trial, self._workload, self._data = trial, workload, data
        self._random = RandomState(trial.seed, device)
        self.settings = precision.settings(trial.precision, device, workload, workload.load)
        """Settings of torch in force while it trains; see ``study.workloads.torch_settings``."""
        last = precision.uses_channels_last(trial.precision, data.train_inputs)
        self.layout = {"memory format": "channels last"} if last else {}
        """Layouts in memory, for the record of the machine."""
        with torch_settings.in_force(self.settings):
            with self._random.in_use():
                self._model = workload.build().to(device)
            self._optimizer = optimizers.build(trial, self._model.parameters())
        epoch = trial.batches(len(data.train_targets))
        self._scheduler = optimizers.scheduler(trial, self._optimizer, epoch)
        self.epoch = 0
        """Number of epochs done."""
        self._iterations = 0

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        budget = self._trial.iterations
        return self.epoch == self._trial.epochs or (budget is not None and self._iterations >= budget)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train on and yield one record per epoch, up to the budget or to the first ``diverged`` record.

        Nothing is read back from the device before an epoch ends.
        """
        budget = self._trial.iterations
        while not self.finished:
            record = self._train_epoch(None if budget is None else budget - self._iterations)
            self.epoch = record.epoch
            self._iterations = record.last_iteration
            yield record
            if record.diverged:
                return

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which the rest depends; ``torch.load(weights_only=True)`` can read it."""
        state = {
            "key": self._trial.key,
            "epoch": self.epoch,
            "iterations": self._iterations,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "random": self._random.state_dict(),
        }
        return state if self._scheduler is None else state | {"scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from a saved state.

        Raises:
            ValueError: The state is another trial's.
        """
        if state["key"] != self._trial.key:
            raise ValueError(
                f"trial {self._trial.key} cannot resume from a checkpoint of trial {state['key']}"
            )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self._random.load_state_dict(state["random"])
        self.epoch, self._iterations = state["epoch"], state["iterations"]

    def parts(self) -> tuple[nn.Module, torch.optim.Optimizer, RandomState]:
        """Return the model, its optimizer and the random streams, for a pack to train on."""
        return self._model, self._optimizer, self._random

    def _train_epoch(self, at_most: int | None) -> EpochRecord:
        with torch_settings.in_force(self.settings), self._random.in_use():
            started = time.perf_counter()
            curves = self._iterate(at_most)
            seconds = time.perf_counter() - started
            optimizers.evaluating(self._optimizer)
            val_loss, val_accuracy = evaluate(self._workload, self._data, self._model, self._trial.precision)
        return curves.record(self.epoch, self._iterations, val_loss, val_accuracy, seconds)

    def _iterate(self, at_most: int | None) -> Curves:
        workload, data, model, optimizer = self._workload, self._data, self._model, self._optimizer
        model.train()
        optimizers.training(optimizer)
        rows, size = len(data.train_targets), self._trial.batch_size
        batches = self._trial.batches(rows) if at_most is None else min(at_most, self._trial.batches(rows))
        order = torch.randperm(rows, generator=self._random.order, device="cpu")
        losses: list[Tensor] = []
        alphas: list[Tensor | float] = []
        hypergradients: list[Tensor] = []
        for chosen in order.to(data.train_inputs.device).split(size)[:batches]:
            try:
                # On a CPU this takes half the time of indexing with [chosen].
                inputs = data.train_inputs.index_select(0, chosen)
                if workload.prepare is not None:
                    inputs = workload.prepare(inputs, self._random.augmentation)
                optimizer.zero_grad(set_to_none=True)
                outputs = precision.run(self._trial.precision, model, inputs)
                loss = workload.loss(outputs, data.train_targets[chosen])
                loss.backward()
            except RAISED as error:
                if len(chosen) == 1 < min(rows, size):
                    raise LastBatchError(rows, size, error) from error
                raise
            alpha, h = optimizers.step(optimizer)
            losses.append(loss.detach())
            alphas.append(alpha)
            if h is not None:
                hypergradients.append(h)
            if self._scheduler is not None:
                self._scheduler.step()
        return _read_back(losses, alphas, hypergradients)


@torch.no_grad()
def evaluate(
    workload: Workload, data: Data, model: nn.Module, in_precision: str = FLOAT32
) -> tuple[float, float]:
    """Return the mean loss and the accuracy (0 to 1) of ``model`` over the validation data.

    If a row has several targets, as a text has characters, the accuracy is over all of them. A regression has
    no accuracy: it is NaN.

    Args:
        workload: The workload with the loss.
        data: The workload's data.
        model: The model; it is switched to evaluation.
        in_precision: The trial's precision. Default: float32.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=data.val_inputs.device)
    correct = torch.zeros_like(loss)
    batches = zip(
        data.val_inputs.split(EVALUATION_BATCH), data.val_targets.split(EVALUATION_BATCH), strict=True
    )
    for inputs, targets in batches:
        prepared = workload.prepare(inputs, None) if workload.prepare else inputs
        outputs = precision.run(in_precision, model, prepared)
        loss += workload.loss(outputs, targets) * len(targets)
        if data.has_classes:
            correct += (outputs.argmax(-1) == targets).sum()
    accuracy = correct.item() / data.val_targets.numel() if data.has_classes else math.nan
    return loss.item() / len(data.val_targets), accuracy


def _read_back(losses: list[Tensor], alphas: list[Tensor | float], hypergradients: list[Tensor]) -> Curves:
    on_device = [alpha for alpha in alphas if isinstance(alpha, Tensor)]
    return Curves.of(
        torch.stack(losses).cpu().numpy(),
        torch.stack(on_device).cpu().numpy() if on_device else np.array(alphas),
        torch.stack(hypergradients).cpu().numpy() if hypergradients else None,
    )
