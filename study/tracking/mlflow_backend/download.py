"""Copies a study from the MLflow server that it was run with: its file, its journals, its progress."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from study.config.loader import Trial, load_study
from study.storage.study_folder import StudyFolder
from study.tracking.base import Say
from study.tracking.mlflow_backend import client as mlflow_client
from study.tracking.mlflow_backend.address import is_server
from study.tracking.mlflow_backend.client import all_runs, asking, complete_status

JOURNAL = "trial.journal"
"""Name of the artifact of a trial's run that contains the journal."""


def fetch(uri: str, folder: StudyFolder, say: Say = lambda line: None) -> dict[str, float]:
    """Copy a study from a server into ``folder``; see ``study.tracking.fetch``."""
    if not is_server(uri):
        return {}
    mlflow_client.check(uri, say)
    with asking(uri):
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(folder.name)
        if experiment is None:
            return {}
        runs = list(all_runs(client, experiment.experiment_id))
        parent = next((run for run in runs if run.data.tags.get("role") == "study"), None)
        if parent is None:
            return {}
        if not folder.study_file.is_file():
            _download(client, parent.info.run_id, "study.yaml", folder.study_file)
        study = load_study(folder.study_file)
        if study.search is not None and not folder.search_journal.is_file():
            _download(client, parent.info.run_id, folder.search_journal.name, folder.search_journal)
        ended = {run.data.tags.get("trial_key"): run for run in runs if complete_status(run)}
        under_way = {run.data.tags.get("trial_key"): run for run in runs if run.info.status == "RUNNING"}
        shares = {}
        for trial in study.trials(folder.search_state()):
            place = folder.journal(trial)
            if trial.key in ended and not place.exists():
                _download(client, ended[trial.key].info.run_id, JOURNAL, place)
            # A driver that ended leaves its unfinished runs marked as running.
            if trial.key in under_way and parent.info.status == "RUNNING":
                shares[trial.key] = _share(client, under_way[trial.key], trial)
        return shares


def _share(client: MlflowClient, run: Run, trial: Trial) -> float:
    name, budget = (
        ("train_loss", trial.iterations) if trial.iterations else ("train_loss_epoch", trial.epochs)
    )
    steps = [point.step for point in client.get_metric_history(run.info.run_id, name)]
    return min(1.0, max(steps, default=0) / budget) if budget else 0.0


def _download(client: MlflowClient, run_id: str, artifact: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as staging:
        Path(client.download_artifacts(run_id, artifact, staging)).replace(place)
