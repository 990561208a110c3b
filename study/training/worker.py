"""Trains a bundle of trials in one process, in packs or alone, each into its own journal.

It uses neither Ray nor MLflow. A trial whose journal is complete is not trained again; one that was
interrupted resumes from its last checkpoint. An error in a user's code fails its own trial, and the other
trials train.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from study.config.messages import describe_error
from study.config.trial import Trial
from study.storage import journal, journal_reader
from study.storage.failures import Failure
from study.storage.journal import Journal
from study.storage.object_store import ObjectStore, WithCheckpointsIn
from study.storage.records import EpochRecord, Status, TrialRecord
from study.storage.trial_files import TrialFolder
from study.training import packs
from study.training.device import (
    BrokenDeviceError,
    choose_device,
    is_broken,
    is_out_of_memory,
    keep_to_share,
    machine,
)
from study.training.loop import Loop, Step, TrainingError
from study.training.pack_limits import WorkerLimit
from study.training.preflight import preflight
from study.training.user_errors import stored_traceback
from study.workloads import torch_settings

if TYPE_CHECKING:
    from study.config.study import Study  # needs pydantic, which a worker may lack


@dataclass(frozen=True)
class WorkerOptions:
    """Resources of a worker process, and its settings for training.

    Args:
        cpus: CPU cores of this process; it trains with as many threads, at least one.
        gpus: This process's share of a GPU; 0 trains on the CPU, even if there are GPUs.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        retries: Number of times that a trial starts again after an error.
        checkpoint_seconds: Least seconds of training between two checkpoints of a trial, so that shorter
            trials write none; 0 for a checkpoint after every epoch.
        pack: Largest number of trials that train together; None for the fastest number that fits.
        checkpoints: Folder of an object store for the study's checkpoints. Default: the study's folder.
        run: Identifier of this run of the study. Trials that failed in this run are not trained again when
            their bundle starts again in a new process. Empty outside a run.
        stop_at: When training ends, in Unix seconds: trials that train then write a checkpoint, and no other
            begins. Default: never.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    data_folder: Path | None = None
    retries: int = 0
    checkpoint_seconds: float = 30.0
    pack: int | None = 1
    checkpoints: ObjectStore | None = None
    run: str = ""
    stop_at: float | None = None

    @classmethod
    def of(
        cls,
        study: Study,
        data_folder: Path | None,
        checkpoints: ObjectStore | None = None,
        *,
        stop_at: float | None = None,
    ) -> WorkerOptions:
        """Return the options for a new run of a study, from its settings."""
        return cls(
            cpus=study.resources.cpus,
            gpus=study.resources.gpus,
            data_folder=data_folder,
            retries=study.retries,
            checkpoint_seconds=study.checkpoint_seconds,
            pack=study.pack,
            checkpoints=checkpoints,
            run=uuid.uuid4().hex[:12],
            stop_at=stop_at,
        )


DEFAULT = WorkerOptions()


def run_bundle(
    trials: Sequence[Trial], folder: TrialFolder, options: WorkerOptions = DEFAULT
) -> Iterator[tuple[Trial, Status]]:
    """Train ``trials`` and yield how each ended: ``"finished"``, ``"diverged"`` or ``"failed"``.

    A trial that raises an error starts again up to ``options.retries`` times. Then its journal keeps the
    error, and the other trials train.

    Example::

        for trial, status in run_bundle(study.trials(), StudyFolder(runs, study.name)):
            print(trial.name, status)

    Args:
        trials: Trials to train, in this order as far as they do not train together.
        folder: The folder with the journals and checkpoints of the trials.
        options: What this process may use, and how it trains.

    Raises:
        BrokenDeviceError: This process can no longer use its GPU. Run the same bundle in a new process: it
            trains the trials that have not ended.
        OSError: A journal or checkpoint cannot be written; the trial resumes when it is run again.
    """
    worker = _Worker(folder, options)
    with _settings(options.cpus):
        for step in worker.train_all(trials):
            if step.status is not None:
                yield step.trial, step.status


def run_side_by_side(
    trials: Sequence[Trial], folder: TrialFolder, options: WorkerOptions = DEFAULT
) -> Iterator[tuple[int, list[Sequence[EpochRecord]]]]:
    """Train ``trials``, one epoch each in turn; yield, after each round, its number and all epochs so far.

    It yields epochs of earlier attempts as well, so that its output does not depend on where the trials were
    interrupted. A trial without a further epoch keeps those it has; a trial that failed before its first
    epoch is left out. When it yields the last epoch, all journals have ended.

    Args:
        trials: Trials to train.
        folder: The folder with the journals and checkpoints of the trials.
        options: What this process may use, and how it trains; each trial trains alone.

    Raises:
        BrokenDeviceError, OSError: As for ``run_bundle``.
    """
    worker = _Worker(folder, options)
    known = [list(record.epochs) for record in folder.records(trials)]
    advances = [
        (step.epoch for step in worker.train_alone(trial) if step.epoch is not None) for trial in trials
    ]
    with _settings(options.cpus):
        for number in itertools.count(1):
            for epochs, advance in zip(known, advances, strict=True):
                while len(epochs) < number and (epoch := next(advance, None)):
                    epochs[epoch.epoch - 1 :] = [epoch]
            if all(len(epochs) < number for epochs in known):
                return
            yield number, [epochs[:number] for epochs in known if epochs]


