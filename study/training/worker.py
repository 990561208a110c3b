"""Trains a bundle of trials in one process, in packs or alone, each into its own journal.

Knows neither Ray nor MLflow. A trial whose journal is complete is not trained again; one that was interrupted
resumes from its last checkpoint. What a user's code raises fails the trial that it is raised for, and the
other trials train.
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
from study.storage import journal
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
    from study.config.study import Study  # needs pydantic, which a worker does without


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker process may use, and how it trains.

    Args:
        cpus: cores of this process; it trains with as many threads, at least one.
        gpus: this process's share of a GPU; 0 trains on the CPU, whatever GPUs there are.
        data_folder: where the data sets lie; None for the default.
        retries: how often a trial that raises starts again.
        checkpoint_seconds: least seconds of training between two checkpoints of a trial, so that shorter
            trials write none; 0 for a checkpoint after every epoch.
        pack: how many trials train together at most; None for as many as pays and fits.
        checkpoints: the folder of an object store for the study's checkpoints; None keeps them in the study's
            folder.
        run: which run of the study this is. Trials that failed in this run are not trained again when their
            bundle starts again in a new process. Empty outside a run.
        stop_at: when training ends, in Unix seconds: trials under way then write a checkpoint, and no other
            begins. None for never.
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
        """Return the options that a study asks for, for a new run of it."""
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

    A trial that raises starts again up to ``options.retries`` times. Then its journal keeps the exception,
    and the other trials train.

    Example::

        for trial, status in run_bundle(study.trials(), StudyFolder(runs, study.name)):
            print(trial.name, status)

    Args:
        trials: what to train, in this order as far as they do not train together.
        folder: where the journals and checkpoints of the trials are.
        options: what this process may use.

    Raises:
        BrokenDeviceError: this process can no longer use its GPU. Run the same bundle in a new process: it
            trains the trials that have not ended.
        OSError: a journal or checkpoint cannot be written; the trial resumes from there when it is run again.
    """
    worker = _Worker(folder, options)
    with _settings(options.cpus):
        for step in worker.train_all(trials):
            if step.status is not None:
                yield step.trial, step.status


def run_side_by_side(
    trials: Sequence[Trial], folder: TrialFolder, options: WorkerOptions = DEFAULT
) -> Iterator[tuple[int, list[Sequence[EpochRecord]]]]:
    """Train ``trials`` an epoch each at a time; yield, after each epoch, its number and all epochs so far.

    It yields epochs of earlier attempts as well, so that its output does not depend on where the trials were
    interrupted. A trial that has no further epoch keeps those it has; one that failed before its first epoch
    has none, and is left out. When it yields the last epoch, all journals have ended.

    Args:
        trials: what to train.
        folder: where the journals and checkpoints of the trials are.
        options: what this process may use; each trial trains alone.

    Raises:
        BrokenDeviceError, OSError: as ``run_bundle``.
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
    """Decides what trains together, and what comes after an exception."""

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
        """Train ``trials`` as one pack; as smaller ones if memory runs out, and alone if it raises."""
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
            # Nothing of the exception is kept: its frames hold the memory of the pack.
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
        """Train ``trial`` by itself to its end, again if it raises and may."""
        record = journal.read(self._folder.journal(trial), trial)
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
        """Whether a trial needs no training: it is complete, or has failed in this run."""
        in_this_run = bool(record.run) and record.run == self._options.run
        return record.is_complete or (record.status == "failed" and in_this_run)

    def _is_suspect(self, record: TrialRecord) -> bool:
        """Whether this trial, or one of its kind beside it, has broken a GPU in this run."""
        return record.suspect and bool(record.run) and record.run == self._options.run

    def _tried_on_the_cpu(self, trial: Trial) -> Failure | None:
        """Return why ``trial`` fails there, where a mistake breaks nothing and its message says more."""
        return preflight(trial, self._options.data_folder, gpus=self._options.gpus)

    def _mark_failed(self, trial: Trial, error: str) -> None:
        path = self._folder.journal(trial)
        journal.mark_failed(
            path, trial, error, machine=machine(self._device, trial.precision), run=self._options.run
        )

    def _mark_suspect(self, trials: Sequence[Trial], reason: str) -> None:
        """Let the next process try those of ``trials`` that have not ended on the CPU, and train them
        alone."""
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
    """Train with as many threads as cores, and with float32 as it is."""
    with torch_settings.in_force(torch_settings.kept()):
        torch.set_num_threads(max(1, int(cpus)))
        yield
