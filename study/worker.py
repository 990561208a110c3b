"""What a worker process does: trains a bundle of trials, in packs or singly, each into its journal.

It knows neither Ray nor MLflow. A trial whose journal has ended is not trained again; one that was under way
goes on from its last checkpoint.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from study import checkpoints, journal, packwork, training, workloads
from study.folder import StudyFolder
from study.journal import Journal
from study.records import Status
from study.spec import Trial
from study.training import Training
from study.workloads import storage


def run_bundle(
    trials: Sequence[Trial],
    folder: StudyFolder,
    data_folder: Path | None,
    cpus: float,
    retries: int = 0,
    *,
    gpus: float = 0.0,
    pack: int | None = 1,
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` and yield how each ended, ``"finished"``, ``"diverged"`` or ``"failed"``.

    A trial that raises starts again up to ``retries`` times; then the exception is kept in its journal, and
    the others go on.

    Args:
        trials: what to train, in this order as far as they do not train together.
        folder: whose journals and checkpoints to write.
        data_folder: where the data sets lie; None for the default.
        cpus: cores this process may use; it trains with as many threads, at least one.
        retries: how often a trial that raises starts again.
        gpus: this process's share of a GPU.
        pack: how many trials train together at most; None for as many as pays and fits.
    """
    torch.set_num_threads(max(1, int(cpus)))
    for together in packwork.packs(trials, folder, data_folder, pack, cpus=cpus, gpus=gpus):
        alone = list(together)
        if len(together) > 1:
            for trial, status in packwork.train_or_leave(together, folder, data_folder):
                alone.remove(trial)
                yield trial, status
        for trial in alone:
            yield trial, _run_alone(trial, folder, data_folder, retries)


def _run_alone(trial: Trial, folder: StudyFolder, data_folder: Path | None, retries: int) -> Status:
    status: Status = "failed"
    for _ in range(1 + retries):
        before = journal.read(folder.journal(trial), trial)
        status = before.status if before.ended else _run(trial, folder, data_folder, len(before.epochs))
        if status != "failed":
            break
    return status


def _run(trial: Trial, folder: StudyFolder, data_folder: Path | None, recorded: int) -> Status:
    device = training.choose_device()
    checkpoint = folder.checkpoint(trial)
    path, machine = folder.journal(trial), training.machine(device)
    repeatable = training.is_repeatable(device)
    try:
        workload = workloads.resolve(trial.workload, trial.workload_args)
        data = storage.load(workload, data_folder, device)
        under_way = Training(trial, workload, data, device)
        state = checkpoints.load(checkpoint, recorded)
        if state is not None:
            under_way.load_state_dict(state)
    except Exception:
        with Journal(path, trial, machine, repeatable=repeatable) as record:
            record.end("failed", traceback.format_exc())
        return "failed"
    with Journal(path, trial, machine, repeatable=repeatable, resumed=under_way.epoch) as record:
        status: Status = "finished"
        error = None
        try:
            saved = time.monotonic()
            for epoch in under_way.epochs():
                record.epoch(epoch)
                status = "diverged" if epoch.diverged else "finished"
                if time.monotonic() - saved >= checkpoints.SECONDS:
                    checkpoints.save({checkpoint: under_way.state_dict()})
                    saved = time.monotonic()
        except Exception:
            status, error = "failed", traceback.format_exc()
        record.end(status, error)
    checkpoint.unlink(missing_ok=True)
    return status
