"""What MLflow keeps of a study besides its curves, over PostgreSQL."""

import pytest
from mlflow import MlflowClient

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.tracking import open_tracker
from study.tracking.mlflow_backend import views
from study.tracking.mlflow_backend.backend import runs_page
from study.training.worker import run_bundle

from .services import Postgres, postgres_binaries


@pytest.mark.chaos
def test_postgresql_keeps_the_views_and_the_fields_of_runs(tmp_path):
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL on this machine; Debian: apt-get install postgresql")
    study = load_study(
        {
            "name": "small",
            "workloads": ["digits-logreg"],
            "optimizers": ["sgd", "sgd-sgd"],
            "alpha0": [0.01],
            "beta": 1e-3,
            "seeds": 1,
            "epochs": 2,
        }
    )
    folder = StudyFolder(tmp_path, study.name)
    list(run_bundle(study.trials(), folder))
    database = Postgres(tmp_path)
    try:
        for _ in range(2):  # the second driver finds all of it there
            tracker = open_tracker(study, database.uri, folder)
            tracker.begin()
            for record in folder.records(study.trials()):
                tracker.publish(record)
            tracker.close(completed=True)
        client = MlflowClient(tracking_uri=database.uri)
        experiment = client.get_experiment_by_name("small")
        wanted = views.tags(study, experiment.creation_time)
        assert {name: experiment.tags[name] for name in wanted} == wanted
        assert runs_page(database.uri, "small").endswith(f"viewStateShareKey={views.CURVES_VIEW}")
        runs = client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
        assert {run.info.run_name for run in runs} == {
            "sgd α₀=0.01 seed=0",
            "sgd-sgd α₀=0.01 β=0.001 seed=0",
        }
        for run in runs:
            assert [data.dataset.name for data in run.inputs.dataset_inputs] == ["digits"]
            assert run.data.tags["mlflow.note.content"].startswith("Finished after 24 iterations.")
            files = [file.path for file in client.list_artifacts(run.info.run_id)]
            assert files == ["curve.parquet", "curve.png"]
    finally:
        database.remove()
