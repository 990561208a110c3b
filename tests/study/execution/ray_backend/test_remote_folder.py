"""Nodes that do not see the study's folder: what they train arrives in it, and equals an undisturbed run.

Every node is a Ray node of its own on this machine. One that sees nothing has an empty disk of its own over
the folder of runs, in a mount namespace of its own.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from study.config.loader import Resources
from study.execution.executor import ExecutorError
from study.execution.ray_backend import token
from study.execution.ray_backend.cluster import Connection
from study.execution.ray_backend.executor import RayExecutor
from study.execution.ray_backend.folder_actor import Chunk, FolderActor
from study.execution.ray_backend.shared_places import NAMESPACE
from study.execution.users_code import modules_to_send
from study.storage.journal_reader import JournalReader
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions, run_bundle

pytestmark = pytest.mark.ray
OWN_WORKLOAD = """
import torch
from torch import nn
from study import Data, Workload

def load(folder):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 3, generator=generator), torch.arange(60) % 2
    return Data(x[:40], y[:40], x[40:], y[40:])

def workload():
    return Workload("own", load, lambda: nn.Linear(3, 2))
"""
RAY = str(Path(sys.executable).with_name("ray"))


def can_unshare() -> bool:
    if os.geteuid() or not shutil.which("unshare"):
        return False
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(mount, capture_output=True).returncode == 0


class TwoNodes:
    """A head without CPUs, where the driver is, and a worker that does not see the folder of runs."""

    def __init__(self, runs: Path, *, blind: bool) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._runs, self._blind = runs, blind
        port = self.address.rpartition(":")[2]
        head = [RAY, "start", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false"]
        head.append("--node-ip-address=127.0.0.1")
        self._processes = [self._start([*head, "--block"])]
        deadline = time.monotonic() + 120
        while not self._answers(int(port)):
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.2)
        self.start_worker()

    def start_worker(self) -> None:
        command = [RAY, "start", f"--address={self.address}", "--num-cpus=2", "--block"]
        command.append("--node-ip-address=127.0.0.1")
        if self._blind:
            mount = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, str(self._runs), *command]
        self._processes.append(self._start(command))

    @staticmethod
    def _answers(port: int) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        return False

    def workers(self) -> list[psutil.Process]:
        """The processes that train."""
        found = []
        for process in psutil.Process(self._processes[-1].pid).children(recursive=True):
            if process.name().startswith("ray::ImplicitFu"):
                found.append(process)
        return found

    def stop(self) -> None:
        for process in reversed(self._processes):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.send_signal(signal.SIGKILL)
            process.wait()

    @staticmethod
    def _start(command: list[str]) -> "subprocess.Popen[bytes]":
        # Ray would ask for a token if it found one of the user's.
        environment = os.environ | {token.MODE: "disabled"}
        silent = subprocess.DEVNULL
        return subprocess.Popen(command, stdout=silent, stderr=silent, env=environment)


@pytest.fixture(autouse=True)
def _without_a_token():
    """As the nodes are started, whatever an earlier test has left in this process."""
    before = os.environ.get(token.MODE)
    token.set_mode("disabled")
    yield
    token.set_mode(before)


@pytest.fixture
def runs(tmp_path):
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def nodes(request, runs):
    blind = getattr(request, "param", True)
    if blind and not can_unshare():
        pytest.skip("to hide a folder from a process takes root and unshare")
    nodes = TwoNodes(runs, blind=blind)
    yield nodes
    nodes.stop()


def joined(nodes, folder, *, modules=(), **options):
    executor = RayExecutor(Connection(nodes.address, modules=modules), **options)
    deadline = time.monotonic() + 120
    while True:
        try:
            executor.check(Resources())
            break
        except ExecutorError:
            assert time.monotonic() < deadline
            time.sleep(0.5)
    executor.start()
    try:
        cluster = executor._connection.wait()
        while ray.cluster_resources().get("CPU", 0) < 2:
            assert time.monotonic() < deadline, "no worker has joined"
            time.sleep(0.5)
        assert cluster.grows
        return executor, executor.wait(Resources(), folder)
    except BaseException:
        executor.shutdown()  # else Ray ends this process when its node is gone
        raise


@pytest.mark.parametrize("nodes", [True, False], indirect=True, ids=["hidden", "shared"])
def test_the_folder_fills_whether_workers_see_it_or_not(nodes, runs, tmp_path, monkeypatch, write_study):
    """The line says which it is; a worker process that is killed costs nothing."""
    workloads = ["digits-logreg", "sent_module:workload"]
    study, _ = write_study(
        workloads=workloads, optimizers=["sgd", "adam-adam"], epochs=100, seeds=2, batch_size=8, threshold=2.0
    )
    trials, folder = study.trials(), StudyFolder(runs, "small")
    # Where the node that is blind does not see it either.
    (runs / "sent_module.py").write_text(OWN_WORKLOAD)
    monkeypatch.syspath_prepend(runs)
    monkeypatch.delitem(sys.modules, "sent_module", raising=False)
    executor, capacity = joined(nodes, folder, modules=modules_to_send(study, runs))
    try:
        blind = f"1 of 2 nodes do not see {folder.path}: they write through this node"
        assert capacity.note == (blind if nodes._blind else "")
        options = WorkerOptions(checkpoint_seconds=0)
        killed = []

        def kill_one() -> None:
            while not killed:
                time.sleep(0.05)
                with contextlib.suppress(psutil.NoSuchProcess):
                    if any(record.epochs for record in folder.records(trials)):
                        for process in nodes.workers()[:1]:
                            process.kill()
                            killed.append(process.pid)

        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        executor.train([trials[0::2], trials[1::2]], folder, options)
        killer.join(10)
        assert killed
    finally:
        executor.shutdown()
    whole = StudyFolder(tmp_path / "whole", "small")
    list(run_bundle(trials, whole))
    for ours, theirs in zip(folder.records(trials), whole.records(trials), strict=True):
        assert ours.status == "finished"
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()
    assert not list(folder.path.glob("checkpoints/*"))


def write_small_mnist(folder):
    """Sixty made-up pictures in MNIST's files."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", 50), ("t10k", 10)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        for name, values in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
            (folder / name).write_bytes(header + values.tobytes())


