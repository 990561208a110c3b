"""Trains trials together, or one alone, into their journals and checkpoints: one loop for both.

A checkpoint says nothing of the pack that it was written in. So a trial resumes from it in any pack or alone.
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
from study.storage import journal
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
"""Of the time, at most for writing checkpoints: those of large packs are written less often."""

NEARLY_DONE = 0.9
"""Of its epochs or iterations: a trial that has so much of them behind it ends, when the time is up."""


class Step(NamedTuple):
    """What happened to a trial; its journal has it already."""

    trial: Trial
    epoch: EpochRecord | None
    """The epoch that it trained, if it did."""
    status: Status | None
    """How it ended, if it did."""


class TrainingError(Exception):
    """Training raised ``error``, as opposed to the writing of a journal or checkpoint."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class Loop:
    """How and where trials are trained.

    Args:
        folder: where the journals and checkpoints of the trials are.
        device: where to train.
        data_folder: where the data sets lie; None for the default.
        checkpoint_seconds: least seconds between two checkpoints; 0 for one after every epoch.
        run: of the study, for the journals.
        stop_at: when training ends, in Unix seconds, as the study's budget of time is used up; None for
            never. A trial that is nearly done then still ends.
    """

    folder: TrialFolder
    device: torch.device
    data_folder: Path | None
    checkpoint_seconds: float
    run: str
    stop_at: float | None = None

    def is_time_up(self) -> bool:
        """Whether no further training is to begin."""
        return self.stop_at is not None and time.time() >= self.stop_at

    def train(self, trials: Sequence[Trial], notes: Sequence[str] = ()) -> Iterator[Step]:
        """Train trials of one kind, none of which has ended, to their ends.

        They resume from their checkpoints. Those after equally many iterations train together, and one such
        set after the other.

        Args:
            trials: at least one.
            notes: for the journals of all of them.

        Raises:
            TrainingError: training raised. Trials that have not ended are where their journals and
                checkpoints say.
            OSError: a journal or checkpoint cannot be written.
        """
        with _told_apart():
            workload = registry.resolve(trials[0].workload, trials[0].workload_args)
            data = datasets.load(workload, self.data_folder, self.device)
        found: dict[str, tuple[State | None, list[str]]] = {}
        together: dict[int, list[Trial]] = {}
        for trial in trials:
            recorded = len(journal.read(self.folder.journal(trial), trial).epochs)
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
        """Train on, with every epoch and every end in the journals before it is yielded."""
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
    """Whether all trials under way have used up nearly all of their budget."""
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
    """Raise what the training of a trial raises as ``TrainingError``."""
    try:
        yield
    except RAISED as error:
        raise TrainingError(error) from error
