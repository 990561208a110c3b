"""The fields of runs that MLflow's lists and pages show, read back with MLflow's own client."""

import dataclasses
import getpass

import numpy as np
import pytest
from matplotlib import image
from mlflow import MlflowClient

from study.storage import provenance
from study.storage.records import EpochRecord, TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.tracking.mlflow_backend import artifacts, run_fields


def names(study):
    named = run_fields.RunNames(study)
    return [named.of(trial) for trial in study.trials()]


def record(trial, **changes):
    loss = np.linspace(2.0, 0.1, 100, dtype=np.float32)
    epoch = EpochRecord(1, 1, np.full(100, 0.01), np.zeros(100), loss, 0.25, 0.9, 0.5, time_ms=1)
    whole = TrialRecord(trial, "finished", (epoch,), attempt="a", started_ms=1, ended_ms=2)
    return dataclasses.replace(whole, **changes)


@pytest.fixture
def published(write_study, tmp_path):
    """A function that publishes a study's trials and returns the runs by name, with a client."""

    def publish(change=record, **settings):
        study, _ = write_study(**settings)
        uri = embedded_uri(tmp_path)
        tracker = open_tracker(study, uri, StudyFolder(tmp_path, study.name))
        tracker.begin()
        for trial in study.trials():
            tracker.publish(change(trial))
        client = MlflowClient(tracking_uri=uri)
        runs = client.search_runs([tracker.experiment_id], "tags.role = 'trial'")
        return client, {run.info.run_name: run for run in runs}, client.get_run(tracker.parent_id)

    return publish


def test_a_name_begins_with_what_differs_and_ends_with_what_does_not(write_study):
    study, _ = write_study(optimizers=["adam-adam"], alpha0=[0.01, 0.1], seeds=1)
    assert names(study) == [
        "α₀=0.01 adam-adam β=1e-05 seed=0",
        "α₀=0.1 adam-adam β=1e-05 seed=0",
    ]
    study, _ = write_study(optimizers=["adam-adam"], alpha0=0.01, seeds=2)
    assert names(study)[1] == "seed=1 adam-adam α₀=0.01 β=1e-05"


def test_a_beta_that_follows_from_the_optimizer_does_not_differ(write_study):
    study, _ = write_study(optimizers=["sgd", "sgd-sgd", "adam-adam"], seeds=1)
    assert names(study) == [
        "sgd α₀=0.01 seed=0",
        "sgd-sgd α₀=0.01 β=0.001 seed=0",
        "adam-adam α₀=0.01 β=1e-05 seed=0",
    ]


def test_a_name_tells_workloads_and_granularities_apart(write_study):
    study, _ = write_study(
        workloads=["digits-logreg", {"use": "digits-mlp", "args": {"hidden": 8}}],
        optimizers=["sgd-sgd", {"name": "sgd-sgd", "granularity": "tensor"}],
        seeds=1,
    )
    found = names(study)
    assert len(set(found)) == 4
    assert found[0] == "digits-logreg granularity=group sgd-sgd α₀=0.01 β=0.001 seed=0"
    assert found[-1].startswith("digits-mlp (hidden=8) granularity=tensor sgd-sgd")


def test_the_ranges_of_a_search_differ_before_anything_is_drawn(searched):
    study = searched(optimizers=["sgd-sgd"])
    (arm,) = study.arms()
    point = arm.point(0, {"alpha0": 0.5, "beta": 0.001})
    (first, *_) = arm.trials(point, study.search.seeds)
    assert run_fields.RunNames(study).of(first) == "α₀=0.5 β=0.001 seed=1000 sgd-sgd"


