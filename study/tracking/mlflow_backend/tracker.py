"""Writes a study into MLflow: a parent run, and a child run per trial."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Experiment, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from study.config.loader import Study
from study.config.search_space import Arm, SearchState
from study.config.trial import default_label
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking.base import Say, TrackingError
from study.tracking.mlflow_backend import address, client, run_fields, views
from study.tracking.mlflow_backend.address import is_server, ui_address
from study.tracking.mlflow_backend.artifacts import CURVE_FILE
from study.tracking.mlflow_backend.client import asking
from study.tracking.mlflow_backend.kept import Kept, final_status, look_up
from study.tracking.mlflow_backend.trial_runs import TrialRuns

_SENDERS = 4
"""Number of trials that are sent at a time to a server, or to a database with several writers. A request
waits for the network, for the database and for others' requests, and a server may have several processes."""


class MlflowTracker:
    """Writes one study into MLflow; see ``study.tracking.Tracker``.

    Args:
        study: The study.
        uri: The tracking URI, which may contain a password.
        folder: The study's folder. An embedded database keeps its artifacts beside it; a server also gets the
            journals, so that the study can be fetched from it.
        say: Called with a line before the tracker waits for MLflow.

    Attributes:
        senders: See ``study.tracking.Tracker``. An SQLite database has one writer at a time.
    """

    def __init__(self, study: Study, uri: str, folder: StudyFolder, say: Say = lambda line: None) -> None:
        self.study = study
        self._uri = uri
        self._folder = folder
        self._say = say
        self._opened: MlflowClient | None = None
        self._read: Kept | None = None
        self._has_published = False
        self._lock = threading.RLock()
        """Held while MLflow is opened or the study created there, as several threads may publish trials."""
        self._several_workloads = len({workload.use for workload in study.workloads}) > 1
        self._runs = TrialRuns(study, folder, with_journals=is_server(uri))
        self.senders = 1 if uri.startswith("sqlite") else _SENDERS

    @property
    def location(self) -> str:
        """The tracking URI, without a password."""
        return address.without_password(self._uri)

    @property
    def experiment_id(self) -> str:
        """MLflow's identifier of the study's experiment; created if there is none."""
        return self._kept().experiment_id

    @property
    def parent_id(self) -> str:
        """MLflow's identifier of the study's parent run; created if there is none."""
        return self._kept().parent_id

    def check(self) -> None:
        """Raise a TrackingError if MLflow cannot be used; wait for it while it is only busy."""
        client.check(self._uri, self._say)

    def begin(self) -> None:
        """Mark the parent run, which an earlier run may have ended, as running; store study file and views.

        Only the driver that holds the lock may call this, so that a driver that is refused changes nothing.

        Raises:
            TrackingError: MLflow cannot be reached or used.
        """
        self._read = None  # another driver may have sent more since it was read
        parent_id = self.parent_id
        with asking(self._uri):
            self._store_study(parent_id)
            self._store_views()
            self._client.update_run(parent_id, status="RUNNING")

    def is_complete(self, record: TrialRecord) -> bool:
        """Return whether the trial has ended and its run has all its data."""
        return record.is_final and self._kept().complete.get(record.trial.key) == final_status(record)

    def publish(self, record: TrialRecord) -> None:
        """Send the part of ``record`` that the trial's run lacks; end the run with the trial.

        Raises:
            TrackingError: MLflow refused or did not answer; data may be sent again.
        """
        if record.attempt:
            self._has_published = True
            with asking(self._uri):
                self._runs.publish(self._client, self._kept(), record)

    def withdraw(self, record: TrialRecord) -> None:
        """Delete this driver's run of a trial if another driver has created one too.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self._uri):
            self._kept().withdraw(self._client, record.trial.key)

    def log_search(self, state: SearchState) -> None:
        """Store the search's choices with the parent run; also send its points to a server.

        Args:
            state: The state of the study's search; nothing happens if it has no search.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self._uri):
            arms = self.study.arms()
            for arm in arms:
                if best := arm.best(state):
                    workload = f"{arm.template.workload}." if self._several_workloads else ""
                    point = f"α₀={best.alpha0:g}" + ("" if best.beta is None else f" β={best.beta:g}")
                    self._client.set_tag(self.parent_id, f"best.{workload}{_called(arm, arms)}", point)
            if is_server(self._uri) and state.points:
                self._client.log_artifact(self.parent_id, str(self._folder.search_journal))

    def log_report(self, folder: Path) -> None:
        """Store the report's files with the parent run; nothing if MLflow does not have the study.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        if kept := self._existing():
            with asking(self._uri):
                self._client.log_artifacts(kept.parent_id, str(folder), "report")

    def close(self, *, completed: bool) -> None:
        """End the parent run: finished, or interrupted with trials left to run.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self._uri):
            self._forget_doubles()
            self._client.set_terminated(self.parent_id, "FINISHED" if completed else "KILLED")

    def study_link(self) -> str | None:
        """Return the address of the study's runs in a server's UI; None for an embedded database."""
        if not is_server(self._uri):
            return None
        kept = self._existing()
        if kept is None:
            return None
        page = views.first_page(kept.experiment_id, kept.tags, client.ui_version(self._uri))
        return f"{ui_address(self._uri)}/{page}"

    def trial_link(self, key: str) -> str | None:
        """Return the address of a trial's run in the MLflow UI; None if it has no run."""
        return self._run_link(key)

    def curve_link(self, key: str) -> str | None:
        """Return the address of the file with every iteration of a trial; None if the trial has no run."""
        return self._run_link(key, CURVE_FILE)

    def _run_link(self, key: str, artifact: str = "") -> str | None:
        kept = self._existing()
        run = kept.runs.get(key) if kept else None
        if kept is None or run is None:
            return None
        return f"{ui_address(self._uri)}/{address.run_page(kept.experiment_id, run.info.run_id, artifact)}"

    def optimizer_link(self, workload: str, optimizer: str) -> str | None:
        """Return the address of an optimizer's runs on a workload in the MLflow UI; None without a study."""
        return self.search_link(address.optimizer_filter(workload, optimizer)) if self._existing() else None

    def search_link(self, wanted: str) -> str:
        """Return the address of the runs that an MLflow filter finds, such as ``tags.optimizer = 'adam'``."""
        return f"{ui_address(self._uri)}/{address.page(self.experiment_id, wanted)}"

    @property
    def _client(self) -> MlflowClient:
        with self._lock:
            if self._opened is None:
                self._opened = client.open_client(self._uri, self._say, self._folder.artifacts.as_uri())
            return self._opened

    def _existing(self) -> Kept | None:
        """Return the study's state in MLflow; None, without any change, if MLflow does not have it."""
        if self._read is None:
            database = address.embedded_database(self._folder.runs)
            if self._uri == address.embedded_uri(self._folder.runs) and not database.is_file():
                return None
            with asking(self._uri):
                self._read = self._look_up()
        return self._read if self._read and self._read.parent_id else None

    def _kept(self) -> Kept:
        """Return the study's state in MLflow; create experiment and parent run if absent."""
        with self._lock:
            return self._existing() or self._make()

    def _make(self) -> Kept:
        try:
            with asking(self._uri):
                if self._read is None:
                    root = self._folder.artifacts / self.study.name
                    location = None if is_server(self._uri) else root.as_uri()
                    made = self._client.create_experiment(self.study.name, artifact_location=location)
                    self._read = Kept(made, "", {}, {}, [], {})
                tags = {"study": self.study.name, "role": "study", MLFLOW_RUN_NAME: self.study.name}
                tags |= run_fields.standard_tags()
                parent = self._client.create_run(self._read.experiment_id, tags=tags)
                self._read.parent_id = parent.info.run_id
                self._store_study(parent.info.run_id)
            return self._read
        except TrackingError:
            self._read = None  # it may have been created, and the answer lost
            raise

    def _look_up(self) -> Kept | None:
        experiment = self._experiment()
        return look_up(self._client, experiment) if experiment else None

    def _forget_doubles(self) -> None:
        """Delete further runs of a trial, and read the study's state again if trials were published."""
        if self._has_published:  # otherwise it is known since the study began
            self._read = self._look_up() or self._read
        kept = self._kept()
        while kept.doubles:
            self._client.delete_run(kept.doubles[-1].info.run_id)
            kept.doubles.pop()

    def _experiment(self) -> Experiment | None:
        found = self._client.get_experiment_by_name(self.study.name)
        if found is not None and found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"MLflow at {self.location}: the experiment {self.study.name!r} was deleted; "
                "restore it there or give the study another name"
            )
        return found

    def _store_study(self, run_id: str) -> None:
        self._client.set_tag(run_id, MLFLOW_RUN_NOTE, self.study.description or self.study.name)
        data = [run_fields.dataset(workload.use, workload.args) for workload in self.study.workloads]
        self._client.log_inputs(run_id, datasets=data)
        self._client.log_text(run_id, self.study.to_yaml(), "study.yaml")
        params = self.study.search_settings()
        if params:
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in params.items()])
            # A param cannot be changed: if a search was extended, the tag has the new number of points.
            known = self._client.get_run(run_id).data.params
            new = [Param(name, params[name]) for name in params.keys() - known.keys()]
            self._client.log_batch(run_id, params=new)

    def _store_views(self) -> None:
        """Store the views on which the UI opens, unless it has them."""
        kept = self._kept()
        created_ms = self._client.get_experiment(kept.experiment_id).creation_time or 0
        for name, value in views.tags(self.study, created_ms).items():
            if kept.tags.get(name) != value:
                try:
                    self._client.set_experiment_tag(kept.experiment_id, name, value)
                except MlflowException:
                    return  # views are optional: a server may let a user log runs and nothing else
                kept.tags[name] = value


def _called(arm: Arm, arms: Sequence[Arm]) -> str:
    """Return the name of an arm's optimizer, or its label if the study has several of that name."""
    trial = arm.template
    shown = {
        other.template.label
        for other in arms
        if (other.template.workload, other.template.optimizer) == (trial.workload, trial.optimizer)
    }
    return trial.optimizer if shown == {default_label(trial.optimizer, None)} else trial.label
