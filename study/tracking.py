"""Keeps a study in MLflow: the only module that imports mlflow.

One experiment per study, a parent run, and a child run per trial, written from the trials' journals by one
process. Everything sent is a function of the journal, so sending it again changes nothing: a metric
point is its (key, timestamp, step, value), and all four come from the journal.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Without these a server that is away is waited for for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from study import measures, thinning
from study.curves import curve_table
from study.folder import StudyFolder
from study.records import EpochRecord, TrialRecord
from study.spec import Study, Trial, load_study

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)

URI_VARIABLE = "MLFLOW_TRACKING_URI"
UI_VARIABLE = "HYPERGRAD_STUDY_UI"
EMBEDDED_UI = "http://127.0.0.1:5000"
JOURNAL = "trial.journal"
_BATCH = 1000
_TAGGED = ("workload", "optimizer", "op", "lop", "alpha0", "beta", "seed")
_CURVES = ("alpha", "train_loss", "hypergradient")
_EPOCH_CURVES = ("train_loss_epoch", "val_loss", "val_accuracy", "alpha_epoch")


class TrackingError(RuntimeError):
    """The tracking server or store cannot be reached or used."""


def embedded_database(runs: Path) -> Path:
    """Return the file of the store that lies beside the studies."""
    return runs / "mlflow.db"


def embedded_uri(runs: Path) -> str:
    """Return the URI of the store that lies beside the studies: SQLite in the folder of runs."""
    return f"sqlite:///{embedded_database(runs)}"


def tracking_uri(option: str | None, runs: Path) -> str:
    """Return the tracking URI: the option, ``MLFLOW_TRACKING_URI``, or the embedded store."""
    return option or os.environ.get(URI_VARIABLE) or embedded_uri(runs)


def ui_address(uri: str) -> str:
    """Return where a person's browser finds the UI of the store at ``uri``.

    A server may be called one thing by the study and another by the person, as in containers; then
    ``HYPERGRAD_STUDY_UI`` says which. An embedded store's is where ``hypergrad-study ui`` serves it.
    """
    return (os.environ.get(UI_VARIABLE) or (uri if _is_server(uri) else EMBEDDED_UI)).rstrip("/")


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
        _check_reachable(uri)
        self._client = MlflowClient(tracking_uri=uri)
        try:
            self.experiment_id = self._experiment()
            runs = list(_all_runs(self._client, self.experiment_id))
            self._runs = {key: run for run in runs if (key := run.data.tags.get("trial_key"))}
            self._complete = {key for key, run in self._runs.items() if run.info.status == "FINISHED"}
            self.parent_id = self._parent(runs)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {uri}: {_first_line(error)}") from error
        self._sent: dict[str, _Sent] = {}
        self._several_workloads = len({trial.workload for trial in study.trials()}) > 1

    def begin(self) -> None:
        """Mark the parent run as running, which an earlier run of the study may have ended.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        try:
            self._client.update_run(self.parent_id, status="RUNNING")
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {self.uri}: {_first_line(error)}") from error

    def is_complete(self, trial: Trial) -> bool:
        """Whether the trial's run has all that the trial left."""
        return trial.key in self._complete

    def replay(self, record: TrialRecord) -> None:
        """Send what the trial's run does not have yet of ``record``; end the run with the trial.

        Raises:
            TrackingError: MLflow refused or did not answer; what was sent may be sent again.
        """
        if not record.attempt:
            return
        try:
            self._replay(record)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {self.uri}: {_first_line(error)}") from error

    def keep_report(self, folder: Path) -> None:
        """Store the report with the parent run.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        try:
            self._client.log_artifacts(self.parent_id, str(folder), "report")
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {self.uri}: {_first_line(error)}") from error

    def close(self, *, completed: bool) -> None:
        """End the parent run: finished, or interrupted with trials left to do.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        try:
            self._client.set_terminated(self.parent_id, "FINISHED" if completed else "KILLED")
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {self.uri}: {_first_line(error)}") from error

    def run_link(self, trial: Trial) -> str | None:
        """Return the address of a trial's run in the MLflow UI; None if it has no run.

        See :func:`ui_address` for where that is.
        """
        run = self._runs.get(trial.key)
        base = ui_address(self.uri)
        return f"{base}/#/experiments/{self.experiment_id}/runs/{run.info.run_id}" if run else None

    def search_link(self, wanted: str) -> str:
        """Return the address of the runs that an MLflow filter finds, ``tags.optimizer = 'adam'``."""
        return f"{ui_address(self.uri)}/{_page(self.experiment_id, wanted)}"

    def page(self) -> str | None:
        """Return the address of the study's runs in the UI of a server; None for an embedded store."""
        return f"{ui_address(self.uri)}/{_page(self.experiment_id)}" if _is_server(self.uri) else None

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self.study.name)
        if found is None:
            location = None if _is_server(self.uri) else (self._folder.artifacts / self.study.name).as_uri()
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
        run_id: str = parent.info.run_id
        self._client.set_tag(run_id, MLFLOW_RUN_NOTE, self.study.description or self.study.name)
        self._client.log_text(run_id, self.study.to_yaml(), "study.yaml")
        return run_id

    def _replay(self, record: TrialRecord) -> None:
        key = record.trial.key
        run = self._runs.get(key)
        if run is not None and run.data.tags.get("attempt") != record.attempt:
            # Another attempt's points must not mix with these.
            self._client.delete_run(run.info.run_id)
            run = None
            self._sent.pop(key, None)
        if run is None:
            run = self._runs[key] = self._start(record)
        run_id = run.info.run_id
        sent = self._sent.setdefault(key, _Sent())
        metrics = list(sent.fresh(record))
        if not record.ended and record.status != "failed":
            self._send(run_id, metrics)
            return
        threshold = self.study.threshold(record.trial)
        summaries = measures.summarise(record, threshold)
        metrics += [Metric(name, value, record.ended_ms, 0) for name, value in summaries.items()]
        self._send(run_id, metrics, [RunTag("outcome", measures.outcome(record, threshold))])
        self._keep_artifacts(run_id, record)
        self._client.set_terminated(
            run_id, "FINISHED" if record.ended else "FAILED", end_time=record.ended_ms
        )
        if record.ended:
            self._complete.add(key)
        del self._sent[key]

    def _start(self, record: TrialRecord) -> Run:
        trial = record.trial
        settings = {"op": trial.op, "lop": trial.lop, **trial.settings()}
        params = {name: value for name, value in settings.items() if value is not None and value != {}}
        # The UI's parallel coordinates know no logarithmic axis.
        params |= {f"log10_{n}": f"{math.log10(params[n]):.6g}" for n in ("alpha0", "beta") if params.get(n)}
        tags = {
            MLFLOW_PARENT_RUN_ID: self.parent_id,
            "study": self.study.name,
            "role": "trial",
            "trial_key": trial.key,
            "attempt": record.attempt,
            **{name: str(params[name]) for name in _TAGGED if name in params},
            **{f"machine.{name}": value for name, value in record.machine.items()},
        }
        run = self._client.create_run(
            self.experiment_id,
            start_time=record.started_ms,
            tags=tags,
            run_name=f"{trial.workload} {trial.name}" if self._several_workloads else trial.name,
        )
        self._client.log_batch(
            run.info.run_id, params=[Param(name, str(value)) for name, value in params.items()]
        )
        return run

    def _send(self, run_id: str, metrics: Sequence[Metric], tags: Sequence[RunTag] = ()) -> None:
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        if tags:
            self._client.log_batch(run_id, tags=tags)

    def _keep_artifacts(self, run_id: str, record: TrialRecord) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if record.error:
                (folder / "error.txt").write_text(record.error, encoding="utf-8")
            if record.epochs:
                pq.write_table(curve_table(record), folder / "curve.parquet")
            journal = self._folder.journal(record.trial)
            if _is_server(self.uri) and journal.exists():
                shutil.copyfile(journal, folder / JOURNAL)
            self._client.log_artifacts(run_id, str(folder))