def test_a_run_has_a_user_a_source_a_commit_a_data_set_and_a_note(published):
    machine = {"commit": "0123456789ab", "torch": "2.0"}
    client, runs, parent = published(
        lambda trial: record(trial, machine=machine),
        optimizers=["sgd-sgd"],
        seeds=2,
        threshold=1.0,
        description="What it is for",
    )
    run = runs["seed=1 sgd-sgd α₀=0.01 β=0.001"]
    assert run.data.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.name"] == "hypergrad-study"
    assert run.data.tags["mlflow.source.type"] == "LOCAL"
    assert run.data.tags["mlflow.source.git.commit"] == "0123456789ab"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.profile) == ("digits", '{"num_rows": 1437}')
    # The loss falls evenly from 2 to 0.1 in 99 steps, so it is at 1 after 52.1 of them.
    assert run.data.tags["mlflow.note.content"].split("  \n") == [
        "Finished after 100 iterations.",
        "Training loss 1: reached in iteration 54.",
        "Best validation loss: 0.250.",
        "α went from 0.01 to 0.0100.",
    ]
    assert parent.data.tags["mlflow.note.content"] == "What it is for"
    assert parent.data.tags["mlflow.user"] == getpass.getuser()
    assert parent.data.tags.get("mlflow.source.git.commit") == provenance.commit()
    assert [data.dataset.name for data in parent.inputs.dataset_inputs] == ["digits"]
    found = client.search_runs([run.info.experiment_id], "dataset.name = 'digits' and tags.role = 'trial'")
    assert len(found) == 2


def test_a_user_without_a_name_leaves_the_field_out(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    monkeypatch.setenv("HOME", "/nonexistent")
    assert "mlflow.user" not in run_fields.standard_tags()
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    assert run_fields.standard_tags()["mlflow.user"] == "ada"


def test_a_failed_trial_says_why(published):
    error = "Traceback (most recent call last):\nValueError: no data"
    _, runs, _ = published(
        lambda trial: record(trial, status="failed", epochs=(), error=error), optimizers=["sgd"], seeds=1
    )
    ((run),) = runs.values()
    assert run.data.tags["mlflow.note.content"] == "Failed: ValueError: no data"
    assert run.data.tags["outcome"] == "failed"


def test_workloads_with_other_arguments_have_other_digests():
    digests = {
        run_fields.dataset("digits-mlp", arguments).dataset.digest
        for arguments in ({}, {"hidden": 8}, {"hidden": 9})
    }
    assert len(digests) == 3
    assert run_fields.dataset("mine:spirals", {}).dataset.name == "mine:spirals"


def test_the_first_seed_of_a_setting_has_a_picture_beside_the_file(published, tmp_path):
    client, runs, _ = published(optimizers=["sgd-sgd"], seeds=2)
    for seed, expected in ((0, ["curve.parquet", "curve.png"]), (1, ["curve.parquet"])):
        run = runs[f"seed={seed} sgd-sgd α₀=0.01 β=0.001"]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == expected
    first = runs["seed=0 sgd-sgd α₀=0.01 β=0.001"].info.run_id
    path = client.download_artifacts(first, "curve.png", str(tmp_path))
    pixels = image.imread(path)
    assert pixels.shape[:2] == (340, 520)
    # The colours of the two curves are in it.
    for color in ("#0072B2", "#D55E00"):
        wanted = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        assert (np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.02).any()


def test_a_large_study_draws_few_pictures(published, monkeypatch):
    monkeypatch.setattr(artifacts, "MOST_PICTURES", 2)
    client, runs, _ = published(optimizers=["sgd"], alpha0=[0.1, 0.2, 0.3, 0.4], seeds=1)
    listed = [client.list_artifacts(run.info.run_id) for run in runs.values()]
    assert sum(file.path == "curve.png" for files in listed for file in files) == 2


def test_a_curve_that_cannot_be_on_a_logarithmic_axis_is_drawn_too(write_study, tmp_path):
    from study.tracking.mlflow_backend import picture

    (trial,) = write_study(optimizers=["sgd-sgd"], seeds=1)[0].trials()
    whole = record(trial)
    (epoch,) = whole.epochs
    loss = epoch.train_loss.copy()
    loss[50:] = np.nan
    bad = dataclasses.replace(epoch, alpha=np.linspace(0.1, -0.1, 100), train_loss=loss)
    picture.draw(dataclasses.replace(whole, status="diverged", epochs=(bad,)), tmp_path / "a.png")
    assert image.imread(tmp_path / "a.png").shape[:2] == (340, 520)
