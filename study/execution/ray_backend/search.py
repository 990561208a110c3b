"""Runs a search on Ray Tune, which only sends units of ``study.execution.search`` to worker processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from study.config.loader import Trial
from study.execution.ray_backend import trials
from study.execution.ray_backend.sent_data import SentData
from study.execution.ray_backend.shared_places import SharedPlaces
from study.execution.search import StudySearch, Unit, train_unit
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions

VALUE, EPOCH = "value", "epoch"


def run_search(
    search: StudySearch,
    folder: StudyFolder,
    options: WorkerOptions,
    places: SharedPlaces | None = None,
    data: SentData | None = None,
    *,
    slots: int,
) -> None:
    """Train the points of ``search`` on the connected Ray, until it asks for no more.

    Args:
        search: The search.
        folder: The study's folder.
        options: What each process may use, and how it trains.
        places: How a process reaches the folder. Default: all see it at the same path.
        data: Data sets for nodes that lack them. Default: none.
        slots: Number of processes that run at a time.

    Raises:
        LostWorkersError: Every node is gone.
        OSError: The study's folder cannot be written.
    """
    units: dict[str, Unit] = {}
    host = partial(_host, places=places or SharedPlaces(folder), data=data or SentData(), options=options)
    searcher = _Searcher(search, units)
    try:
        trials.fit(
            tune.with_resources(host, trials.needs(options)),
            folder,
            search_alg=searcher,
            scheduler=_Scheduler(search, units),
            # No unit is empty, and one more per arm than there are points is never reached.
            num_samples=search.total_points + len(search.arms),
            max_concurrent_trials=slots,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        )
    except Exception:
        if searcher.error is None:
            raise
    if searcher.error is not None:
        raise searcher.error


class _Searcher(Searcher):
    """Gives units to Tune and reports their ends to the search.

    Attributes:
        error: An error of the search, such as a full disk. Tune would take one from ``on_trial_complete`` for
            an error of the trial and wait for the next unit, and wraps one from ``suggest``.
    """

    def __init__(self, search: StudySearch, units: dict[str, Unit]) -> None:
        super().__init__()
        self._search, self._units = search, units
        self.error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        """Return the config of a Tune trial that trains one unit; None if the search waits for results.

        Raises:
            Exception: The search had an error, which ends Tune.
        """
        if self.error is not None:
            raise self.error
        try:
            unit = self._search.next()
        except Exception as error:
            self.error = error
            raise
        if unit is None:
            return self.FINISHED if self._search.is_over else None
        self._units[trial_id] = unit
        settings = [[trial.settings() for trial in point] for point in unit.trials]
        return {"unit": json.dumps(settings), "objective": unit.objective}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Settle the unit's points."""
        if unit := self._units.pop(trial_id, None):
            try:
                self._search.settle(unit, stopped=not error)
            except Exception as failed:
                self.error = failed

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the points and the journals hold the whole state."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Raise an error: an interrupted search is opened again, not restored."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """Keep the search out of the state that Tune writes."""
        return {}


class _Scheduler(FIFOScheduler):
    """Asks the search after every epoch whether the unit stops."""

    # Each decision uses the newest result, while its trial waits for it.
    _supports_buffered_results = False

    def __init__(self, search: StudySearch, units: dict[str, Unit]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search, self._units = search, units

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return Tune's word for continuing or for stopping."""
        unit = self._units.get(trial.trial_id)
        if unit is not None and result[EPOCH] and self._search.stops(unit, result[EPOCH], result[VALUE]):
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Keep the search out of the state that Tune writes."""
        return {}


def _host(config: dict[str, Any], places: SharedPlaces, data: SentData, options: WorkerOptions) -> None:
    data.unpack(options.data_folder)
    points = [[Trial.from_settings(settings) for settings in point] for point in json.loads(config["unit"])]
    epoch = 0
    for epoch, value in train_unit(points, config["objective"], places.here(), options):
        tune.report({EPOCH: epoch, VALUE: value})
    if not epoch:  # the time is up; Tune prints a line about a process that reports nothing
        tune.report({EPOCH: 0, VALUE: 0.0})
