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
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
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
# A point costs 0.2 ms in SQLite. Of a large study each curve keeps fewer: nobody looks at all of them, and
# every iteration is in the Parquet file.
_STUDY_POINTS = 30_000
_LEAST_POINTS = 120
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
            self._runs = self._one_per_trial(runs)
            self._complete = {key: end for key, run in self._runs.items() if (end := _end_of(run))}
            self._several_workloads = len({workload.use for workload in study.workloads}) > 1
            self.parent_id = self._parent(runs)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {uri}: {_first_line(error)}") from error
        self._sent: dict[str, _Sent] = {}
        each = _STUDY_POINTS // max(1, len(study.trials()))
        self._points = min(thinning.CURVE_POINTS, max(_LEAST_POINTS, each))

    def begin(self) -> None:
        """Mark the parent run as running, which an earlier run may have ended, and keep the study with it.

        Only who may run the study does this, so that a driver that is refused changes nothing.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        try:
            self._keep_study(self.parent_id)
            self._client.update_run(self.parent_id, status="RUNNING")
        except (MlflowException, OSError) as error:
            raise TrackingError(f"MLflow at {self.uri}: {_first_line(error)}") from error

    def is_complete(self, record: TrialRecord) -> bool:
        """Whether the trial's run has all that the trial left."""
        return record.closed and self._complete.get(record.trial.key) == _end(record)

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

    def keep_search(self, study: Study) -> None:
        """Note with the parent run what a search has chosen so far; a server is sent its points as well.

        Args:
            study: with what its search has found; nothing happens if it has no search.

        Raises:
            TrackingError: MLflow refused or did not answer.
        """
        try:
            for arm in study.arms():
                if best := arm.best(study.found):
                    workload = f"{arm.template.workload}." if self._several_workloads else ""
                    point = f"α₀={best.alpha0:g}" + ("" if best.beta is None else f" β={best.beta:g}")
                    self._client.set_tag(self.parent_id, f"best.{workload}{arm.template.optimizer}", point)
            if _is_server(self.uri) and study.found.points:
                self._client.log_artifact(self.parent_id, str(self._folder.points))
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
        for run in sorted(runs, key=lambda run: (_end_of(run) is None, run.info.start_time)):
            if (key := run.data.tags.get("trial_key")) and kept.setdefault(key, run) is not run:
                self._client.delete_run(run.info.run_id)
        return kept

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
        if key not in self._sent:
            self._describe(run_id, record)
        sent = self._sent.setdefault(key, _Sent(self._points))
        self._send(run_id, sent.fresh(record))
        if record.ended or record.status == "pruned":
            self._end(run_id, record)
            self._complete[key] = _end(record)
            del self._sent[key]
        elif record.status == "failed":
            # Without summaries: it may yet be run again, and a metric has one value.
            self._client.set_tag(run_id, "outcome", "failed")
            self._keep_artifacts(run_id, record)
            self._client.set_terminated(run_id, "FAILED", end_time=record.ended_ms)
            del self._sent[key]

    def _end(self, run_id: str, record: TrialRecord) -> None:
        threshold = self.study.threshold(record.trial)
        summaries = measures.summarise(record, threshold)
        self._send(run_id, [Metric(name, value, record.ended_ms, 0) for name, value in summaries.items()])
        self._client.set_tag(run_id, "outcome", measures.outcome(record, threshold))
        if self.study.search is not None:
            self._client.set_tag(run_id, "pruned", str(record.status == "pruned").lower())
        self._keep_artifacts(run_id, record)
        # Last: a run that says it is finished is not looked at again.
        self._client.set_terminated(run_id, _end(record), end_time=record.ended_ms)

    def _start(self, record: TrialRecord) -> Run:
        trial = record.trial
        params = _params(trial)
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
            tags["stage"] = "search" if self.study.searches(trial) else "report"
        return self._client.create_run(
            self.experiment_id,
            start_time=record.started_ms,
            tags=tags,
            run_name=f"{trial.workload} {trial.name}" if self._several_workloads else trial.name,
        )

    def _describe(self, run_id: str, record: TrialRecord) -> None:
        """Send the run's parameters, which a driver that died may have left out, and mark it as running."""
        self._client.log_batch(
            run_id, params=[Param(name, str(value)) for name, value in _params(record.trial).items()]
        )
        self._client.update_run(run_id, status="RUNNING")

    def _send(self, run_id: str, metrics: Iterable[Metric]) -> None:
        points = list(metrics)
        for start in range(0, len(points), _BATCH):
            self._client.log_batch(run_id, metrics=points[start : start + _BATCH])

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
    """How much of a record went to MLflow already; what is new is told by comparing.

    Args:
        points: about as many are sent of a curve.
    """

    def __init__(self, points: int) -> None:
        self._most = points
        self._epochs = 0
        self._points = dict.fromkeys(_CURVES, 0)

    def fresh(self, record: TrialRecord) -> Iterator[Metric]:
        epochs, self._epochs = record.epochs[self._epochs :], len(record.epochs)
        for epoch in epochs:
            yield from _epoch_metrics(epoch)
        if record.budget is None:
            return
        stamps = [(epoch.last_iteration, epoch.time_ms) for epoch in record.epochs]
        closed = record.ended or record.status == "pruned"
        for name in _CURVES:
            values = getattr(record, name)
            indices = thinning.thin_indices(values, record.budget, closed, self._most)
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


