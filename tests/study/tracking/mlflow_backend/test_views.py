"""The saved views of a study: where they are kept, and when the UI opens on them."""

import json

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.tracking.mlflow_backend import client as mlflow_client
from study.tracking.mlflow_backend import server, views
from study.tracking.mlflow_backend.backend import runs_page
from study.tracking.mlflow_backend.ui_server import serving

needs_views = pytest.mark.skipif(
    tuple(map(int, mlflow.__version__.split(".")[:2])) < min(views.KEPT_BY),
    reason="opens the plain list: the views were not looked at in an MLflow as old as this",
)


def state(study, view):
    return json.loads(json.loads(views.tags(study, 1000)[views.TAG + view])["state"])


@needs_views
def test_the_installed_mlflow_was_looked_at():
    """If this fails, look at both views in a browser, then add the version to KEPT_BY."""
    assert views.are_kept_by(mlflow.__version__)


@pytest.mark.parametrize("version", ["3.16.0", "3.18.0", "4.0.1", "2.17.2", "", "unknown", None])
def test_another_mlflow_opens_the_plain_list(version):
    assert not views.are_kept_by(version)
    kept = {views.TAG + views.CURVES_VIEW: "…"}
    page = views.first_page("7", kept, version)
    assert page.startswith("#/experiments/7/runs?workflowType=machine_learning&searchFilter=tags.role")
    assert "viewStateShareKey" not in page


def test_a_view_fits_into_a_tag(write_study):
    optimizers = ["sgd", "sgd-sgd", "adam", "adam-sgd", "adam-adam"]
    study, _ = write_study(optimizers=optimizers, workloads=["digits-logreg", "digits-mlp"])
    made = views.tags(study, 1000)
    assert len(made) == 2
    # A database of an earlier MLflow has room for 5000.
    assert max(map(len, made.values())) < 5000 <= MAX_EXPERIMENT_TAG_VAL_LENGTH


def test_columns_are_what_tells_trials_of_this_study_apart(write_study, searched):
    study, _ = write_study()
    plain = ["optimizer", "alpha0", "beta", "seed", "outcome", "final_train_loss", "best_val_loss"]
    for view in (views.CURVES_VIEW, views.PARALLEL_VIEW):
        assert [name.partition(".")[2].strip("`") for name in state(study, view)["selectedColumns"]] == plain
    two, _ = write_study(workloads=["digits-logreg", "digits-mlp"])
    assert state(two, views.CURVES_VIEW)["selectedColumns"][0] == "tags.`workload`"
    assert "tags.`stage`" in state(searched(), views.CURVES_VIEW)["selectedColumns"]


def test_parallel_coordinates_ask_for_nothing_that_no_run_has(write_study):
    plain, _ = write_study(optimizers=["sgd", "adam"], threshold=None)
    (chart,) = state(plain, views.PARALLEL_VIEW)["compareRunCharts"]
    assert (chart["selectedParams"], chart["selectedMetrics"]) == (
        ["log10_alpha0", "optimizer"],
        ["best_val_loss"],
    )
    learned, _ = write_study()
    first, second = state(learned, views.PARALLEL_VIEW)["compareRunCharts"]
    assert "log10_beta" in first["selectedParams"]
    assert "iterations_to_threshold" in first["selectedMetrics"]
    assert "log10_beta" not in second["selectedParams"]


@needs_views
def test_the_driver_stores_the_views_and_the_page_opens_the_first(write_study, tmp_path):
    study, _ = write_study()
    uri = embedded_uri(tmp_path)
    tracker = open_tracker(study, uri, StudyFolder(tmp_path, study.name))
    assert tracker.parent_id  # made as an earlier version did, without views
    assert "viewStateShareKey" not in runs_page(uri, "small")
    tracker.begin()
    experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name("small")
    wanted = views.tags(study, experiment.creation_time)
    assert {name: value for name, value in experiment.tags.items() if name in wanted} == wanted
    assert runs_page(uri, "small") == (
        f"#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning&compareRunsMode=CHART"
        "&viewStateShareKey=hypergrad-study-curves"
    )


def test_a_study_that_grows_has_its_views_replaced(write_study, tmp_path):
    uri = embedded_uri(tmp_path)
    for optimizers in (["sgd"], ["sgd", "sgd-sgd"]):
        study, _ = write_study(optimizers=optimizers)
        open_tracker(study, uri, StudyFolder(tmp_path, study.name)).begin()
        experiment = MlflowClient(tracking_uri=uri).get_experiment_by_name("small")
        wanted = views.tags(study, experiment.creation_time)
        assert {name: experiment.tags[name] for name in wanted} == wanted


@needs_views
def test_a_server_says_its_version_and_is_linked_to_by_it(write_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts by default
    study, _ = write_study()
    with serving(embedded_uri(tmp_path), port=0) as address:
        assert server.version(address) == mlflow.__version__ == mlflow_client.ui_version(address)
        tracker = open_tracker(study, address, StudyFolder(tmp_path, study.name))
        tracker.begin()
        assert tracker.study_link().endswith("&viewStateShareKey=hypergrad-study-curves")
        monkeypatch.setattr(views, "KEPT_BY", ())
        assert "viewStateShareKey" not in tracker.study_link()
        assert tracker.study_link().startswith(f"{address}/#/experiments/")
    assert server.version(address) is None
