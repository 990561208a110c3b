"""Runs a search on Ray Tune with Optuna.

Tune asks :class:`UnitSearch` for work. Each piece of work is a *unit*: points of different arms that one
process trains, as many as are worth its start. Every arm has an ``OptunaSearch`` of its own, and its next
points are asked for when all of its earlier ones are settled (``search.parallel`` at a time). So which points
are asked does not depend on how many workers there are or how fast they are. What a point is worth is read
from the journals.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from study.execution import tune_trials  # first, for what it sets in the environment before ray is imported

# isort: split
import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from study.analysis import objective
from study.analysis.objective import PointScore
from study.config.loader import Resources, Study, Trial
from study.config.search_space import Arm, Point
from study.config.sections import Asha
from study.execution import planning, samplers
from study.storage import journal, search_journal
from study.storage.sqlite import sqlite_uri
from study.storage.study_folder import StudyFolder
from study.training.worker import run_bundle, run_side_by_side

VALUE, EPOCH = "value", "epoch"
MAX_EPOCHS = 10_000
"""A bound on the epochs of a trial whose budget is in iterations, for the number of ASHA's rungs."""


def search(study: Study, folder: StudyFolder, *, slots: int, data_folder: Path | None = None) -> None:
    """Search every arm of ``study`` to its end on the connected Ray.

    Points that were asked before and their trials count, wherever they got to; nothing is trained twice.

    Args:
        study: has a search.
        folder: the study's folder, at the same path on every node.
        slots: how many trials run at a time.
        data_folder: where the data sets lie on every node; None for the default.

    Raises:
        SamplerError: the sampler cannot be made as the study says.
    """
    scheduler = PerArm(study.scheduler, study.arms()) if study.scheduler else None
    searcher = open_search(study, folder, slots, scheduler)
    if not all(arm.over for arm in searcher.arms):
        _fit(searcher, scheduler, study, folder, slots, data_folder)


def open_search(study: Study, folder: StudyFolder, slots: int, scheduler: PerArm | None = None) -> UnitSearch:
    """Return the search of ``study`` as it stands, which asks for what is left; see :func:`search`."""
    folder.sampler_database.parent.mkdir(parents=True, exist_ok=True)
    # Optuna fills in a template: a brace in the path is doubled.
    uri = sqlite_uri(folder.sampler_database).replace("{", "{{").replace("}", "}}")
    storage = RDBStorage(uri)
    replay = scheduler.replay if scheduler else lambda arm, worth: None
    arms = [_ArmState(arm, study, folder, storage, replay) for arm in study.arms()]
    rates = planning.measured_rates(folder.records(study.trials()))
    return UnitSearch(arms, planning.unit_size(study, slots, rates))


def _fit(
    searcher: UnitSearch,
    scheduler: PerArm | None,
    study: Study,
    folder: StudyFolder,
    slots: int,
    data_folder: Path | None,
) -> None:
    host = partial(
        _host,
        folder=folder,
        data_folder=data_folder,
        resources=study.resources,
        retries=study.retries,
        checkpoint_seconds=study.checkpoint_seconds,
        pack=study.pack,
        objective_name=None if scheduler is None else searcher.arms[0].arm.search.objective,
    )
    tuner = tune.Tuner(
        tune.with_resources(host, tune_trials.needs(study.resources)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=sum(arm.arm.search.points for arm in searcher.arms) + len(searcher.arms),
            max_concurrent_trials=slots,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=uuid.uuid4().hex[:12],
            storage_path=str(folder.tune),
            failure_config=tune.FailureConfig(max_failures=tune_trials.MAX_DEATHS),
            verbose=0,
        ),
    )
    tuner.fit()


