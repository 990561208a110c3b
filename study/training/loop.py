"""Trains trials together, or one alone, and writes their journals and checkpoints: one loop for both.

A checkpoint does not depend on the pack in which it was written. So a trial resumes from it in any pack or
alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from study.config.trial import Trial
from study.storage import journal_reader
from study.storage.journal import Journal
from study.storage.records import EpochRecord, Status
from study.storage.trial_files import TrialFolder
from study.training import optimizers, process_limits
from study.training.checkpoints import Checkpoints, State
from study.training.device import is_repeatable, machine
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.training.user_errors import RAISED
from study.workloads import datasets, registry, torch_settings
from study.workloads.base import Data, Workload

CHECKPOINT_SHARE = 0.05
"""Largest share of the time for writing checkpoints: those of large packs are written less often."""

NEARLY_DONE = 0.9
"""Share of its budget after which a trial still trains to its end when the time is up."""


class Step(NamedTuple):
    """A step of a trial, already in its journal."""

    trial: Trial
    epoch: EpochRecord | None
    """The epoch that it trained; None if it trained none."""
    status: Status | None
    """How it ended; None if it did not."""


class TrainingError(Exception):
    """Training raised ``error``, not the writing of a journal or checkpoint."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Loop:
    """The training of trials: their folder, their device and their limits.

    Args:
        folder: The folder with the journals and checkpoints of the trials.
        device: The device to train on.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        checkpoint_seconds: Least seconds between two checkpoints; 0 for one after every epoch.
        run: Identifier of the run of the study, for the journals.
        stop_at: When training ends, in Unix seconds, as the study's budget of time is used up. A trial that
            is nearly done then still ends. Default: never.
    """

    folder: TrialFolder
    device: torch.device
    data_folder: Path | None
    checkpoint_seconds: float
    run: str
    stop_at: float | None = None

    def is_time_up(self) -> bool:
        """Return whether no more training may begin."""
        return self.stop_at is not None and time.time() >= self.stop_at

    def train(self, trials: Sequence[Trial], notes: Sequence[str] = ()) -> Iterator[Step]:
        """Train trials of one kind, none of which has ended, to their ends.

        They resume from their checkpoints. Trials after the same number of iterations train together, and one
        such group after the other.

        Args:
            trials: Trials, at least one.
            notes: Notes for the journals of all of them.

        Raises:
            TrainingError: Training raised an error. Trials that have not ended keep their journals and
                checkpoints.
            OSError: A journal or checkpoint cannot be written.
        """
        with _told_apart():
            workload = registry.resolve(trials[0].workload, trials[0].workload_args)
            data = datasets.load(workload, self.data_folder, self.device)
        found: dict[str, tuple[State | None, list[str]]] = {}
        together: dict[int, list[Trial]] = {}
        for trial in trials:
            recorded = len(journal_reader.read(self.folder.journal(trial), trial).epochs)
            state, problems = Checkpoints(self.folder.checkpoint(trial)).newest(trial.key, recorded)
            found[trial.key] = state, [*problems, *notes]
            together.setdefault(0 if state is None else state["iterations"], []).append(trial)
        for members in together.values():
            if self.is_time_up():
                return
            states = {trial.key: state for trial in members if (state := found[trial.key][0]) is not None}
            with _told_apart():
                under_way = self._resumed(members, workload, data, states)
            yield from self._record(
                members, under_way, states, {key: said for key, (_, said) in found.items()}
            )

    def _resumed(
        self, trials: Sequence[Trial], workload: Workload, data: Data, states: dict[str, State]
    ) -> _UnderWay:
        if len(trials) > 1:
            return PackTraining(trials, workload, data, self.device, states)
        (trial,) = trials
        training = Training(trial, workload, data, self.device)
        if trial.key in states:
            training.load_state_dict(states[trial.key])
        return _Alone(trial, training)

    def _record(
        self,
        trials: Sequence[Trial],
        under_way: _UnderWay,
        states: dict[str, State],
        notes: dict[str, list[str]],
    ) -> Iterator[Step]:
        """Train on; write every epoch and every end into the journals before yielding it."""
        with torch_settings.in_force(under_way.settings):
            trained_on = machine(self.device, trials[0].precision) | under_way.layout
        trained_on |= optimizers.versions(trials[0])
        # In another pack, or alone, the last digits differ.
        repeatable = len(trials) == 1 and is_repeatable(self.device)
        with ExitStack() as stack:
            process_limits.allow_open_files(len(trials))
            journals = {}
            for trial in trials:
                opened = Journal(
                    self.folder.journal(trial),
                    trial,
                    trained_on,
                    repeatable=repeatable,
                    resumed=states[trial.key]["epoch"] if trial.key in states else 0,
                    notes=notes[trial.key],
                    run=self.run,
                )
                journals[trial.key] = stack.enter_context(opened)
            with _told_apart():
                epochs = under_way.epochs()
            saved, pause = time.monotonic(), self.checkpoint_seconds
            while True:
                with _told_apart():
                    records = next(epochs, None)
                if records is None:
                    return
                left = {trial.key for trial in under_way.trials}
                steps = []
                for trial, record in records:
                    journals[trial.key].epoch(record)
                    ended: Status | None = None
                    if record.diverged or trial.key not in left:
                        ended = "diverged" if record.diverged else "finished"
                        with journals.pop(trial.key) as closing:
                            closing.end(ended)
                        Checkpoints(self.folder.checkpoint(trial)).remove()
                    steps.append(Step(trial, record, ended))
                self.folder.flush()
                stops = bool(journals) and self.is_time_up() and not _nearly_done(steps)
                if journals and (stops or time.monotonic() - saved >= pause):
                    begun = time.monotonic()
                    for trial in under_way.trials:
                        Checkpoints(self.folder.checkpoint(trial)).save(under_way.state_dict(trial))
                    saved = time.monotonic()
                    if self.checkpoint_seconds:
                        pause = max(self.checkpoint_seconds, (saved - begun) / CHECKPOINT_SHARE)
                yield from steps
                if stops:
                    return


def _nearly_done(steps: Sequence[Step]) -> bool:
    """Return whether all trials that have not ended have used nearly all of their budget."""
    left = (step for step in steps if step.status is None and step.epoch is not None)
    return all(
        step.epoch.epoch >= NEARLY_DONE * step.trial.epochs
        if step.trial.epochs is not None
        else step.epoch.last_iteration >= NEARLY_DONE * (step.trial.iterations or 0)
        for step in left
        if step.epoch is not None
    )


class _UnderWay(Protocol):
    """Trials that train together, or one that trains alone."""

    settings: torch_settings.Changes
    layout: dict[str, str]

    @property
    def trials(self) -> list[Trial]: ...

    def epochs(self) -> Iterator[list[tuple[Trial, EpochRecord]]]: ...

    def state_dict(self, trial: Trial) -> dict[str, Any]: ...


class _Alone:
    """One trial, with the methods of a pack."""

    def __init__(self, trial: Trial, training: Training) -> None:
        self._trial, self._training = trial, training
        self.settings, self.layout = training.settings, training.layout

    @property
    def trials(self) -> list[Trial]:
        return [] if self._training.finished else [self._trial]

    def epochs(self) -> Iterator[list[tuple[Trial, EpochRecord]]]:
        return ([(self._trial, record)] for record in self._training.epochs())

    def state_dict(self, trial: Trial) -> dict[str, Any]:
        return self._training.state_dict()


@contextmanager
def _told_apart() -> Iterator[None]:
    """Turn errors from the training of a trial into ``TrainingError``."""
    try:
        yield
    except RAISED as error:
        raise TrainingError(error) from error
