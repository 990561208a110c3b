"""Writes the MLflow runs of a study's trials, each in as few requests as possible.

A request costs a server about as much time as a hundred points do. A trial that has ended when it is first
sent takes a request each for the run, its data set, one batch of all other data, its files and the run's end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from study.analysis import metrics as trial_metrics
from study.config.loader import Study
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking.mlflow_backend import metrics as content
from study.tracking.mlflow_backend import run_fields
from study.tracking.mlflow_backend.address import CURVE_POINTS
from study.tracking.mlflow_backend.artifacts import TrialFiles
from study.tracking.mlflow_backend.kept import Kept, final_status

_BATCH = 1000
# A point costs about 0.1 ms of a server's time. In a large study each curve keeps fewer: a chart of many
# curves has no room for more, and every iteration is in the Parquet file.
_STUDY_POINTS = 30_000
_LEAST_POINTS = 60


class TrialRuns:
    """Writes the runs of one study's trials; different trials may be written at the same time.

    Args:
        study: The study.
        folder: The study's folder.
        with_journals: Whether to store the journals with the runs, so that the study can be fetched.
    """

    def __init__(self, study: Study, folder: StudyFolder, *, with_journals: bool) -> None:
        self._study = study
        self._sent: dict[str, content.Sent] = {}
        self._unsure: set[str] = set()
        """Keys of trials with a failed request: it may have created a run whose identifier was lost."""
        self._names = run_fields.RunNames(study)
        self._files = TrialFiles(study, folder, with_journals=with_journals)
        each = _STUDY_POINTS // max(1, len(study.planned_trials()))
        self._points = min(CURVE_POINTS, max(_LEAST_POINTS, each))

    def publish(self, client: MlflowClient, kept: Kept, record: TrialRecord) -> None:
        """Send the part of ``record`` that the trial's run lacks; end the run with the trial.

        Args:
            client: Client of the MLflow that has the study.
            kept: The study's state in MLflow; kept up to date.
            record: The trial's record.

        Raises:
            Exception: MLflow refused or did not answer; data may be sent again.
        """
        try:
            self._publish(client, kept, record)
        except Exception:
            # Nobody knows how much of it arrived: all is sent again, which doubles nothing.
            self._sent.pop(record.trial.key, None)
            self._unsure.add(record.trial.key)
            raise

    def _publish(self, client: MlflowClient, kept: Kept, record: TrialRecord) -> None:
        key = record.trial.key
        if key in self._unsure:
            kept.look_again(client, key)
            self._unsure.remove(key)
        run = kept.runs.get(key)
        if run is not None and run.data.tags.get("attempt") != record.attempt:
            # Another attempt's points must not mix with these.
            client.delete_run(run.info.run_id)
            del kept.runs[key]
            self._sent.pop(key, None)
            run = None
        summaries, tags = self._final(record)
        if run is None:
            made = kept.runs[key] = self._start(client, kept, record, tags)
            self._send(client, made, record, summaries, {})
        else:
            if key not in self._sent and not record.is_final:
                # A driver that died may have left the run as finished.
                client.update_run(run.info.run_id, status="RUNNING")
            self._send(client, run, record, summaries, tags)
        if record.is_final:
            self._end(client, kept, record)

    def _final(self, record: TrialRecord) -> tuple[dict[str, float], dict[str, str]]:
        """Return the summaries and tags that a run gets when its trial has ended."""
        if not record.is_final:
            return {}, {}
        # No summaries of a failed trial: it may yet be run again, and a metric has one value.
        failed = record.status == "failed"
        summaries = {} if failed else trial_metrics.summarise(record, self._study.threshold(record.trial))
        return summaries, run_fields.final_tags(self._study, record, summaries)

    def _start(self, client: MlflowClient, kept: Kept, record: TrialRecord, tags: Mapping[str, str]) -> Run:
        return client.create_run(
            kept.experiment_id,
            start_time=record.started_ms,
            tags={
                MLFLOW_PARENT_RUN_ID: kept.parent_id,
                **run_fields.trial_tags(self._study, record),
                **tags,
            },
            run_name=self._names.of(record.trial),
        )

    def _send(
        self,
        client: MlflowClient,
        run: Run,
        record: TrialRecord,
        summaries: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        key, run_id = record.trial.key, run.info.run_id
        params: dict[str, Any] = {}
        if key not in self._sent:
            # A driver that died may have left the parameters out.
            params = content.params(record.trial)
            data = run_fields.dataset(record.trial.workload, record.trial.workload_args)
            client.log_inputs(run_id, datasets=[data])
        sent = self._sent.setdefault(key, content.Sent(self._points))
        metrics = list(sent.fresh(record))
        metrics += [Metric(name, value, record.ended_ms, 0) for name, value in summaries.items()]
        _log_batches(client, run_id, metrics, params, tags)

    def _end(self, client: MlflowClient, kept: Kept, record: TrialRecord) -> None:
        key = record.trial.key
        run = kept.runs[key]
        with tempfile.TemporaryDirectory() as files:
            self._files.write(record, Path(files))
            # MLflow's client does the same, but first asks for the run's artifact location.
            place = get_artifact_repository(run.info.artifact_uri, tracking_uri=client.tracking_uri)
            place.log_artifacts(files)
        # Last, because a run that is marked as finished is not read again.
        client.set_terminated(run.info.run_id, final_status(record), end_time=record.ended_ms)
        if record.status != "failed":
            kept.complete[key] = final_status(record)
        del self._sent[key]


def _log_batches(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[Metric],
    params: Mapping[str, Any],
    tags: Mapping[str, str],
) -> None:
    """Send all data in as few requests as possible: each is a transaction of a dozen statements."""
    given = [Param(name, str(value)) for name, value in params.items()]
    marks = [RunTag(name, value) for name, value in tags.items()]
    first = _BATCH - len(given) - len(marks)
    if given or marks or metrics:
        client.log_batch(run_id, metrics=metrics[:first], params=given, tags=marks)
    for start in range(first, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
