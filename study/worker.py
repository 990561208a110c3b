"""What a worker process does: trains a bundle of trials one after the other, each into its journal.

It knows neither Ray nor MLflow. A trial whose journal has ended is not trained again; one that was under way
goes on from its last checkpoint.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from study import journal, optimizers, training, workloads
from study.folder import StudyFolder
from study.journal import Journal
from study.records import Status
from study.spec import Trial
from study.training import Training
from study.workloads import storage

CHECKPOINT_SECONDS = 30.0
"""Between two checkpoints of a trial, so that short trials write none."""


def run_bundle(
    trials: Sequence[Trial], folder: StudyFolder, data_folder: Path | None, cpus: float, retries: int = 0
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` and yield how each ended, ``"finished"``, ``"diverged"`` or ``"failed"``.

    A trial that raises starts again up to ``retries`` times; then the exception is kept in its journal, and
    the others go on.

    Args:
        trials: what to train, in this order.
        folder: whose journals and checkpoints to write.
        data_folder: where the data sets lie; None for the default.
        cpus: cores this process may use; it trains with as many threads, at least one.
        retries: how often a trial that raises starts again.
    """
    torch.set_num_threads(max(1, int(cpus)))
    for trial in trials:
        for _ in range(1 + retries):
            before = journal.read(folder.journal(trial), trial)
            status = before.status if before.ended else _run(trial, folder, data_folder, len(before.epochs))
            if status != "failed":
                break
        yield trial, status


def _run(trial: Trial, folder: StudyFolder, data_folder: Path | None, recorded: int) -> Status:
    device = training.choose_device()
    checkpoint = folder.checkpoint(trial)
    path, machine = folder.journal(trial), training.machine(device) | optimizers.versions(trial)
    repeatable = training.is_repeatable(device)
    try:
        workload = workloads.resolve(trial.workload, trial.workload_args)
        data = storage.load(workload, data_folder, device)
        under_way = Training(trial, workload, data, device)
        _restore(under_way, checkpoint, recorded, device)
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
                if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                    _save(under_way, checkpoint)
                    saved = time.monotonic()
        except Exception:
            status, error = "failed", traceback.format_exc()
        record.end(status, error)
    checkpoint.unlink(missing_ok=True)
    return status


def _restore(under_way: Training, checkpoint: Path, recorded: int, device: torch.device) -> None:
    """Continue from ``checkpoint`` if it is whole and the journal has all epochs up to it."""
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return
    except Exception:
        # Whatever is in it, it is not a checkpoint of ours: the trial starts over.
        checkpoint.unlink(missing_ok=True)
        return
    if isinstance(state, dict) and 0 < state.get("epoch", 0) <= recorded:
        under_way.load_state_dict(state)


def _save(under_way: Training, checkpoint: Path) -> None:
    """Replace the checkpoint, whole or not at all."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    draft = checkpoint.with_suffix(".new")
    torch.save(under_way.state_dict(), draft)
    draft.replace(checkpoint)