class _Worker:
    """Decides which trials train together, and what follows an error."""

    def __init__(self, folder: TrialFolder, options: WorkerOptions) -> None:
        if options.checkpoints is not None:
            folder = WithCheckpointsIn(options.checkpoints, folder)
        self._folder, self._options = folder, options
        self._device = choose_device(options.gpus)
        keep_to_share(self._device, options.gpus)
        self._loop = Loop(
            folder,
            self._device,
            options.data_folder,
            options.checkpoint_seconds,
            options.run,
            options.stop_at,
        )

    def train_all(self, trials: Sequence[Trial]) -> Iterator[Step]:
        """Train trials of any kinds, in packs that fit into the memory of this process."""
        records = self._folder.records(trials)
        for record in records:
            if self._has_ended(record):
                yield Step(record.trial, None, record.status)
        limit = WorkerLimit(
            self._options.pack,
            cpus=self._options.cpus,
            gpus=self._options.gpus,
            device=self._device,
            data_folder=self._options.data_folder,
            alone=[record.trial for record in records if self._is_suspect(record)],
        )
        left = [record.trial for record in records if not self._has_ended(record)]
        for members in packs.group_packable(left):
            if self._loop.is_time_up():
                return
            try:
                made = packs.make_packs(members, limit)
                if is_broken(self._device):
                    raise BrokenDeviceError("measuring a batch broke the GPU for this process")
                note = limit.notes.get(members[0].kind) if len(made) > 1 else None
                for pack in made:
                    yield from self._train_pack(pack, note)
            except BrokenDeviceError as error:
                self._mark_suspect(members, str(error))
                raise

    def _train_pack(self, trials: Sequence[Trial], note: str | None) -> Iterator[Step]:
        """Train ``trials`` as one pack; as smaller ones if memory runs out, and alone after another error."""
        if len(trials) == 1:
            yield from self.train_alone(trials[0], note)
            return
        left = list(trials)
        try:
            for step in self._loop.train(trials, [note] if note else []):
                if step.status is not None:
                    left.remove(step.trial)
                yield step
            return
        except TrainingError as failed:
            # Keep no reference to the exception: its frames hold the memory of the pack.
            reason, out_of_memory = describe_error(failed.error), is_out_of_memory(failed.error)
        if is_broken(self._device):
            raise BrokenDeviceError(
                f"a pack of {len(trials)} trials broke the GPU for this process: {reason}"
            )
        if out_of_memory and len(left) > 3:
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            pieces = packs.split_evenly(left, 2)
            note = f"packs of at most {len(pieces[-1])} trials: memory ran out with {len(left)}"
        else:
            note = f"trained alone: a pack of {len(left)} trials raised {reason}"
            pieces = [[trial] for trial in left]
        for piece in pieces:
            yield from self._train_pack(piece, note)

    def train_alone(self, trial: Trial, note: str | None = None) -> Iterator[Step]:
        """Train ``trial`` by itself to its end; again after an error, if ``retries`` allows it."""
        record = journal_reader.read(self._folder.journal(trial), trial)
        if self._has_ended(record):
            yield Step(trial, None, record.status)
            return
        if self._loop.is_time_up():
            return
        if self._is_suspect(record) and (failure := self._tried_on_the_cpu(trial)):
            self._mark_failed(trial, failure.traceback)
            yield Step(trial, None, "failed")
            return
        for _ in range(1 + self._options.retries):
            try:
                yield from self._loop.train([trial], [note] if note else [])
                return
            except TrainingError as failed:
                text, reason = stored_traceback(failed.error, trial), describe_error(failed.error)
            self._mark_failed(trial, text)
            if is_broken(self._device):
                yield Step(trial, None, "failed")
                raise BrokenDeviceError(f"{trial.name} broke the GPU for this process: {reason}")
        yield Step(trial, None, "failed")

    def _has_ended(self, record: TrialRecord) -> bool:
        """Return whether a trial needs no training: it is complete, or has failed in this run."""
        in_this_run = bool(record.run) and record.run == self._options.run
        return record.is_complete or (record.status == "failed" and in_this_run)

    def _is_suspect(self, record: TrialRecord) -> bool:
        """Return whether this trial, or one of its kind trained beside it, has broken a GPU in this run."""
        return record.suspect and bool(record.run) and record.run == self._options.run

    def _tried_on_the_cpu(self, trial: Trial) -> Failure | None:
        """Return why ``trial`` fails on the CPU, where an error breaks no device and has a better message."""
        return preflight(trial, self._options.data_folder, gpus=self._options.gpus)

    def _mark_failed(self, trial: Trial, error: str) -> None:
        path = self._folder.journal(trial)
        journal.mark_failed(
            path, trial, error, machine=machine(self._device, trial.precision), run=self._options.run
        )

    def _mark_suspect(self, trials: Sequence[Trial], reason: str) -> None:
        """Mark unfinished trials, so that the next process tries them on the CPU and trains them alone."""
        for record in self._folder.records(trials):
            if self._has_ended(record):
                continue
            Journal(
                self._folder.journal(record.trial),
                record.trial,
                machine(self._device, record.trial.precision),
                repeatable=False,
                resumed=len(record.epochs),
                notes=[f"trained alone, after a trial on the CPU: {reason}"],
                run=self._options.run,
                suspect=True,
            ).close()


@contextmanager
def _settings(cpus: float) -> Iterator[None]:
    """Train with as many threads as cores, and with float32 unchanged."""
    with torch_settings.in_force(torch_settings.kept()):
        torch.set_num_threads(max(1, int(cpus)))
        yield
