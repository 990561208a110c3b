"""A study that is killed again and again leaves in MLflow what an undisturbed run leaves, and no more."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri

from .faults import Driver, Stage, command, run_under_faults, schedule_of_faults
from .services import MlflowServer, Postgres, can_mount, postgres_binaries, small_disk

TIMED = {"seconds", "seconds_to_threshold"}
"""Metrics that no two runs share."""


def study_file(folder: Path, *, epochs: int, seeds: int) -> Path:
    """Small trials that are saved often, of every kind of α's rule."""
    path = folder / "chaos.yaml"
    path.write_text(
        f"""
name: chaos
workloads: [digits-logreg]
optimizers: [sgd, sgdn-sgdn, {{name: adam-adam, granularity: released}}]
alpha0: [0.01]
beta: {{sgdn: 1e-3, adam: 1e-5}}
seeds: {seeds}
epochs: {epochs}
batch_size: 8
threshold: 0.3
pack: 1
checkpoint_seconds: 0.5
retries: 3
"""
    )
    return path


def run_undisturbed(path: Path, folder: Path) -> str:
    """Run the study in one go and return the tracking URI."""
    runs = folder / "undisturbed"
    uri = embedded_uri(runs)
    done = subprocess.run(command(path, runs, uri), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return uri


def what_stands(uri: str, folder: Path) -> dict[str, dict[str, object]]:
    """Return everything that MLflow has of the study, by trial, without times and identifiers."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("chaos")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    keys = Counter(run.data.tags.get("trial_key", "parent") for run in runs)
    assert set(keys.values()) == {1}, f"doubled runs: {keys}"
    found: dict[str, dict[str, object]] = {}
    for run in runs:
        key = run.data.tags.get("trial_key", "parent")
        identity = ("mlflow.", "attempt", "machine.")
        points = {}
        for name in run.data.metrics.keys() - TIMED:
            history = [
                (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
            ]
            assert len({step for step, _ in history}) == len(history), f"{name} of {key} is doubled"
            points[name] = sorted(history)
        found[key] = {
            "status": run.info.status,
            "name": run.info.run_name,
            "params": run.data.params,
            "tags": {k: v for k, v in run.data.tags.items() if not k.startswith(identity)},
            "points": points,
        }
        if key != "parent":
            place = folder / f"{key}-{run.info.run_id}"
            place.mkdir(parents=True)
            table = pq.read_table(client.download_artifacts(run.info.run_id, "curve.parquet", str(place)))
            columns = table.to_pandas()
            found[key]["curve"] = {name: columns[name].to_numpy() for name in columns}
    return found


def assert_same(found: dict[str, dict[str, object]], expected: dict[str, dict[str, object]]) -> None:
    assert found.keys() == expected.keys()
    for key, run in expected.items():
        curves, others = found[key].pop("curve", {}), run.pop("curve", {})
        assert found[key] == run
        assert curves.keys() == others.keys()
        for name in others:
            np.testing.assert_array_equal(curves[name], others[name], err_msg=f"{name} of {key}")


def assert_civil(driver: Driver) -> None:
    """Assert that every start that ended by itself said why, without a traceback."""
    for said in driver.said():
        # If it was interrupted before the interpreter came to our first line, Python printed its own.
        ours = "__main__.py" in said
        assert not (ours and "Traceback (most recent call last)" in said), said[-3000:]


BOTH_WAYS = pytest.mark.parametrize("shared", [True, False], ids=["shared folder", "through an actor"])


@pytest.mark.ray
@pytest.mark.timeout(900)
@BOTH_WAYS
def test_a_few_faults(tmp_path, shared):
    """SQLite behind the server, and one fault of each kind that needs no more."""
    path = study_file(tmp_path, epochs=30, seeds=2)
    expected = what_stands(run_undisturbed(path, tmp_path), tmp_path / "expected")
    store = tmp_path / "store"
    store.mkdir()
    server = MlflowServer(store, f"sqlite:///{store / 'mlflow.db'}", store / "artifacts")
    driver = Driver(command(path, tmp_path / "runs", server.uri, shared=shared), tmp_path, {})
    stage = Stage(driver, server)
    try:
        kinds = ["worker killed", "driver killed", "MLflow killed", "Ray node killed"]
        if not shared:
            kinds[2:3] = ["folder's actor killed"]
        run_under_faults(stage, load_study(path), StudyFolder(tmp_path / "runs", "chaos"), kinds)
        assert_same(what_stands(server.uri, tmp_path / "found"), expected)
        assert_civil(driver)
    finally:
        driver.stop()
        server.kill()


@pytest.mark.chaos
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("seed", [20261123])
@BOTH_WAYS
def test_thirty_faults(tmp_path, seed, shared):
    """All kinds, over PostgreSQL, on disks of their own."""
    if postgres_binaries() is None or importlib.util.find_spec("psycopg2") is None:
        pytest.skip("PostgreSQL's binaries or psycopg2 are not here, or its user is not")
    with contextlib.ExitStack() as disks:
        runs, artifacts, runs_disk, artifacts_disk = tmp_path / "runs", tmp_path / "artifacts", None, None
        if can_mount(tmp_path):
            runs_disk = runs = disks.enter_context(small_disk(runs, "200m"))
            artifacts_disk = artifacts = disks.enter_context(small_disk(artifacts, "200m"))
        path = study_file(tmp_path, epochs=160, seeds=3)
        expected = what_stands(run_undisturbed(path, tmp_path), tmp_path / "expected")
        postgres = Postgres(tmp_path)
        server = MlflowServer(tmp_path, postgres.uri, artifacts)
        driver = Driver(command(path, runs, server.uri, shared=shared), tmp_path, {})
        stage = Stage(driver, server, postgres, runs_disk, artifacts_disk)
        try:
            kinds = list(schedule_of_faults(sorted(stage.faults()), 36, Random(seed)))
            run_under_faults(stage, load_study(path), StudyFolder(runs, "chaos"), kinds)
            assert_same(what_stands(server.uri, tmp_path / "found"), expected)
            assert_civil(driver)
        finally:
            driver.stop()
            server.kill()
            postgres.remove()
