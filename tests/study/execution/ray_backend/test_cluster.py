"""A Ray of our own: its processes ready before they are asked for, started again, refused in a line."""

import os
import re
import threading
import time

import psutil
import pytest

from study.config.loader import Resources
from study.execution import ray_cluster, tune_trials
from study.execution.ray_cluster import Cluster, ClusterError, Connection
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions


def processes(title):
    """Process ids of the descendants of this process whose title begins with ``title``."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if "".join(process.cmdline()).startswith(title):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.mark.ray
def test_what_is_started_beforehand_trains_and_nothing_is_left(tmp_path, write_study):
    trials = write_study(seeds=2)[0].trials()
    folder = StudyFolder(tmp_path / "runs", "small")
    with Connection(cpus=2, ready=True) as connection:
        connection.start()
        assert connection.wait() == Cluster(cpus=2.0, gpus=0.0)
        assert "RAY_preload_python_modules" not in os.environ  # a Ray that a user starts later is not ours
        given_up = time.monotonic() + 60
        while len(ready := processes("ray::IDLE")) < 2:
            assert time.monotonic() < given_up
            time.sleep(0.1)
        trained, over = set(), threading.Event()

        def watch():
            while not over.wait(0.05):
                trained.update(processes("ray::ImplicitFunc"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        tune_trials.schedule([trials[0::2], trials[1::2]], folder, WorkerOptions())
        over.set()
        watcher.join()
    assert all(record.status == "finished" for record in folder.records(trials))
    assert trained == ready
    assert not processes("ray::")


@pytest.mark.ray
def test_a_node_with_other_versions_is_refused_with_both(monkeypatch):
    real = ray_cluster.metadata.version
    with Connection(cpus=1) as connection:
        connection.wait()
        ray_cluster._check_versions()
        monkeypatch.setattr(
            ray_cluster.metadata, "version", lambda name: "9.9" if name == "torch" else real(name)
        )
        expected = rf"has torch {re.escape(real('torch'))}, this process has 9\.9"
        with pytest.raises(ClusterError, match=expected):
            ray_cluster._check_versions()


def test_a_cluster_that_grows_is_not_refused_for_what_it_does_not_have_yet():
    assert Cluster(cpus=0, gpus=0, grows=True).slots(Resources(cpus=1, gpus=1)) > 0


@pytest.mark.parametrize(
    ("needs", "slots"),
    [((1, 0), 4), ((0.5, 0), 8), ((0.1, 0.1), 20), ((1, 1), 2), ((3, 0), 1), ((0, 0.5), 4)],
)
def test_slots_are_limited_by_what_is_scarcest(needs, slots):
    assert Cluster(cpus=4, gpus=2).slots(Resources(cpus=needs[0], gpus=needs[1])) == slots


def test_a_trial_that_fits_nowhere_is_refused():
    with pytest.raises(ClusterError, match=r"asks for 1 CPUs and 3 GPUs, but Ray has 4"):
        Cluster(cpus=4, gpus=2).slots(Resources(cpus=1, gpus=3))


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_ray_that_is_slow_to_start_is_started_again_and_then_given_up_in_a_line(monkeypatch, failures):
    slow = [Exception("The current node timed out during startup.\nMore.")] * failures
    started = []

    def init(**options):
        started.append(options["address"])
        if slow:
            raise slow.pop()

    monkeypatch.setattr(ray_cluster.ray, "init", init)
    monkeypatch.setattr(ray_cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_cluster.ray, "cluster_resources", lambda: {"CPU": 2.0})
    if failures < 3:
        with Connection() as connection:
            assert connection.wait() == Cluster(cpus=2.0, gpus=0.0)
    else:
        expected = r"^a local Ray did not start: The current node timed out during startup\.$"
        with Connection() as connection, pytest.raises(ClusterError, match=expected):
            connection.wait()
    assert started == ["local"] * min(failures + 1, 3)
