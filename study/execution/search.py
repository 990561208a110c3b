"""Runs the search of a study: chooses the next points and scores them. Uses Optuna, but not Ray.

An executor asks ``StudySearch`` for a *unit* of work, trains it, and reports how the unit ended. A unit
is the points of different arms that one worker trains, enough to justify the start of the worker. Every
arm has its own Optuna study. It asks for its next points when all earlier ones have scores
(``search.parallel`` at a time), so the points do not depend on the number of workers or their speed. The
scores come from the journals.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from optuna.storages import BaseStorage, RDBStorage

from study.analysis import objective
from study.config.loader import Study, Trial
from study.config.search_space import Point
from study.execution import planning
from study.execution.arm_search import ArmSearch
from study.storage import journal
from study.storage.failures import failures
from study.storage.sqlite import sqlite_uri
from study.storage.study_folder import StudyFolder
from study.storage.trial_files import TrialFolder
from study.training.worker import WorkerOptions, run_bundle, run_side_by_side


@dataclass(frozen=True)
class Unit:
    """Points that one worker trains, each of a different arm.

    Args:
        arms: Keys of the arms.
        points: One point per arm.
        trials: The trials of each point, on the search's seeds.
        objective: The value for a scheduler, reported after every epoch; None without a scheduler.
    """

    arms: tuple[str, ...]
    points: tuple[Point, ...]
    trials: tuple[tuple[Trial, ...], ...]
    objective: str | None = None


def open_search(study: Study, folder: StudyFolder, slots: int, stop_at: float | None = None) -> StudySearch:
    """Return the search of ``study`` in its current state.

    Points that were asked before keep the progress of their trials; nothing is trained twice.

    Args:
        study: A study with a search.
        folder: The study's folder.
        slots: Number of workers that run at a time.
        stop_at: When to stop asking for points, in Unix seconds. Default: never.

    Raises:
        SamplerError: The sampler cannot be created with the study's options.
    """
    storage = _open_storage(folder)
    rates = planning.measured_rates(folder.records(study.trials(folder.search_state())))
    arms = [ArmSearch(arm, study, folder, storage) for arm in study.arms()]
    return StudySearch(arms, planning.unit_size(study, slots, rates), stop_at)


def train_unit(
    trials: Sequence[Sequence[Trial]], objective_name: str | None, folder: TrialFolder, options: WorkerOptions
) -> Generator[tuple[int, float], None, None]:
    """Train the trials of a unit's points in this process.

    With an objective there is one point, whose seeds train side by side. After every epoch the function
    yields the epoch's number and the point's value so far, and training may end there. Without one, it yields
    the number of trials that have ended, after each, and 0.

    Args:
        trials: The trials of each point.
        objective_name: The unit's objective; None without one.
        folder: The folder whose journals and checkpoints are written.
        options: What this process may use, and how it trains.
    """
    if objective_name is None:
        together = [trial for point in trials for trial in point]
        for done, _ in enumerate(run_bundle(together, folder, options), start=1):
            yield done, 0.0
        return
    (point,) = trials
    for epoch, known in run_side_by_side(point, folder, options):
        # If the driver stops the point at this epoch, it scores it from the journals at once.
        folder.flush(wait=True)
        yield epoch, objective.epoch_value(objective_name, known)


class StudySearch:
    """The search of all arms of a study.

    Args:
        arms: The arms, in the study's order.
        size: Largest number of points in a unit.
        stop_at: When to stop asking for points, in Unix seconds. Default: never.
    """

    def __init__(self, arms: Sequence[ArmSearch], size: int, stop_at: float | None = None) -> None:
        self.arms = {arm.arm.key: arm for arm in arms}
        self.given_up: list[str] = []
        """Workloads whose search was abandoned, because the first point of every arm failed for one cause."""
        self._size = size
        self._stop_at = stop_at
        self._units_out = 0

    @property
    def is_time_up(self) -> bool:
        """Whether the search asks for no more points, because the study's budget of time is used up."""
        return self._stop_at is not None and time.time() >= self._stop_at

    @property
    def is_over(self) -> bool:
        """Whether no point trains and no arm asks for another."""
        if self.is_time_up:
            return not self._units_out
        return all(arm.is_over for arm in self.arms.values())

    @property
    def total_points(self) -> int:
        """Number of points in the whole search."""
        return sum(arm.arm.search.points for arm in self.arms.values())

    def next(self) -> Unit | None:
        """Return points to train; None if all arms wait for results, or the search is over."""
        chosen: list[tuple[ArmSearch, Point]] = []
        if self.is_time_up:
            return None
        # The arm with the fewest settled points comes first.
        for arm in sorted(self.arms.values(), key=lambda arm: len(arm.settled)):
            if len(chosen) == self._size:
                break
            if (point := arm.next()) is not None:
                chosen.append((arm, point))
        if not chosen:
            return None
        self._units_out += 1
        return Unit(
            arms=tuple(arm.arm.key for arm, _ in chosen),
            points=tuple(point for _, point in chosen),
            trials=tuple(tuple(arm.search_trials(point)) for arm, point in chosen),
            objective=chosen[0][0].reported_objective,
        )

    def stops(self, unit: Unit, epoch: int, value: float) -> bool:
        """Record a result of ``train_unit``, and return whether the scheduler stops the unit."""
        if unit.objective is None:
            return False
        return self.arms[unit.arms[0]].stops(unit.points[0], epoch, value)

    def settle(self, unit: Unit, *, stopped: bool) -> None:
        """Record that a unit has ended, and score its points from their journals.

        Args:
            unit: The unit, from ``next``. When the time is up, some of its points may be unfinished; they
                stay open, and a later run resumes them.
            stopped: Whether ``stops`` stopped the trials that have not ended; otherwise their worker was
                lost.
        """
        self._units_out -= 1
        for key, point in zip(unit.arms, unit.points, strict=True):
            arm = self.arms[key]
            if not (self.is_time_up and arm.is_unfinished(point)):
                arm.settle(arm.final_score(point, stopped=stopped))
        self._give_up_what_always_fails()

    def fail(self, kind: str, error: str) -> None:
        """Mark an untrained point of every arm of a kind as failed, and ask these arms for no more.

        Args:
            kind: ``Trial.kind`` of the arms' trials.
            error: The traceback.
        """
        for arm in self.arms.values():
            if arm.arm.template.kind == kind and (point := arm.next()) is not None:
                for record in arm.folder.records(arm.search_trials(point)):
                    if not record.is_complete:
                        journal.mark_failed(arm.folder.journal(record.trial), record.trial, error)
                arm.settle(arm.final_score(point, stopped=False))
                arm.is_abandoned = True

    def _give_up_what_always_fails(self) -> None:
        """Abandon the arms of a workload if each has a point, and all points failed for one cause."""
        workloads: dict[str, list[ArmSearch]] = {}
        for arm in self.arms.values():
            template = arm.arm.template
            workloads.setdefault(f"{template.workload} {template.workload_args}", []).append(arm)
        for arms in workloads.values():
            scores = [arm.all_scores() for arm in arms]
            if all(arm.is_abandoned for arm in arms) or not all(scores):
                continue
            if any(score.state != "failed" for known in scores for score in known):
                continue
            if len(failures(record for arm in arms for record in arm.failed_records())) == 1:
                self.given_up.append(arms[0].arm.template.workload)
                for arm in arms:
                    arm.is_abandoned = True


def _open_storage(folder: StudyFolder) -> BaseStorage:
    folder.sampler_database.parent.mkdir(parents=True, exist_ok=True)
    # Optuna fills in a template, so a brace in the path must be doubled.
    return RDBStorage(sqlite_uri(folder.sampler_database).replace("{", "{{").replace("}", "}}"))
