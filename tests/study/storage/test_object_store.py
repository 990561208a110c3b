"""Checkpoints in an object store: a real S3 server (rclone's) in a process of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

from study.storage.object_store import ObjectStore, ObjectStoreError
from study.storage.study_folder import StudyFolder
from study.training.checkpoints import Checkpoints
from study.training.worker import WorkerOptions, run_bundle, run_side_by_side

RCLONE = Path(sys.executable).with_name("rclone")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """A server with one bucket, named ``bucket``; the environment has its address and its key."""
    rclone = str(RCLONE) if RCLONE.exists() else shutil.which("rclone")
    if rclone is None:
        pytest.skip("rclone is not here, which serves S3")
    home = tmp_path_factory.mktemp("s3")
    (home / "root" / "bucket").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [rclone, "serve", "s3", "--auth-key", "key,secret", "--addr", f"127.0.0.1:{port}"]
    command += ["--config", str(home / "rclone.conf"), str(home / "root")]
    with (home / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
            except urllib.error.HTTPError:
                break  # it wants a key
            except OSError:
                running = server.poll() is None and time.monotonic() < deadline
                assert running, (home / "log").read_text()
                time.sleep(0.1)
            else:
                break
        with pytest.MonkeyPatch.context() as environment:
            for name, value in {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": "us-east-1",
                # As for most servers but Amazon's own.
                "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
                "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            }.items():
                environment.setenv(name, value)
            yield home / "root" / "bucket"
        server.terminate()


@pytest.fixture(params=["s3", "file"])
def store(request, tmp_path):
    """A place, and the folder in which its objects are files."""
    if request.param == "file":
        return ObjectStore((tmp_path / "store").as_uri()), tmp_path / "store"
    pytest.importorskip("s3fs")
    bucket = request.getfixturevalue("s3")
    return ObjectStore(f"s3://bucket/{tmp_path.name}"), bucket / tmp_path.name


def test_the_last_two_checkpoints_are_kept_whole(store):
    place, files = store
    checkpoints = Checkpoints(place.checkpoint("k"))
    large = torch.rand(3_000_000)
    for epoch in (1, 2, 3):
        checkpoints.save({"key": "k", "epoch": epoch, "weights": large * epoch})
    assert sorted(path.name for path in files.iterdir()) == ["k.pt", "k.pt.before"]
    state, problems = checkpoints.newest("k", recorded=3)
    assert (state["epoch"], problems) == (3, [])
    assert torch.equal(state["weights"], large * 3)
    state, problems = checkpoints.newest("k", recorded=2)
    assert (state["epoch"], len(problems)) == (2, 1), "one ahead of the journal is not used"
    (files / "k.pt").write_bytes((files / "k.pt").read_bytes()[:-1])
    state, problems = checkpoints.newest("k", recorded=3)
    assert (state["epoch"], problems) == (2, ["checkpoint k.pt is damaged"])
    checkpoints.remove()
    assert not list(files.glob("k.*"))
    assert checkpoints.newest("k", recorded=3) == (None, [])
    checkpoints.remove()


def test_an_interrupted_trial_resumes_from_the_store(store, tmp_path, write_study):
    place, files = store
    study, _ = write_study(optimizers=["adam-adam"], seeds=1, epochs=4)
    (trial,) = study.trials()
    options = WorkerOptions(checkpoint_seconds=0, checkpoints=place.of_study("small"))
    ends = []
    for spoil in (False, True):
        folder = StudyFolder(tmp_path / f"runs-{spoil}", "small")
        epochs = run_side_by_side([trial], folder, options)
        next(epochs), next(epochs), next(epochs)
        epochs.close()
        assert not folder.checkpoint(trial).parent.exists()
        if spoil:  # so that a training that read it can be told from one that began anew
            checkpoints = Checkpoints(options.checkpoints.checkpoint(trial.key))
            state, _ = checkpoints.newest(trial.key, recorded=3)
            state["model"] = {name: tensor * float("nan") for name, tensor in state["model"].items()}
            checkpoints.save(state)
        list(run_bundle([trial], folder, options))
        assert not list((files / "small").glob("*.pt*")), "removed at the end"
        ends.extend(folder.records([trial]))
    whole = StudyFolder(tmp_path / "whole", "small")
    list(run_bundle([trial], whole))
    (expected,) = whole.records([trial])
    assert [end.status for end in ends] == ["finished", "diverged"]
    assert ends[0].train_loss.tobytes() == expected.train_loss.tobytes()


def test_a_place_that_works_passes_the_check_and_keeps_nothing(store):
    place, files = store
    place.check()
    assert not files.exists() or not list(files.iterdir())


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://bucket", "--checkpoints foo://bucket: Protocol not known: foo"),
        ("s3://absent/here", "no checkpoints can be kept at s3://absent/here: .*bucket does not exist"),
    ],
)
def test_a_place_that_does_not_work_is_refused_in_one_line(s3, uri, message):
    pytest.importorskip("s3fs")
    with pytest.raises(ObjectStoreError, match=message) as refused:
        ObjectStore(uri).check()
    assert "\n" not in str(refused.value)


def test_a_folder_that_cannot_be_written_is_refused():
    if os.access("/proc/sys", os.W_OK) and os.geteuid() != 0:
        pytest.skip("everything can be written here")
    with pytest.raises(ObjectStoreError, match="no checkpoints can be kept at file:///proc/nowhere"):
        ObjectStore("file:///proc/nowhere").check()