def test_a_node_without_the_data_gets_them_from_the_driver(nodes, runs, tmp_path, write_study):
    """Not from the internet, whose MNIST has other pictures."""
    study, _ = write_study(
        workloads=["mnist-logreg"], optimizers=["sgd"], epochs=2, seeds=2, batch_size=10, threshold=None
    )
    trials, folder, data = study.trials(), StudyFolder(runs, "small"), runs / "data"
    write_small_mnist(data / "MNIST" / "raw")
    executor, _ = joined(nodes, folder)
    options = WorkerOptions(data_folder=data)
    try:
        executor.train([trials[0::2], trials[1::2]], folder, options)
    finally:
        executor.shutdown()
    whole = StudyFolder(tmp_path / "whole", "small")
    list(run_bundle(trials, whole, options))
    for ours, theirs in zip(folder.records(trials), whole.records(trials), strict=True):
        assert (ours.status, ours.error) == ("finished", None)
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()


@pytest.mark.parametrize("nodes", [False], indirect=True)
def test_the_actor_may_die_and_a_second_driver_is_kept_away(nodes, runs, tmp_path, write_study):
    study, _ = write_study(optimizers=["sgd"], epochs=150, seeds=2, batch_size=8)
    trials, folder = study.trials(), StudyFolder(runs, "small")
    executor, capacity = joined(nodes, folder, shared_folder=False)
    assert capacity.note.startswith("2 of 2 nodes do not see")
    pids = []

    def kill_the_actor() -> None:
        actor = ray.get_actor(str(folder.path), namespace=NAMESPACE)
        for share in (0.1, 0.5):
            while sum(record.progress for record in folder.records(trials)) / len(trials) < share:
                time.sleep(0.02)
            pids.append(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())))
            os.kill(pids[-1], signal.SIGKILL)

    try:
        killer = threading.Thread(target=kill_the_actor, daemon=True)
        killer.start()
        other = subprocess.run(
            [sys.executable, "-c", SECOND_DRIVER, nodes.address, str(runs)], capture_output=True, text=True
        )
        executor.train([trials[0::2], trials[1::2]], folder, WorkerOptions(checkpoint_seconds=0))
        killer.join(10)
    finally:
        executor.shutdown()
    assert len(set(pids)) == 2
    assert "the study 'small' is being run by" in other.stdout, other.stderr
    whole = StudyFolder(tmp_path / "whole", "small")
    list(run_bundle(trials, whole))
    for ours, theirs in zip(folder.records(trials), whole.records(trials), strict=True):
        assert ours.status == "finished"
        assert ours.train_loss.tobytes() == theirs.train_loss.tobytes()


SECOND_DRIVER = """
import sys
from pathlib import Path
from study.config.loader import Resources
from study.execution.executor import ExecutorError
from study.execution.ray_backend.cluster import Connection
from study.execution.ray_backend.executor import RayExecutor
from study.storage.study_folder import StudyFolder
executor = RayExecutor(Connection(sys.argv[1]), shared_folder=False)
try:
    executor.wait(Resources(), StudyFolder(Path(sys.argv[2]), "small"))
except ExecutorError as error:
    print(error)
finally:
    executor.shutdown()
"""


def test_an_actor_that_died_in_a_line_is_followed_by_one_that_cuts_it_off(runs, write_study):
    (trial, *_) = write_study()[0].trials()
    folder = StudyFolder(runs, "small")
    list(run_bundle([trial], folder))
    (record,) = folder.records([trial])
    lines = folder.journal(trial).read_bytes().splitlines(keepends=True)
    folder.journal(trial).unlink()
    first = FolderActor(folder, "")
    first.append([Chunk(trial.key, 0, lines[0], False), Chunk(trial.key, None, lines[1], False)])
    torn = folder.journal(trial)
    torn.write_bytes(torn.read_bytes() + lines[2][:20])
    again = FolderActor(folder, "")
    # The message that was not answered is sent again, and then the next one; each line counts once.
    again.append([Chunk(trial.key, None, lines[1], False), Chunk(trial.key, None, lines[2], False)])
    again.append([Chunk(trial.key, None, lines[3], True)])
    reader = JournalReader(torn, trial)
    reader.poll()
    assert not reader.damaged
    assert reader.record.status == record.status
    assert reader.record.train_loss.tobytes() == record.train_loss.tobytes()