class _Sent:
    """How much of a record went to MLflow already; what is new is told by comparing."""

    def __init__(self) -> None:
        self._epochs = 0
        self._points = dict.fromkeys(_CURVES, 0)

    def fresh(self, record: TrialRecord) -> Iterator[Metric]:
        epochs, self._epochs = record.epochs[self._epochs :], len(record.epochs)
        for epoch in epochs:
            yield from _epoch_metrics(epoch)
        if record.budget is None:
            return
        stamps = [(epoch.last_iteration, epoch.time_ms) for epoch in record.epochs]
        closed = record.status not in ("pending", "running")
        for name in _CURVES:
            values = getattr(record, name)
            indices = thinning.thin_indices(values, record.budget, closed=closed)
            fresh, self._points[name] = indices[self._points[name] :], len(indices)
            position = 0
            for index in fresh:
                while stamps[position][0] < index + 1:
                    position += 1
                yield Metric(name, float(values[index]), stamps[position][1], int(index) + 1)


def runs_page(uri: str, name: str | None) -> str:
    """Return the MLflow UI's page, from ``#`` on, with the runs of the study ``name``, or with all studies.

    Raises:
        TrackingError: the server or store does not answer, or does not have the study.
    """
    if name is None:
        return "#/experiments"
    _check_reachable(uri)
    try:
        found = MlflowClient(tracking_uri=uri).get_experiment_by_name(name)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {uri}: {_first_line(error)}") from error
    if found is None:
        raise TrackingError(f"MLflow at {uri}: there is no experiment {name!r}")
    return _page(found.experiment_id)


