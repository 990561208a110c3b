"""A Ray of our own: its processes ready before they are asked for, started again, refused in a line."""

import os
import re
import threading
import time
from contextlib import contextmanager

import psutil
import pytest

from study.config.loader import Resources
from study.execution.executor import ExecutorError
from study.execution.ray_backend import cluster, trials
from study.execution.ray_backend.cluster import Cluster, Connection
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


@contextmanager
def connected(**options):
    """A connection that is shut down at the end."""
    connection = Connection(**options)
    try:
        yield connection
    finally:
        connection.shutdown()


@pytest.mark.ray
def test_what_is_started_beforehand_trains_and_nothing_is_left(tmp_path, write_study):
    small = write_study(seeds=2)[0].trials()
    folder = StudyFolder(tmp_path / "runs", "small")
    with connected(cpus=2, prestart=True) as connection:
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
        trials.schedule([small[0::2], small[1::2]], folder, WorkerOptions())
        over.set()
        watcher.join()
    assert all(record.status == "finished" for record in folder.records(small))
    assert trained >= ready  # on a busy machine Tune was seen to start one more
    assert not processes("ray::")


@pytest.mark.ray
def test_a_node_with_other_versions_is_refused_with_both(monkeypatch):
    real = cluster.metadata.version
    with connected(cpus=1) as connection:
        connection.wait()
        cluster._check_versions()
        monkeypatch.setattr(
            cluster.metadata, "version", lambda name: "9.9" if name == "torch" else real(name)
        )
        expected = rf"has torch {re.escape(real('torch'))}, this process has 9\.9"
        with pytest.raises(ExecutorError, match=expected):
            cluster._check_versions()


def test_a_cluster_that_grows_is_not_refused_for_what_it_does_not_have_yet():
    assert Cluster(cpus=0, gpus=0, grows=True).slots(Resources(cpus=1, gpus=1)) > 0


@pytest.mark.parametrize(
    ("needs", "slots"),
    [((1, 0), 4), ((0.5, 0), 8), ((0.1, 0.1), 20), ((1, 1), 2), ((3, 0), 1), ((0, 0.5), 4)],
)
def test_slots_are_limited_by_what_is_scarcest(needs, slots):
    assert Cluster(cpus=4, gpus=2).slots(Resources(cpus=needs[0], gpus=needs[1])) == slots


def test_a_trial_that_fits_nowhere_is_refused():
    with pytest.raises(ExecutorError, match=r"asks for 1 CPUs and 3 GPUs, but Ray has 4"):
        Cluster(cpus=4, gpus=2).slots(Resources(cpus=1, gpus=3))


@pytest.mark.parametrize(
    ("options", "wants", "words"),
    [
        ({"cpus": 2}, {"cpus": 3}, "a trial asks for 3 CPUs, but there are 2; lower"),
        ({}, {"cpus": 1000}, "a trial asks for 1000 CPUs, but there are "),
        ({"cpus": 2, "gpus": 1}, {"gpus": 2}, "a trial asks for 2 GPUs, but there are 1; lower"),
        ({"cpus": 2, "gpus": 1}, {"cpus": 2, "gpus": 1}, None),
        ({"cpus": 1}, {"gpus": 8}, None),  # nobody has counted them yet
    ],
)
def test_a_worker_that_will_not_fit_is_refused_before_ray_starts(options, wants, words):
    connection = Connection(**options)
    if words is None:
        connection.check(Resources(**wants))
    else:
        with pytest.raises(ExecutorError, match=words):
            connection.check(Resources(**wants))
    assert not connection.is_starting


@pytest.mark.parametrize(
    "address", ["127.0.0.1:9", "no-such-host.invalid:6379", "127.0.0.1:99999999", "[::1]:9"]
)
def test_an_address_where_nothing_answers_is_refused_at_once(address):
    with pytest.raises(ExecutorError, match=r"^no Ray cluster answers at "):
        Connection(address).check(Resources())


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_a_ray_that_is_slow_to_start_is_started_again_and_then_given_up_in_a_line(monkeypatch, failures):
    slow = [Exception("The current node timed out during startup.\nMore.")] * failures
    started = []

    def init(**options):
        started.append(options["address"])
        if slow:
            raise slow.pop()

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 2.0})
    if failures < 3:
        with connected() as connection:
            assert connection.wait() == Cluster(cpus=2.0, gpus=0.0)
    else:
        expected = r"^a local Ray did not start: The current node timed out during startup\.$"
        with connected() as connection, pytest.raises(ExecutorError, match=expected):
            connection.wait()
    assert started == ["local"] * min(failures + 1, 3)
