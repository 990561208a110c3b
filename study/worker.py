"""What a worker process does: trains a bundle of trials one after the other, each into its journal.

It knows neither Ray nor MLflow. A trial whose journal has ended is not trained again.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from study import journal, training, workloads
from study.folder import StudyFolder
from study.journal import Journal
from study.records import Status
from study.spec import Trial
from study.workloads import storage


def run_bundle(
    trials: Sequence[Trial], folder: StudyFolder, data_folder: Path | None, cpus: float
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` and yield how each ended, ``"finished"``, ``"diverged"`` or ``"failed"``.

    An exception in a trial is kept in its journal and does not stop the others.

    Args:
        trials: what to train, in this order.
        folder: whose journals to write.
        data_folder: where the data sets lie; None for the default.
        cpus: cores this process may use; it trains with as many threads, at least one.
    """
    torch.set_num_threads(max(1, int(cpus)))
    device = training.choose_device()
    for trial in trials:
        path = folder.journal(trial)
        if (before := journal.read(path, trial)).ended:
            yield trial, before.status
            continue
        repeatable = training.is_repeatable(device)
        with Journal(path, trial, training.machine(device), repeatable=repeatable) as record:
            status: Status = "finished"
            error = None
            try:
                workload = workloads.resolve(trial.workload, trial.workload_args)
                data = storage.load(workload, data_folder, device)
                for epoch in training.train(trial, workload, data, device):
                    record.epoch(epoch)
                    status = "diverged" if epoch.diverged else "finished"
            except Exception:
                status, error = "failed", traceback.format_exc()
            record.end(status, error)
        yield trial, status
