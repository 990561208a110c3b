"""Searches one arm: asks Optuna for the next points, and tells Optuna their scores."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from study.analysis import objective
from study.analysis.objective import PointScore
from study.config.loader import Study, Trial
from study.config.search_space import Arm, Point
from study.execution import samplers
from study.execution.asha import SuccessiveHalving
from study.storage import journal, journal_reader, search_journal
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder


class ArmSearch:
    """The search of one arm: which points wait for training, which train, and which are settled.

    Args:
        arm: The arm.
        study: The study that the arm belongs to.
        folder: The study's folder.
        storage: Optuna's storage.

    Raises:
        SamplerError: The sampler cannot be created with the study's options.
    """

    def __init__(self, arm: Arm, study: Study, folder: StudyFolder, storage: BaseStorage) -> None:
        self.arm = arm
        self.folder = folder
        self.is_abandoned = False
        """Whether the arm needs no further points."""
        self._storage = storage
        self._threshold = study.threshold(arm.template)
        self._halving = None if study.scheduler is None else SuccessiveHalving(study.scheduler)
        known = arm.points(folder.search_state())
        self._points = {point.number: point for point in known}
        scores = [self._score(point) for point in self._points.values()]
        # Points that failed before are trained again.
        reopened = [score if score.state != "failed" else PointScore(score.point, "open") for score in scores]
        samplers.rename(storage, arm)
        samplers.remember(storage, arm, reopened)
        self._optuna = optuna.create_study(
            study_name=samplers.study_name(arm),
            storage=storage,
            sampler=samplers.ArmSampler(arm),
            direction="minimize",
            load_if_exists=True,
        )
        shown = self._optuna.user_attrs
        for name, value in samplers.user_attributes(arm).items():
            if shown.get(name) != value:
                self._optuna.set_user_attr(name, value)
        running = self._optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        self._waiting = [self._points[trial.number] for trial in running]
        self._out: dict[int, PointScore | None] = {}
        self.settled = [score for score in scores if score.point not in self._waiting]
        """Scores that the sampler knows."""
        for score in self.settled:
            self._replay(score)

    @property
    def is_over(self) -> bool:
        """Whether no point trains and the arm needs no more points."""
        if self._out and (not self.is_abandoned or None in self._out.values()):
            return False
        return self.is_abandoned or (len(self._points) >= self.arm.search.points and not self._waiting)

    @property
    def reported_objective(self) -> str | None:
        """The objective that a scheduler decides by; None if the study has no scheduler."""
        return None if self._halving is None else self.arm.search.objective

    def search_trials(self, point: Point) -> list[Trial]:
        """Return a point's trials on the search's seeds."""
        return self.arm.trials(point, self.arm.search.seeds)

    def next(self) -> Point | None:
        """Return a point to train; None if there is none at present."""
        while not self.is_abandoned:
            if not self._waiting and not self._out and not self.is_over:
                self._ask()
            if not self._waiting:
                return None
            point = self._waiting.pop(0)
            self._out[point.number] = None
            # A point that another search trained, or this one before an interruption, is not trained again.
            score = self._score(point)
            if score.state in ("open", "failed"):
                return point
            self._replay(score)
            self.settle(score)
        return None

    def stops(self, point: Point, epoch: int, value: float) -> bool:
        """Record a point's value after an epoch, and return whether the scheduler stops the point."""
        return self._halving is not None and self._halving.stops(point.number, epoch=epoch, value=value)

    def settle(self, score: PointScore) -> None:
        """Record the score of a point; tell the sampler when all points asked together have one."""
        self._out[score.point.number] = score
        if self._waiting or None in self._out.values():
            return
        for number in sorted(self._out):
            known = self._out[number]
            assert known is not None
            self._tell(known)
            self.settled.append(known)
        self._out.clear()

    def final_score(self, point: Point, *, stopped: bool) -> PointScore:
        """Score a point whose worker exited, or that the scheduler ``stopped``."""
        score = self._score(point)
        if score.state == "open" and stopped and self._halving is not None:
            for trial in self.search_trials(point):
                if not journal_reader.read(self.folder.journal(trial), trial).is_complete:
                    journal.mark_pruned(self.folder.journal(trial), trial)
            score = self._score(point)
        return score if score.state != "open" else PointScore(point, "failed")

    def is_unfinished(self, point: Point) -> bool:
        """Return whether trials of a point have not ended."""
        return self._score(point).state == "open"

    def all_scores(self) -> list[PointScore]:
        """Return all scores, those that the sampler does not know yet included."""
        return [*self.settled, *(score for score in self._out.values() if score is not None)]

    def failed_records(self) -> list[TrialRecord]:
        """Return the records of trials that failed."""
        trials = [trial for score in self.all_scores() for trial in self.search_trials(score.point)]
        return [record for record in self.folder.records(trials) if record.status == "failed"]

    def _ask(self) -> None:
        together, asked = self.arm.search.parallel, len(self._points)
        numbers = range(asked, min(self.arm.search.points, asked - asked % together + together))
        for number in numbers:
            drawn = self._optuna.ask(fixed_distributions=samplers.space(self.arm)).params
            self._points[number] = self.arm.point(number, drawn)
        self._waiting = [self._points[number] for number in numbers]
        search_journal.ask(self.folder.search_journal, self._waiting)

    def _tell(self, score: PointScore) -> None:
        number = score.point.number
        if score.state == "pruned":
            study = self._storage.get_study_id_from_name(self._optuna.study_name)
            trial = self._storage.get_trial_id_from_study_id_trial_number(study, number)
            optuna.Trial(self._optuna, trial).report(score.epochs[-1], step=len(score.epochs))
        self._optuna.tell(number, score.value, state=samplers.STATES[score.state])

    def _replay(self, score: PointScore) -> None:
        """Give the scheduler the values of a point that was trained before this run."""
        for epoch, value in enumerate(score.epochs, start=1):
            self.stops(score.point, epoch, value)

    def _score(self, point: Point) -> PointScore:
        records = {record.trial.key: record for record in self.folder.records(self.search_trials(point))}
        prunes = self._halving is not None
        return objective.score_point(self.arm, point, records, self._threshold, prunes=prunes)
