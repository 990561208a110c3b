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

from study import journal, optimizers, packwork, training, workloads
from study.checkpoints import Checkpoints
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
    checkpoint_seconds: float = 30.0,
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
        checkpoint_seconds: between two checkpoints of a trial, so that shorter ones write none.

    Raises:
        OSError: a journal or checkpoint cannot be written; the trial goes on from there when it is run again.
    """
    torch.set_num_threads(max(1, int(cpus)))
    for together in packwork.packs(trials, folder, data_folder, pack, cpus=cpus, gpus=gpus):
        alone = list(together)
        if len(together) > 1:
            for trial, status in packwork.train_or_leave(together, folder, data_folder, checkpoint_seconds):
                alone.remove(trial)
                yield trial, status
        for trial in alone:
            yield trial, _run_alone(trial, folder, data_folder, retries, checkpoint_seconds)


def _run_alone(
    trial: Trial, folder: StudyFolder, data_folder: Path | None, retries: int, checkpoint_seconds: float
) -> Status:
    status: Status = "failed"
    for _ in range(1 + retries):
        before = journal.read(folder.journal(trial), trial)
        if before.ended:
            return before.status
        status = _run(trial, folder, data_folder, len(before.epochs), checkpoint_seconds)
        if status != "failed":
            break
    return status


def _run(
    trial: Trial, folder: StudyFolder, data_folder: Path | None, recorded: int, checkpoint_seconds: float
) -> Status:
    device = training.choose_device()
    checkpoints = Checkpoints(folder.checkpoint(trial))
    path, machine = folder.journal(trial), training.machine(device) | optimizers.versions(trial)
    repeatable = training.is_repeatable(device)
    notes: list[str] = []
    try:
        workload = workloads.resolve(trial.workload, trial.workload_args)
        data = storage.load(workload, data_folder, device)
        under_way = Training(trial, workload, data, device)
        state, notes = checkpoints.newest(trial.key, recorded)
        if state is not None:
            under_way.load_state_dict(state)
    except Exception:
        with Journal(path, trial, machine, repeatable=repeatable) as record:
            record.end("failed", traceback.format_exc())
        return "failed"
    with Journal(path, trial, machine, repeatable=repeatable, resumed=under_way.epoch, notes=notes) as record:
        status: Status = "finished"
        error = None
        saved = time.monotonic()
        epochs = under_way.epochs()
        while True:
            # What training raises is the trial's; what writing raises is not.
            try:
                epoch = next(epochs, None)
            except Exception:
                status, error = "failed", traceback.format_exc()
                break
            if epoch is None:
                break
            record.epoch(epoch)
            status = "diverged" if epoch.diverged else "finished"
            if time.monotonic() - saved >= checkpoint_seconds:
                checkpoints.save(under_way.state_dict())
                saved = time.monotonic()
        record.end(status, error)
    if status != "failed":
        checkpoints.remove()
    return status
