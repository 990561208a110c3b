"""Trains one trial and yields what happened, epoch by epoch. Needs torch and ``hypergrad`` only.

Same trial, same machine, same numbers: on a CPU bit for bit, whatever else the process or the machine does.
Every random draw comes from the trial's own streams, derived from its seed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from study.config.trial import Trial
from study.storage.records import EpochRecord
from study.training import optimizers
from study.workloads.base import Data, Workload

EVALUATION_BATCH = 2000


def train(trial: Trial, workload: Workload, data: Data, device: torch.device) -> Iterator[EpochRecord]:
    """Train ``trial`` from its first iteration; see :class:`Training`."""
    return Training(trial, workload, data, device).epochs()


class Training:
    """One trial under way. Between two epochs it can be saved, and continued elsewhere as if nothing were.

    Args:
        trial: what to train.
        workload: the trial's workload.
        data: the workload's data, on ``device``.
        device: where to train.
    """

    def __init__(self, trial: Trial, workload: Workload, data: Data, device: torch.device) -> None:
        self._trial, self._workload, self._data = trial, workload, data
        self._random = _RandomState(trial.seed, device)
        with self._random.in_use():
            self._model = workload.build().to(device)
        self._optimizer = optimizers.build(trial, self._model.parameters())
        epoch = -(-len(data.train_targets) // trial.batch_size)
        self._scheduler = optimizers.scheduler(trial, self._optimizer, epoch)
        self.epoch = 0
        """Epochs done."""
        self._iterations = 0

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        budget = self._trial.iterations
        return self.epoch == self._trial.epochs or (budget is not None and self._iterations >= budget)

    def epochs(self) -> Iterator[EpochRecord]:
        """Train on and yield one record per epoch, up to the budget or the first that is ``diverged``.

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
        """Return all that the rest of the training depends on; ``torch.load(weights_only=True)`` reads it."""
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
        """Go on from where ``state`` was taken.

        Raises:
            ValueError: it is another trial's.
        """
        if state["key"] != self._trial.key:
            raise ValueError(
                f"a checkpoint of trial {state['key']} does not continue trial {self._trial.key}"
            )
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
        self._random.load_state_dict(state["random"])
        self.epoch, self._iterations = state["epoch"], state["iterations"]

    def parts(self) -> tuple[nn.Module, torch.optim.Optimizer, _RandomState]:
        """Return the model, its optimizer and the random streams, for a pack to go on with."""
        return self._model, self._optimizer, self._random

    def _train_epoch(self, at_most: int | None) -> EpochRecord:
        with self._random.in_use():
            started = time.perf_counter()
            curves = self._iterate(at_most)
            seconds = time.perf_counter() - started
            optimizers.evaluating(self._optimizer)
            val_loss, val_accuracy = evaluate(self._workload, self._data, self._model)
        return EpochRecord(
            epoch=self.epoch + 1,
            first_iteration=self._iterations + 1,
            alpha=curves.alpha,
            hypergradient=curves.hypergradient,
            train_loss=curves.train_loss,
            alpha_tensors=curves.alpha_tensors,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=seconds,
        )

    def _iterate(self, at_most: int | None) -> _Curves:
        workload, data, model, optimizer = self._workload, self._data, self._model, self._optimizer
        model.train()
        optimizers.training(optimizer)
        order = torch.randperm(len(data.train_targets), generator=self._random.order)
        losses: list[Tensor] = []
        alphas: list[Tensor | float] = []
        hypergradients: list[Tensor] = []
        for chosen in order.to(data.train_inputs.device).split(self._trial.batch_size)[:at_most]:
            # Half the time of indexing with [chosen], on a CPU.
            inputs = data.train_inputs.index_select(0, chosen)
            if workload.prepare is not None:
                inputs = workload.prepare(inputs, self._random.augmentation)
            optimizer.zero_grad(set_to_none=True)
            loss = workload.loss(model(inputs), data.train_targets[chosen])
            loss.backward()
            alpha, h = optimizers.step(optimizer)
            losses.append(loss.detach())
            alphas.append(alpha)
            if h is not None:
                hypergradients.append(h)
            if self._scheduler is not None:
                self._scheduler.step()
        return _read_back(losses, alphas, hypergradients)


@torch.no_grad()
def evaluate(workload: Workload, data: Data, model: nn.Module) -> tuple[float, float]:
    """Return the mean loss and the accuracy (0 to 1) of ``model`` over the validation data.

    Where a row has several targets, as a text has characters, the accuracy is over all of them.
    """
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=data.val_inputs.device)
    correct = torch.zeros_like(loss)
    batches = zip(
        data.val_inputs.split(EVALUATION_BATCH), data.val_targets.split(EVALUATION_BATCH), strict=True
    )
    for inputs, targets in batches:
        outputs = model(workload.prepare(inputs, None) if workload.prepare else inputs)
        loss += workload.loss(outputs, targets) * len(targets)
        correct += (outputs.argmax(-1) == targets).sum()
    return loss.item() / len(data.val_targets), correct.item() / data.val_targets.numel()


@dataclass(frozen=True)
class _Curves:
    alpha: np.ndarray
    hypergradient: np.ndarray
    train_loss: np.ndarray
    alpha_tensors: np.ndarray | None


def _read_back(losses: list[Tensor], alphas: list[Tensor | float], hypergradients: list[Tensor]) -> _Curves:
    train_loss = torch.stack(losses).cpu().numpy()
    tensors = None
    tensorial = [alpha for alpha in alphas if isinstance(alpha, Tensor)]
    alpha = torch.stack(tensorial).cpu().numpy() if tensorial else np.array(alphas)
    if alpha.ndim > 1:
        tensors, alpha = alpha, alpha.mean(1)
    h = np.full(len(losses), np.nan)
    if hypergradients:
        h = torch.stack(hypergradients).cpu().numpy().reshape(len(losses), -1).sum(1)
    unusable = ~(np.isfinite(train_loss) & np.isfinite(alpha))
    end = int(unusable.argmax()) + 1 if unusable.any() else len(train_loss)
    return _Curves(alpha[:end], h[:end], train_loss[:end], None if tensors is None else tensors[:end])


class _RandomState:
    """A trial's own random streams: initial weights and dropout, the order of the data, augmentation.

    Layers such as dropout can only draw from torch's global generators; :meth:`in_use` lends them the
    trial's state and puts back the one it found.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        model, order, augmentation = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()
        self._cuda = [device] if device.type == "cuda" else []
        self.order = torch.Generator().manual_seed(_signed(order))
        self.augmentation = torch.Generator(device).manual_seed(_signed(augmentation))
        with torch.random.fork_rng(self._cuda):
            torch.manual_seed(_signed(model))
            self._states = self._read()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with torch.random.fork_rng(self._cuda):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._cuda, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            try:
                yield
            finally:
                self._states = self._read()

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": list(self._states),
            "order": self.order.get_state(),
            "augmentation": self.augmentation.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # A checkpoint from a GPU that goes on without one has a state too many, one the other way too few.
        self._states = [*state["model"], *self._states[len(state["model"]) :]][: len(self._states)]
        self.order.set_state(state["order"])
        if state["augmentation"].shape == self.augmentation.get_state().shape:
            self.augmentation.set_state(state["augmentation"])

    def _read(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda)]


def _signed(word: int) -> int:
    # torch takes seeds up to 2**63 - 1 for every generator
    return word >> 1
