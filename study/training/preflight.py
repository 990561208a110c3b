"""Tries a trial on one batch before any worker starts, so that common mistakes appear within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from study.config.trial import Trial
from study.storage.failures import Failure
from study.training.pack_limits import parameter_bytes
from study.training.stacked_model import sample_model
from study.training.trainer import Training
from study.training.user_errors import RAISED, LastBatchError, stored_traceback
from study.workloads import datasets, registry
from study.workloads.base import Data, Workload
from study.workloads.datasets import DataError

CPU = torch.device("cpu")
MOST_BYTES = 250e6
"""Largest size of a model's parameters. Training takes about ten times that, beside the workers' memory."""
MOST_SECONDS = 10.0
"""Longest time for the batch, estimated from a forward pass of one row."""


def preflight(
    trial: Trial,
    data_folder: Path | None,
    *,
    gpus: float = 0.0,
    on_message: Callable[[str], None] = lambda line: None,
) -> Failure | None:
    """Train ``trial`` on one batch on the CPU and validate on another; return the failure, if it fails.

    It changes no journal. Trials of one workload and optimizer that differ in α₀, β, seed or budget fail
    alike, so one of them is enough.

    Example::

        for trial in {(t.workload, t.label): t for t in trials}.values():
            if failure := preflight(trial, None, on_message=print):
                print(f"{failure.cause} ({failure.place})")

    Args:
        trial: The trial to try.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        gpus: The share of a GPU that the trial will have. Code that needs a GPU cannot be tried here, so its
            errors about devices do not count as failures.
        on_message: Called with one line that says why, if the trial is not tried.

    Returns:
        The failure, for one trial; None if there is none, or if the trial is not tried.
    """

    def skip(reason: str) -> None:
        on_message(f"{trial.workload} with {trial.label} is not tried before the start: {reason}")

    try:
        workload = registry.resolve(trial.workload, trial.workload_args)
        if (size := parameter_bytes(workload)) > MOST_BYTES:
            skip(f"its model has {size / 1e6:.0f} MB of parameters")
            return None
        data = datasets.load(workload, data_folder, CPU)
        if (seconds := _estimate(workload, data, trial.batch_size)) > MOST_SECONDS:
            skip(f"a batch would take about {seconds:.0f} s on the CPU")
            return None
        _train_a_batch(trial, workload, data)
    except DataError as error:
        skip(str(error))
    except RAISED as error:
        if gpus and any(word in str(error).lower() for word in ("cuda", "gpu", "cpu", "device", "nvidia")):
            skip(f"it needs a GPU ({error})")
            return None
        return Failure.of(trial, stored_traceback(error, trial))
    return None


def _train_a_batch(trial: Trial, workload: Workload, data: Data) -> None:
    rows, size = len(data.train_targets), trial.batch_size
    sample = Data(
        *_sample(data.train_inputs, data.train_targets, size),
        *_sample(data.val_inputs, data.val_targets, size),
    )
    next(Training(trial, workload, sample, CPU).epochs())
    ends_an_epoch = trial.iterations is None or trial.iterations * size >= rows
    if rows % size == 1 and rows > size and ends_an_epoch and not trial.drop_last:
        sample = replace(sample, train_inputs=data.train_inputs[:1], train_targets=data.train_targets[:1])
        try:
            next(Training(trial, workload, sample, CPU).epochs())
        except RAISED as error:
            raise LastBatchError(rows, size, error) from error


def _sample(inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` rows from all over the data, including the smallest and the largest class."""
    count = min(count, len(targets))
    chosen = torch.arange(count, device=CPU) * len(targets) // count
    if targets.ndim == 1 and not targets.is_floating_point() and count > 1:
        chosen[0], chosen[-1] = targets.argmin(), targets.argmax()
    return inputs[chosen], targets[chosen]


def _estimate(workload: Workload, data: Data, batch_size: int) -> float:
    """Return the estimated seconds of a batch, forward and backward; 0 if one row raises an error."""
    model, row = sample_model(workload).eval(), data.val_inputs[:1]
    seconds = 0.0
    try:
        with torch.no_grad():
            for _ in range(2):  # the first pass sets things up
                started = time.perf_counter()
                model(workload.prepare(row, None) if workload.prepare else row)
                seconds = time.perf_counter() - started
    except RAISED:
        return 0.0  # the batch reports the error
    return 3 * seconds * min(batch_size, len(data.train_targets))
