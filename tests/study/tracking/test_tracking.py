"""Another tracking service is one package and one line; nothing else of the program knows which it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

from study import tracking
from study.tracking.mlflow_backend.tracker import MlflowTracker

BACKEND = '''
"""A tracking service that keeps everything in a dictionary."""

from contextlib import contextmanager

from study.tracking.base import Page

KEPT = {}


def open_tracker(study, uri, folder, say):
    return MemoryTracker(uri, study)


def fetch(uri, folder):
    return {}


@contextmanager
def show(uri, name, port, say):
    yield Page(f"http://memory/{name}", served_here=False)


class MemoryTracker:
    senders = 2

    def __init__(self, uri, study):
        self.location = uri
        self.study = study

    @property
    def kept(self):
        return KEPT.get(self.study.name, {})

    def check(self):
        pass

    def begin(self):
        KEPT.setdefault(self.study.name, {"trials": {}, "report": []})["state"] = "running"

    def is_complete(self, record):
        return self.kept["trials"].get(record.trial.key) == (record.status, record.iterations)

    def publish(self, record):
        self.kept["trials"][record.trial.key] = record.status, record.iterations

    def log_search(self, study):
        pass

    def log_report(self, folder):
        self.kept["report"] = sorted(path.name for path in folder.iterdir())

    def close(self, *, completed):
        self.kept["state"] = "finished" if completed else "interrupted"

    def study_link(self):
        return f"http://memory/{self.study.name}"

    def trial_link(self, key):
        return f"http://memory/trial/{key}" if key in self.kept["trials"] else None

    def curve_link(self, key):
        return None

    def optimizer_link(self, workload, optimizer):
        return None
'''

DRIVER = """
import json, sys
from pathlib import Path

sys.modules["mlflow"] = None  # whoever imports it fails

from study import tracking

tracking.BACKENDS["memory"] = "memory_backend"

from study.cli import commands
from study.config.loader import load_study
from study.execution.live_records import LiveRecords
from study.execution.publisher import RunPublisher, Uploader
from study.storage.study_folder import StudyFolder
from study.training.worker import run_bundle

study = load_study("small.yaml")
folder = StudyFolder(Path("runs").resolve(), study.name)
folder.save_study(study)
tracker = tracking.open_tracker(study, "memory://here", folder)
tracker.check()
tracker.begin()
publisher = RunPublisher(LiveRecords(study, folder), Uploader(tracker), lambda progress: None)
for _ in run_bundle(study.trials(), folder):
    pass
progress = publisher.finish()
tracker.close(completed=progress.done == progress.total)
for words in (["report", "small"], ["ui", "small", "--no-browser"]):
    sys.argv = ["hypergrad-study", *words, "--tracking-uri", "memory://here"]
    try:
        commands.main()
    except SystemExit as ended:
        assert not ended.code, ended.code

import memory_backend

print(json.dumps(memory_backend.KEPT))
"""


def test_a_second_service_is_one_package_and_one_line(write_study, tmp_path):
    study, _ = write_study(optimizers=["sgd", "adam-adam"])
    package = tmp_path / "memory_backend"
    package.mkdir()
    (package / "__init__.py").write_text(BACKEND)
    root = Path(tracking.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads(done.stdout.splitlines()[-1])["small"]
    assert kept["state"] == "finished"
    assert kept["trials"].keys() == {trial.key for trial in study.trials()}
    assert {status for status, _ in kept["trials"].values()} == {"finished"}
    assert "index.html" in kept["report"]
    page = (tmp_path / "runs" / "small" / "report" / "index.html").read_text()
    for trial in study.trials():
        assert f'href="http://memory/trial/{trial.key}"' in page
    assert "http://memory/small" in done.stdout
    assert not list((tmp_path / "runs").glob("mlflow*"))


def test_every_other_address_is_mlflow_s(write_study, tmp_path):
    study, _ = write_study()
    folder = tracking.base.StudyFolder(tmp_path, study.name)
    for uri in ("http://host:5000", "sqlite:///x.db", "postgresql+psycopg2://host/x", "./mlruns"):
        assert isinstance(tracking.open_tracker(study, uri, folder), MlflowTracker)


def test_what_a_trial_takes_on_disk_is_what_mlflow_is_sent():
    from study.tracking.mlflow_backend.address import BYTES_PER_POINT, CURVE_POINTS, CURVES

    few, many = tracking.stored_bytes(10), tracking.stored_bytes(10**6)
    assert few == 10 * len(CURVES) * BYTES_PER_POINT
    assert many == CURVE_POINTS * len(CURVES) * BYTES_PER_POINT