def fetch(uri: str, folder: StudyFolder) -> None:
    """Bring what a server has of a study into ``folder``: its file, and the journals of trials that ended.

    So ``status`` and ``report`` work from any machine that reaches the server. What is in the folder already
    stays as it is; nothing happens if ``uri`` is not a server's, or the server does not know the study.

    Raises:
        TrackingError: the server does not answer.
    """
    if not _is_server(uri):
        return
    _check_reachable(uri)
    client = MlflowClient(tracking_uri=uri)
    try:
        experiment = client.get_experiment_by_name(folder.name)
        if experiment is None:
            return
        runs = list(_all_runs(client, experiment.experiment_id))
        parent = next((run.info.run_id for run in runs if run.data.tags.get("role") == "study"), None)
        if parent is None:
            return
        if not folder.spec.is_file():
            _download(client, parent, "study.yaml", folder.spec)
        ended = {run.data.tags.get("trial_key"): run for run in runs if run.info.status == "FINISHED"}
        for trial in load_study(folder.spec).trials():
            place = folder.journal(trial)
            if trial.key in ended and not place.exists():
                _download(client, ended[trial.key].info.run_id, JOURNAL, place)
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {uri}: {_first_line(error)}") from error


def _download(client: MlflowClient, run_id: str, artifact: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as staging:
        Path(client.download_artifacts(run_id, artifact, staging)).replace(place)


def _all_runs(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        yield from page
        if not (token := page.token):
            return


def _page(experiment_id: str, wanted: str = "tags.role = 'trial'") -> str:
    # MLflow opens an experiment on an empty page of traces unless it is told otherwise, and folds child
    # runs away under their parent unless they are filtered and ordered by something else than their date.
    view = {
        "workflowType": "machine_learning",
        "searchFilter": wanted,
        "orderByKey": "metrics.`best_val_loss`",
        "orderByAsc": "true",
    }
    return f"#/experiments/{experiment_id}/runs?{urlencode(view, quote_via=quote)}"


def _epoch_metrics(epoch: EpochRecord) -> Iterator[Metric]:
    for name in _EPOCH_CURVES:
        value = float(getattr(epoch, name))
        if math.isfinite(value):
            yield Metric(name, value, epoch.time_ms, epoch.epoch)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _check_reachable(uri: str) -> None:
    if not _is_server(uri):
        return
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10):
            pass
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise TrackingError(
            f"no MLflow server answers at {uri} ({_first_line(error)}); start it, or correct "
            f"--tracking-uri or {URI_VARIABLE}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
