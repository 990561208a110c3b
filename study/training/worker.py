"""What a worker process does: trains trials, in packs, singly or side by side, each into its journal.

It knows neither Ray nor MLflow. A trial whose journal has ended is not trained again; one that was under way
goes on from its last checkpoint.
"""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from study.config.trial import Trial
from study.storage import journal
from study.storage.journal import Journal
from study.storage.records import EpochRecord, Status
from study.storage.study_folder import StudyFolder
from study.training import optimizers, packwork
from study.training.checkpoints import Checkpoints
from study.training.device import choose_device, is_repeatable, machine
from study.training.trainer import Training
from study.workloads import datasets, registry

if TYPE_CHECKING:
    from study.config.study import Study


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker process may use, and how it trains.

    Args:
        cpus: cores of this process; it trains with as many threads, at least one.
        gpus: this process's share of a GPU; 0 trains on the CPU.
        data_folder: where the data sets lie; None for the default.
        retries: how often a trial that raises starts again.
        checkpoint_seconds: seconds of training between two checkpoints of a trial; shorter trials write none.
        pack: how many trials train together at most; None for as many as pays and fits.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    data_folder: Path | None = None
    retries: int = 0
    checkpoint_seconds: float = 30.0
    pack: int | None = 1

    @classmethod
    def of(cls, study: Study, data_folder: Path | None) -> WorkerOptions:
        """Return the options that a study asks for."""
        return cls(
            cpus=study.resources.cpus,
            gpus=study.resources.gpus,
            data_folder=data_folder,
            retries=study.retries,
            checkpoint_seconds=study.checkpoint_seconds,
            pack=study.pack,
        )


DEFAULT = WorkerOptions()


def run_bundle(
    trials: Sequence[Trial], folder: StudyFolder, options: WorkerOptions = DEFAULT
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` and yield how each ended, ``"finished"``, ``"diverged"`` or ``"failed"``.

    A trial that raises starts again up to ``options.retries`` times; then the exception is kept in its
    journal, and the others go on.

    Args:
        trials: what to train, in this order as far as they do not train together.
        folder: whose journals and checkpoints to write.
        options: what this process may use.

    Raises:
        OSError: a journal or checkpoint cannot be written; the trial resumes from there when it is run again.
    """
    data_folder, checkpoint_seconds = options.data_folder, options.checkpoint_seconds
    torch.set_num_threads(max(1, int(options.cpus)))
    for together in packwork.packs(
        trials, folder, data_folder, options.pack, cpus=options.cpus, gpus=options.gpus
    ):
        alone = list(together)
        if len(together) > 1:
            for trial, status in packwork.train_or_leave(together, folder, data_folder, checkpoint_seconds):
                alone.remove(trial)
                yield trial, status
        for trial in alone:
            training_it = _tried(trial, folder, data_folder, options.retries, checkpoint_seconds)
            while True:
                try:
                    next(training_it)
                except StopIteration as ended:
                    yield trial, ended.value
                    break


def run_side_by_side(
    trials: Sequence[Trial], folder: StudyFolder, options: WorkerOptions = DEFAULT
) -> Iterator[tuple[int, list[Sequence[EpochRecord]]]]:
    """Train ``trials`` an epoch each at a time; yield, after each epoch, its number and all epochs so far.

    Epochs that were trained before are yielded as well, so that what is yielded does not depend on where the
    trials were interrupted. A trial that has no further epoch keeps those it has; one that failed before its
    first epoch has none, and is left out. When the last epoch is yielded, all journals have ended.

    Args:
        trials: what to train.
        folder: whose journals and checkpoints to write.
        options: what this process may use; each trial trains alone.
    """
    data_folder, checkpoint_seconds = options.data_folder, options.checkpoint_seconds
    torch.set_num_threads(max(1, int(options.cpus)))
    known = [list(journal.read(folder.journal(trial), trial).epochs) for trial in trials]
    advances = [_tried(trial, folder, data_folder, options.retries, checkpoint_seconds) for trial in trials]
    for number in itertools.count(1):
        for epochs, advance in zip(known, advances, strict=True):
            while len(epochs) < number and (epoch := next(advance, None)):
                epochs[epoch.epoch - 1 :] = [epoch]
        if all(len(epochs) < number for epochs in known):
            return
        yield number, [epochs[:number] for epochs in known if epochs]


def _tried(
    trial: Trial, folder: StudyFolder, data_folder: Path | None, retries: int, checkpoint_seconds: float
) -> Generator[EpochRecord, None, Status]:
    """Train ``trial`` to its end, starting again when it fails; yield its epochs and return how it ended."""
    status: Status = "failed"
    for _ in range(1 + retries):
        before = journal.read(folder.journal(trial), trial)
        if before.is_complete:
            return before.status
        status = yield from _train(trial, folder, data_folder, len(before.epochs), checkpoint_seconds)
        if status != "failed":
            break
    return status


def _train(
    trial: Trial, folder: StudyFolder, data_folder: Path | None, recorded: int, checkpoint_seconds: float
) -> Generator[EpochRecord, None, Status]:
    """Train once; each epoch is in the journal when it is yielded, and with the last one how it ended."""
    device = choose_device()
    checkpoints = Checkpoints(folder.checkpoint(trial))
    path, trained_on = folder.journal(trial), machine(device) | optimizers.versions(trial)
    repeatable = is_repeatable(device)
    notes: list[str] = []
    try:
        workload = registry.resolve(trial.workload, trial.workload_args)
        data = datasets.load(workload, data_folder, device)
        under_way = Training(trial, workload, data, device)
        state, notes = checkpoints.newest(trial.key, recorded)
        if state is not None:
            under_way.load_state_dict(state)
    except Exception:
        with Journal(path, trial, trained_on, repeatable=repeatable) as record:
            record.end("failed", traceback.format_exc())
        return "failed"
    status: Status = "finished"
    error = last = None
    with Journal(
        path, trial, trained_on, repeatable=repeatable, resumed=under_way.epoch, notes=notes
    ) as record:
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
            if epoch.diverged or under_way.finished:
                status, last = "diverged" if epoch.diverged else "finished", epoch
                break
            if time.monotonic() - saved >= checkpoint_seconds:
                checkpoints.save(under_way.state_dict())
                saved = time.monotonic()
            yield epoch
        record.end(status, error)
    if status != "failed":
        checkpoints.remove()
    if last is not None:
        yield last
    return status