class _ArmSearch(OptunaSearch):
    """OptunaSearch over one arm, named points by their number, that takes up points left open before."""

    _ot_study: Any
    _ot_trials: dict[str, optuna.Trial]
    _completed_trials: set[str]

    def __init__(self, arm: Arm, storage: BaseStorage) -> None:
        super().__init__(
            space=samplers.space(arm),
            metric=VALUE,
            mode="min",
            sampler=samplers.ArmSampler(arm),
            study_name=arm.key,
            storage=storage,
        )
        for frozen in self._ot_study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._ot_trials[str(frozen.number)] = optuna.Trial(self._ot_study, frozen._trial_id)

    @property
    def left_open(self) -> list[int]:
        """Numbers of the points that were asked and whose worth was not told."""
        return sorted(map(int, self._ot_trials.keys() - self._completed_trials))

    def tell(self, worth: PointScore) -> None:
        """Take in what a point is worth."""
        name = str(worth.point.number)
        if worth.state == "pruned":
            self.on_trial_result(name, {VALUE: worth.epochs[-1], "training_iteration": len(worth.epochs)})
        result = None if worth.value is None else {VALUE: worth.value}
        self.on_trial_complete(name, result, error=worth.state == "failed")


class _ArmState:
    """One arm while it is searched: which points wait to be trained, and which are being trained."""

    def __init__(
        self,
        arm: Arm,
        study: Study,
        folder: StudyFolder,
        storage: BaseStorage,
        replay: Callable[[Arm, PointScore], None],
    ) -> None:
        self.arm = arm
        self._folder = folder
        self._threshold = study.threshold(arm.template)
        self._prunes = study.scheduler is not None
        self._points = {
            point.number: point for point in arm.points(search_journal.read(folder.search_journal))
        }
        worths = [self._worth(point) for point in self._points.values()]
        reopened = [worth if worth.state != "failed" else PointScore(worth.point, "open") for worth in worths]
        samplers.remember(storage, arm, reopened)
        self._search = _ArmSearch(arm, storage)
        self._waiting = [self._points[number] for number in self._search.left_open]
        self._out: dict[int, PointScore | None] = {}
        self.settled = [worth for worth in worths if worth.point not in self._waiting]
        self._replay = replay
        for worth in self.settled:
            replay(arm, worth)

    @property
    def over(self) -> bool:
        """Whether all points are asked and settled."""
        return len(self._points) >= self.arm.search.points and not self._waiting and not self._out

    def next(self) -> Point | None:
        """Return a point to be trained; None if there is none now."""
        while True:
            if not self._waiting and not self._out and not self.over:
                self._ask()
            if not self._waiting:
                return None
            point = self._waiting.pop(0)
            self._out[point.number] = None
            # What other searches trained, or this one before it was interrupted, is not trained again.
            worth = self._worth(point)
            if worth.state in ("open", "failed"):
                return point
            self._replay(self.arm, worth)
            self.settle(worth)

    def settle(self, worth: PointScore) -> None:
        """Note what a point is worth; the sampler is told when all that were asked together are settled."""
        self._out[worth.point.number] = worth
        if self._waiting or any(other is None for other in self._out.values()):
            return
        for number in sorted(self._out):
            known = self._out[number]
            assert known is not None
            self._search.tell(known)
            self.settled.append(known)
        self._out.clear()

    def judge(self, point: Point, *, stopped: bool) -> PointScore:
        """Return what a point is worth whose process has ended or was ``stopped`` by the scheduler."""
        worth = self._worth(point)
        if worth.state == "open" and stopped and self._prunes:
            for trial in self.arm.trials(point, self.arm.search.seeds):
                if not journal.read(self._folder.journal(trial), trial).is_complete:
                    journal.mark_pruned(self._folder.journal(trial), trial)
            worth = self._worth(point)
        return worth if worth.state != "open" else PointScore(point, "failed")

    def _ask(self) -> None:
        together, asked = self.arm.search.parallel, len(self._points)
        numbers = range(asked, min(self.arm.search.points, asked - asked % together + together))
        for number in numbers:
            self._points[number] = self.arm.point(number, self._search.suggest(str(number)) or {})
        self._waiting = [self._points[number] for number in numbers]
        search_journal.ask(self._folder.search_journal, self._waiting)

    def _worth(self, point: Point) -> PointScore:
        trials = self.arm.trials(point, self.arm.search.seeds)
        records = {record.trial.key: record for record in self._folder.records(trials)}
        return objective.score_point(self.arm, point, records, self._threshold, prunes=self._prunes)


