"""Trains one trial and yields what happened, epoch by epoch. Needs torch and ``hypergrad`` only.

Same trial, same machine, same numbers: on a CPU bit for bit, whatever else the process or the machine does.
Every random draw comes from the trial's own streams, derived from its seed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn

import hypergrad
from study.records import EpochRecord
from study.spec import Trial
from study.workloads.base import Data, Workload

EVALUATION_BATCH = 2000


def choose_device() -> torch.device:
    """Return the device to train on: the first GPU visible to this process, else the CPU.

    Ray makes only the GPUs that it assigned to a worker visible, so the first is the assigned one.
    """
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def is_repeatable(device: torch.device) -> bool:
    """Whether training twice on ``device`` gives the same bits. cuDNN and atomics promise no such thing."""
    return device.type == "cpu"


def machine(device: torch.device) -> dict[str, str]:
    """Say what trains: versions and device, as kept with every trial."""
    on_gpu = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hypergrad-study": version("hypergrad-study"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
    }


def train(trial: Trial, workload: Workload, data: Data, device: torch.device) -> Iterator[EpochRecord]:
    """Train ``trial`` from its first iteration and yield one record per epoch.

    The trial ends with its budget, or with the first record that is ``diverged``. Nothing is read back
    from the device before an epoch ends.

    Args:
        trial: what to train.
        workload: the trial's workload.
        data: the workload's data, on ``device``.
        device: where to train.
    """
    random = _RandomState(trial.seed, device)
    with random.in_use():
        model = workload.build().to(device)
    optimizer = _optimizer(trial, model)
    first, budget = 1, trial.iterations
    epoch = 0
    while not (epoch == trial.epochs or (budget is not None and first > budget)):
        epoch += 1
        remaining = None if budget is None else budget - first + 1
        with random.in_use():
            started = time.perf_counter()
            curves = _train_epoch(trial, workload, data, model, optimizer, random, remaining)
            seconds = time.perf_counter() - started
            val_loss, val_accuracy = evaluate(workload, data, model)
        record = EpochRecord(
            epoch=epoch,
            first_iteration=first,
            alpha=curves.alpha,
            hypergradient=curves.hypergradient,
            train_loss=curves.train_loss,
            alpha_tensors=curves.alpha_tensors,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=seconds,
        )
        yield record
        if record.diverged:
            return
        first += record.iterations


@torch.no_grad()
def evaluate(workload: Workload, data: Data, model: nn.Module) -> tuple[float, float]:
    """Return the mean loss and the accuracy (0 to 1) of ``model`` over the validation data."""
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
    count = len(data.val_targets)
    return loss.item() / count, correct.item() / count


@dataclass(frozen=True)
class _Curves:
    alpha: np.ndarray
    hypergradient: np.ndarray
    train_loss: np.ndarray
    alpha_tensors: np.ndarray | None


def _train_epoch(
    trial: Trial,
    workload: Workload,
    data: Data,
    model: nn.Module,
    optimizer: hypergrad.SGD | hypergrad.Adam,
    random: _RandomState,
    at_most: int | None,
) -> _Curves:
    model.train()
    learned = trial.lop is not None
    order = torch.randperm(len(data.train_targets), generator=random.order).to(data.train_inputs.device)
    losses: list[Tensor] = []
    alphas: list[Tensor] = []
    hypergradients: list[Tensor] = []
    for chosen in order.split(trial.batch_size)[:at_most]:
        inputs = data.train_inputs[chosen]
        if workload.prepare is not None:
            inputs = workload.prepare(inputs, random.augmentation)
        optimizer.zero_grad(set_to_none=True)
        loss = workload.loss(model(inputs), data.train_targets[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        if learned:
            alphas.append(optimizer.param_groups[0]["lr"].clone())
            hypergradients.append(optimizer.hypergradients[0])
    return _read_back(trial, losses, alphas, hypergradients)


def _read_back(
    trial: Trial, losses: list[Tensor], alphas: list[Tensor], hypergradients: list[Tensor]
) -> _Curves:
    train_loss = torch.stack(losses).cpu().numpy()
    tensors = None
    if alphas:
        alpha, h = (torch.stack(values).cpu().numpy() for values in (alphas, hypergradients))
        if alpha.ndim > 1:
            tensors, alpha = alpha, alpha.mean(1)
        h = h.reshape(len(h), -1).sum(1)
    else:
        alpha = np.full(len(losses), trial.alpha0)
        h = np.full(len(losses), np.nan)
    unusable = ~(np.isfinite(train_loss) & np.isfinite(alpha))
    end = int(unusable.argmax()) + 1 if unusable.any() else len(train_loss)
    return _Curves(alpha[:end], h[:end], train_loss[:end], None if tensors is None else tensors[:end])


def _optimizer(trial: Trial, model: nn.Module) -> hypergrad.SGD | hypergrad.Adam:
    options = dict(trial.optimizer_args)
    if trial.lop is not None:
        options |= {"hypergrad_lr": trial.beta, "granularity": trial.granularity}
    return hypergrad.create(
        trial.optimizer, model.parameters(), lr=trial.alpha0, weight_decay=trial.weight_decay, **options
    )


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

    def _read(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._cuda)]


def _signed(word: int) -> int:
    # torch takes seeds up to 2**63 - 1 for every generator
    return word >> 1
