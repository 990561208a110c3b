"""Tries a trial on one batch before any worker starts, so that the commonest mistakes cost seconds."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from study.config.trial import Trial
from study.storage.failures import Failure
from study.training.trainer import Training
from study.workloads import datasets, registry
from study.workloads.base import Data
from study.workloads.datasets import DataError

CPU = torch.device("cpu")


def preflight(
    trial: Trial,
    data_folder: Path | None,
    *,
    gpus: float = 0.0,
    on_message: Callable[[str], None] = lambda line: None,
) -> Failure | None:
    """Train ``trial`` on one batch on the CPU and return why that fails, if it does.

    Args:
        trial: what to try.
        data_folder: of the data sets; None for the default.
        gpus: what the trial is to have of a GPU; with one, nothing is tried.
        on_message: called with one line if the trial is not tried, which says why.
    """
    where = f"{trial.workload} with {trial.label} is not tried before the start"
    if gpus:
        on_message(f"{where}: it needs a GPU")
        return None
    try:
        workload = registry.resolve(trial.workload, trial.workload_args)
        data = datasets.load(workload, data_folder, CPU)
        size = trial.batch_size
        batch = Data(
            data.train_inputs[:size],
            data.train_targets[:size],
            data.val_inputs[:size],
            data.val_targets[:size],
        )
        next(Training(trial, workload, batch, CPU).epochs())
    except DataError as error:
        on_message(f"{where}: {error}")
    except Exception:
        return Failure.of(trial, traceback.format_exc())
    return None