def fetch(uri: str, folder: StudyFolder) -> dict[str, float]:
    """Bring what a server has of a study into ``folder``: its file, and the journals of trials that ended.

    So ``status`` and ``report`` work from any machine that reaches the server. What is in the folder already
    stays as it is; nothing happens if ``uri`` is not a server's, or the server does not know the study.

    Returns:
        By key, for each trial that the study's driver says is under way: the share of its budget that is
        done, 0 to 1. Their journals are where they run; the server has the points sent so far.

    Raises:
        TrackingError: the server does not answer.
    """
    if not _is_server(uri):
        return {}
    _check_reachable(uri)
    client = MlflowClient(tracking_uri=uri)
    try:
        experiment = client.get_experiment_by_name(folder.name)
        if experiment is None:
            return {}
        runs = list(_all_runs(client, experiment.experiment_id))
        parent = next((run for run in runs if run.data.tags.get("role") == "study"), None)
        if parent is None:
            return {}
        if not folder.spec.is_file():
            _download(client, parent.info.run_id, "study.yaml", folder.spec)
        study = load_study(folder.spec)
        if study.search is not None and not folder.points.is_file():
            _download(client, parent.info.run_id, folder.points.name, folder.points)
        ended = {run.data.tags.get("trial_key"): run for run in runs if _end_of(run)}
        under_way = {run.data.tags.get("trial_key"): run for run in runs if run.info.status == "RUNNING"}
        shares = {}
        for trial in folder.so_far(study).trials():
            place = folder.journal(trial)
            if trial.key in ended and not place.exists():
                _download(client, ended[trial.key].info.run_id, JOURNAL, place)
            # A driver that ended leaves its unfinished runs as they were.
            if trial.key in under_way and parent.info.status == "RUNNING":
                shares[trial.key] = _share(client, under_way[trial.key], trial)
        return shares
    except (MlflowException, OSError) as error:
        raise TrackingError(f"MLflow at {uri}: {_first_line(error)}") from error


def _share(client: MlflowClient, run: Run, trial: Trial) -> float:
    name, budget = (
        ("train_loss", trial.iterations) if trial.iterations else ("train_loss_epoch", trial.epochs)
    )
    steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
    return min(1.0, max(steps, default=0) / budget) if budget else 0.0


def _end(record: TrialRecord) -> str:
    """The status of the MLflow run of a trial that is closed."""
    return "FINISHED" if record.ended else "KILLED" if record.status == "pruned" else "FAILED"


def _end_of(run: Run) -> str | None:
    """How a run ended that has all that its trial left; None of one that has not."""
    status: str = run.info.status
    pruned = status == "KILLED" and run.data.tags.get("outcome") == "pruned"
    return status if status == "FINISHED" or pruned else None


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


def _params(trial: Trial) -> dict[str, Any]:
    settings = {"op": trial.op, "lop": trial.lop, **trial.settings()}
    params = {name: value for name, value in settings.items() if value is not None and value != {}}
    # The UI's parallel coordinates know no logarithmic axis.
    return params | {
        f"log10_{n}": f"{math.log10(params[n]):.6g}" for n in ("alpha0", "beta") if params.get(n)
    }


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