class UnitSearch(Searcher):
    """Hands units to Tune and takes in what became of them."""

    def __init__(self, arms: Sequence[_ArmState], size: int) -> None:
        super().__init__()
        self.arms = arms
        self._size = size
        self._units: dict[str, list[tuple[_ArmState, Point]]] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial that trains one unit; None if all arms wait for results."""
        unit: list[tuple[_ArmState, Point]] = []
        # The arm that is furthest behind first.
        for arm in sorted(self.arms, key=lambda arm: len(arm.settled)):
            if len(unit) == self._size:
                break
            if (point := arm.next()) is not None:
                unit.append((arm, point))
        if not unit:
            return self.FINISHED if all(arm.over for arm in self.arms) else None
        self._units[trial_id] = unit
        trials = [
            [trial.settings() for trial in arm.arm.trials(point, arm.arm.search.seeds)] for arm, point in unit
        ]
        return {"arm": unit[0][0].arm.key, "unit": json.dumps(trials)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Settle the unit's points by what their journals say."""
        for arm, point in self._units.pop(trial_id, ()):
            arm.settle(arm.judge(point, stopped=not error))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the points and the journals keep everything."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Not meant to be; a search is opened again instead."""
        raise NotImplementedError


class PerArm(FIFOScheduler):
    """ASHA within each arm, so that no optimizer is stopped for being worse than another."""

    # Every decision is taken on the newest result, while its trial waits for it.
    _supports_buffered_results = False

    def __init__(self, asha: Asha, arms: Iterable[Arm]) -> None:
        FIFOScheduler.__init__(self)
        self._of = {
            arm.key: AsyncHyperBandScheduler(
                time_attr=EPOCH,
                metric=VALUE,
                mode="min",
                max_t=max(arm.template.epochs or MAX_EPOCHS, asha.grace),
                grace_period=asha.grace,
                reduction_factor=asha.reduction,
                stop_last_trials=False,
            )
            for arm in arms
        }

    def replay(self, arm: Arm, worth: PointScore) -> None:
        """Take in a point that was trained before this run."""
        asha: Any = self._of[arm.key]
        trial = SimpleNamespace(trial_id=f"{worth.point.number} before")
        asha.on_trial_add(None, trial)
        for epoch, value in enumerate(worth.epochs, start=1):
            asha.on_trial_result(None, trial, {EPOCH: epoch, VALUE: value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """As ASHA, in the trial's arm."""
        self._of[trial.config["arm"]].on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As ASHA, in the trial's arm."""
        return str(self._of[trial.config["arm"]].on_trial_result(tune_controller, trial, result))


def _host(
    config: dict[str, str],
    folder: StudyFolder,
    data_folder: Path | None,
    resources: Resources,
    retries: int,
    checkpoint_seconds: float,
    pack: int | None,
    objective_name: str | None,
) -> None:
    """Train a unit; with an objective, one point whose seeds go side by side, reporting after every epoch."""
    unit = [[Trial.from_settings(settings) for settings in point] for point in json.loads(config["unit"])]
    if objective_name is None:
        trials = [trial for point in unit for trial in point]
        ends = run_bundle(
            trials,
            folder,
            data_folder,
            resources.cpus,
            retries,
            gpus=resources.gpus,
            pack=pack,
            checkpoint_seconds=checkpoint_seconds,
        )
        for done, _ in enumerate(ends, start=1):
            tune.report({"trials_done": done})
        return
    by_epochs = run_side_by_side(
        unit[0], folder, data_folder, resources.cpus, retries, checkpoint_seconds=checkpoint_seconds
    )
    for epoch, known in by_epochs:
        tune.report({EPOCH: epoch, VALUE: objective.epoch_value(objective_name, known)})
