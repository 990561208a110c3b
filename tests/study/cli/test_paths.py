"""Everything works, and lands where it should, in folders whose names mean something in a URI."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.tracking.mlflow_backend.ui_server import serving

NAMES = ["a?1", "a#1 &b", "%41", "ü ö", 'it\'s "q"', "a@b:c"]
STRANGE = "w?o #%41&ü'\"{x}"

WORKLOAD = """
import numpy as np
import torch
from study import Data, Workload

def load(folder):
    inputs = torch.from_numpy(np.load(folder / "inputs.npy"))
    targets = inputs.argmax(dim=1)
    return Data(inputs, targets, inputs, targets)

def make():
    return Workload("own", load, lambda: torch.nn.Linear(4, 4), torch.nn.functional.cross_entropy)
"""
STUDY = """
workloads: [strange_workload:make]
optimizers: [sgd]
seeds: 1
epochs: 2
batch_size: 8
"""
GRID = f"name: grid\nalpha0: [0.01]\n{STUDY}"
SEARCH = f"name: searched\nalpha0: {{low: 0.001, high: 0.1}}\nsearch: {{points: 2, seeds: [7]}}\n{STUDY}"


@pytest.mark.parametrize("name", NAMES)
def test_the_database_and_the_artifacts_lie_in_the_folder_of_runs(write_study, tmp_path, monkeypatch, name):
    home = tmp_path / "home"
    for place in (home / name, home / f"cwd {name}"):
        place.mkdir(parents=True)
    monkeypatch.chdir(home / f"cwd {name}")
    study, _ = write_study(seeds=1)
    runs = home / name
    tracker = open_tracker(study, embedded_uri(runs), StudyFolder(runs, study.name))
    tracker.begin()
    report = tmp_path / "report"
    report.mkdir()
    (report / "index.html").write_text("a page")
    tracker.log_report(report)
    assert sorted(path.name for path in runs.iterdir()) == ["artifacts", "mlflow.db"]
    assert {path.name for path in runs.rglob("*") if path.is_file()} == {
        "mlflow.db",
        "study.yaml",
        "index.html",
    }
    assert not list((home / f"cwd {name}").iterdir())
    assert sorted(path.name for path in home.iterdir()) == sorted([name, f"cwd {name}"])
    client = MlflowClient(tracking_uri=embedded_uri(runs))
    fetched = client.download_artifacts(tracker.parent_id, "report/index.html", str(tmp_path))
    assert Path(fetched).read_text() == "a page"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_every_command_works_in_folders_of_strange_names(tmp_path):
    """A grid and a search on Ray, the report, an export and the UI."""
    home = tmp_path / f"home {STRANGE}"
    data, runs = home / f"data {STRANGE}", home / f"runs {STRANGE}"
    data.mkdir(parents=True)
    np.save(data / "inputs.npy", np.random.default_rng(0).standard_normal((32, 4), dtype=np.float32))
    (home / "strange_workload.py").write_text(WORKLOAD)
    (home / "grid.yaml").write_text(GRID)
    (home / "searched.yaml").write_text(SEARCH)
    before = {path.name for path in home.iterdir()}

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "study", *map(str, words), "--runs", str(runs)],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for name in ("grid", "searched"):
        command("run", f"{name}.yaml", "--data", data, "--cpus", 1)
    command("export", "grid")
    assert {path.name for path in home.iterdir()} == {*before, runs.name, "grid-summary.csv"}
    assert {path.name for path in runs.iterdir()} == {"mlflow.db", "artifacts", "grid", "searched"}
    assert (runs / "searched" / "search" / "optuna.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [home.name]

    client = MlflowClient(tracking_uri=embedded_uri(runs))
    experiment = client.get_experiment_by_name("grid")
    (trial,) = client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
    curve = client.download_artifacts(trial.info.run_id, "curve.parquet", str(tmp_path))
    assert len(pd.read_parquet(curve)) == 8
    with serving(embedded_uri(runs), port=0) as address:
        ask = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/search",
            json.dumps({"max_results": 9}).encode(),
            {"Content-Type": "application/json"},
        )
        shown = json.load(urllib.request.urlopen(ask, timeout=20))
    assert {"grid", "searched"} <= {each["name"] for each in shown["experiments"]}
