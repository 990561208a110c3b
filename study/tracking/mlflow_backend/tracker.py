"""Writes a study into MLflow: a parent run, and a run per trial."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from study.analysis import metrics as trial_metrics
from study.analysis.curves import curve_table
from study.config.loader import Study, Trial
from study.config.search_space import SearchState
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import downsample
from study.tracking.base import TrackingError
from study.tracking.mlflow_backend import metrics as content
from study.tracking.mlflow_backend.client import (
    all_runs,
    asking,
    check_reachable,
    end_of,
    is_server,
    page,
    ui_address,
)
from study.tracking.mlflow_backend.download import JOURNAL

_BATCH = 1000
_TAGGED = ("workload", "optimizer", "op", "lop", "alpha0", "beta", "seed")
# A point costs 0.2 ms in SQLite. Of a large study each curve keeps fewer: nobody looks at all of them, and
# every iteration is in the Parquet file.
_STUDY_POINTS = 30_000
_LEAST_POINTS = 120


class Tracker:
    """Writes one study into MLflow.

    Opening it makes the experiment and the parent run, or finds them.

    Args:
        study: what is tracked.
        uri: the tracking URI.
        folder: the study's folder. An embedded store keeps its artifacts beside it; a server is sent the
            journals as well, so that the study can be had from it with :func:`fetch`.

    Raises:
        TrackingError: the server or store does not answer.
    """

    def __init__(self, study: Study, uri: str, folder: StudyFolder) -> None:
        self.study = study
        self.uri = uri
        self._folder = folder
        check_reachable(uri)
        self._client = MlflowClient(tracking_uri=uri)
        with asking(uri):
            self.experiment_id = self._experiment()
            runs = list(all_runs(self._client, self.experiment_id))
            self._runs = self._one_per_trial(runs)
            self._complete = {key: end for key, run in self._runs.items() if (end := end_of(run))}
            self._several_workloads = len({workload.use for workload in study.workloads}) > 1
            self.parent_id = self._parent(runs)
        self._sent: dict[str, content.Sent] = {}
        self._unsure = False
        each = _STUDY_POINTS // max(1, len(study.trials()))
        self._points = min(downsample.CURVE_POINTS, max(_LEAST_POINTS, each))

    def begin(self) -> None:
        """Mark the parent run as running, which an earlier run may have ended, and keep the study with it.

        Only who may run the study does this, so that a driver that is refused changes nothing.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self.uri):
            self._keep_study(self.parent_id)
            self._client.update_run(self.parent_id, status="RUNNING")

    def is_complete(self, record: TrialRecord) -> bool:
        """Whether the trial's run has all that the trial left."""
        return record.is_final and self._complete.get(record.trial.key) == end(record)

    def replay(self, record: TrialRecord) -> None:
        """Send what the trial's run does not have yet of ``record``; end the run with the trial.

        Raises:
            TrackingError: MLflow refused or did not answer; what was sent may be sent again.
        """
        if not record.attempt:
            return
        try:
            with asking(self.uri):
                self._replay(record)
        except TrackingError:
            # Nobody knows how much of it arrived: it is all sent again, which doubles nothing.
            self._sent.pop(record.trial.key, None)
            self._unsure = True
            raise

    def log_report(self, folder: Path) -> None:
        """Store the report with the parent run.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self.uri):
            self._client.log_artifacts(self.parent_id, str(folder), "report")

    def log_search(self, state: SearchState) -> None:
        """Note with the parent run what a search has chosen so far; a server is sent its points as well.

        Args:
            state: what the study's search has found; nothing happens if it has no search.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self.uri):
            for arm in self.study.arms():
                if best := arm.best(state):
                    workload = f"{arm.template.workload}." if self._several_workloads else ""
                    point = f"α₀={best.alpha0:g}" + ("" if best.beta is None else f" β={best.beta:g}")
                    self._client.set_tag(self.parent_id, f"best.{workload}{arm.template.optimizer}", point)
            if self.study.search is not None and state.points and is_server(self.uri):
                self._client.log_artifact(self.parent_id, str(self._folder.search_journal))

    def close(self, *, completed: bool) -> None:
        """End the parent run: finished, or interrupted with trials left to do.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        with asking(self.uri):
            self._one_per_trial(all_runs(self._client, self.experiment_id))
            self._client.set_terminated(self.parent_id, "FINISHED" if completed else "KILLED")

    def run_link(self, trial: Trial) -> str | None:
        """Return the address of a trial's run in the MLflow UI; None if it has no run.

        See :func:`ui_address` for where that is.
        """
        run = self._runs.get(trial.key)
        base = ui_address(self.uri)
        return f"{base}/#/experiments/{self.experiment_id}/runs/{run.info.run_id}" if run else None

    def search_link(self, wanted: str) -> str:
        """Return the address of the runs that an MLflow filter finds, ``tags.optimizer = 'adam'``."""
        return f"{ui_address(self.uri)}/{page(self.experiment_id, wanted)}"

    def page(self) -> str | None:
        """Return the address of the study's runs in the UI of a server; None for an embedded store."""
        return f"{ui_address(self.uri)}/{page(self.experiment_id)}" if is_server(self.uri) else None

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.study.name)
        if found is None:
            location = None if is_server(self.uri) else (self._folder.artifacts / self.study.name).as_uri()
            return self._client.create_experiment(self.study.name, artifact_location=location)
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"MLflow at {self.uri}: the experiment {self.study.name!r} was deleted; "
                "restore it there or give the study another name"
            )
        return found.experiment_id

    def _parent(self, runs: Iterable[Run]) -> str:
        parent = next((run for run in runs if run.data.tags.get("role") == "study"), None)
        if parent is None:
            tags = {"study": self.study.name, "role": "study", MLFLOW_RUN_NAME: self.study.name}
            parent = self._client.create_run(self.experiment_id, tags=tags)
            self._keep_study(parent.info.run_id)
        run_id: str = parent.info.run_id
        return run_id

    def _keep_study(self, run_id: str) -> None:
        self._client.set_tag(run_id, MLFLOW_RUN_NOTE, self.study.description or self.study.name)
        self._client.log_text(run_id, self.study.to_yaml(), "study.yaml")
        params = self.study.search_settings()
        if params:
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in params.items()])
            # A param cannot be changed: of a search that was asked for more points, the tag says how many.
            known = self._client.get_run(run_id).data.params
            new = [Param(name, params[name]) for name in params.keys() - known.keys()]
            self._client.log_batch(run_id, params=new)

    def _one_per_trial(self, runs: Iterable[Run]) -> dict[str, Run]:
        """Keep one run per trial, the most complete: a request that was answered too late is sent twice."""
        kept: dict[str, Run] = {}
        for run in sorted(runs, key=lambda run: (end_of(run) is None, run.info.start_time)):
            if (key := run.data.tags.get("trial_key")) and kept.setdefault(key, run) is not run:
                self._client.delete_run(run.info.run_id)
        return kept

    def _replay(self, record: TrialRecord) -> None:
        key = record.trial.key
        if self._unsure:
            # A run may have been made whose identifier was lost on the way.
            self._runs = self._one_per_trial(all_runs(self._client, self.experiment_id))
            self._unsure = False
        run = self._runs.get(key)
        if run is not None and run.data.tags.get("attempt") != record.attempt:
            # Another attempt's points must not mix with these.
            self._client.delete_run(run.info.run_id)
            run = None
            self._sent.pop(key, None)
        known = run is not None
        if run is None:
            run = self._runs[key] = self._start(record)
        run_id = run.info.run_id
        params: dict[str, Any] = {}
        if key not in self._sent:
            # A driver that died may have left the parameters out and the run as ended.
            params = content.params(record.trial)
            if known and not record.is_final:
                self._client.update_run(run_id, status="RUNNING")
        sent = self._sent.setdefault(key, content.Sent(self._points))
        metrics = list(sent.fresh(record))
        tags: dict[str, str] = self._verdict(record) if record.is_final else {}
        if record.is_final and record.status != "failed":
            # Not of a failed trial: it may yet be run again, and a metric has one value.
            summaries = trial_metrics.summarise(record, self.study.threshold(record.trial))
            metrics += [Metric(name, value, record.ended_ms, 0) for name, value in summaries.items()]
        self._send(run_id, metrics, params, tags)
        if record.is_final:
            self._keep_artifacts(run_id, record)
            # Last: a run that says it is finished is not looked at again.
            self._client.set_terminated(run_id, end(record), end_time=record.ended_ms)
            if record.status != "failed":
                self._complete[key] = end(record)
            del self._sent[key]

    def _verdict(self, record: TrialRecord) -> dict[str, str]:
        if record.status == "failed":
            return {"outcome": "failed"}
        tags: dict[str, str] = {"outcome": trial_metrics.outcome(record, self.study.threshold(record.trial))}
        if self.study.search is not None:
            tags["pruned"] = str(record.status == "pruned").lower()
        return tags

    def _start(self, record: TrialRecord) -> Run:
        trial = record.trial
        params = content.params(trial)
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent_id,
            "study": self.study.name,
            "role": "trial",
            "trial_key": trial.key,
            "attempt": record.attempt,
            **{name: str(params[name]) for name in _TAGGED if name in params},
            "optimizer": trial.label,  # what one groups by; the parameter of that name is exact
            **{f"machine.{name}": value for name, value in record.machine.items()},
        }
        if self.study.search is not None:
            tags["stage"] = "search" if self.study.is_search_trial(trial) else "report"
        return self._client.create_run(
            self.experiment_id,
            start_time=record.started_ms,
            tags=tags,
            run_name=f"{trial.workload} {trial.name}" if self._several_workloads else trial.name,
        )

    def _send(
        self, run_id: str, metrics: Sequence[Metric], params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        """In as few requests as there may be: each is a transaction of a dozen statements."""
        given = [Param(name, str(value)) for name, value in params.items()]
        marks = [RunTag(name, value) for name, value in tags.items()]
        first = _BATCH - len(given) - len(marks)
        if given or marks or metrics:
            self._client.log_batch(run_id, metrics=metrics[:first], params=given, tags=marks)
        for start in range(first, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _keep_artifacts(self, run_id: str, record: TrialRecord) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if record.error:
                (folder / "error.txt").write_text(record.error, encoding="utf-8")
            if record.epochs:
                pq.write_table(curve_table(record), folder / "curve.parquet")
            journal = self._folder.journal(record.trial)
            if is_server(self.uri) and journal.exists():
                shutil.copyfile(journal, folder / JOURNAL)
            self._client.log_artifacts(run_id, str(folder))


def end(record: TrialRecord) -> str:
    """The status of the MLflow run of a trial that is closed."""
    return "FINISHED" if record.is_complete else "KILLED" if record.status == "pruned" else "FAILED"
