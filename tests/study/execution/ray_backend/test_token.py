"""Ray's token, with real clusters: one that wants it, and one that does not."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from study.execution.ray_backend import token

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

RAY = [sys.executable, "-m", "ray.scripts.scripts"]
SECRET, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
CHECK = """
import sys
from study.config.loader import Resources
from study.execution.executor import ExecutorError
from study.execution.ray_backend.cluster import Connection
try:
    Connection(sys.argv[1]).check(Resources())
except ExecutorError as error:
    print(error)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def home(folder, secret=None):
    """Make a home folder, with Ray's token in it if there is one."""
    (folder / ".ray").mkdir(parents=True)
    if secret is not None:
        (folder / ".ray" / "auth_token").write_text(secret)
    return folder


def environment(folder, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    return {**kept, "HOME": str(folder), **variables}


@pytest.fixture(scope="module")
def clusters(tmp_path_factory):
    """Addresses of two heads: one that wants the token in its home folder, one that wants none."""
    started, sockets = {}, []
    for name, secret in (("closed", SECRET), ("open", None)):
        place, port = home(tmp_path_factory.mktemp(name) / "home", secret), free_port()
        sockets.append(tempfile.mkdtemp(prefix="ray-test-"))  # short enough for the names of sockets
        head = [*RAY, "start", "--head", "--block", "--port", str(port), "--num-cpus", "1"]
        head += ["--include-dashboard=false", "--disable-usage-stats", "--temp-dir", sockets[-1]]
        # Newer versions of Ray want a token by themselves if they find one, Ray 2.55 does not.
        variables = {"RAY_AUTH_MODE": "token" if secret else "disabled"}
        log = (place / "head.log").open("wb")
        process = subprocess.Popen(
            head, env=environment(place, **variables), stdout=log, stderr=log, start_new_session=True
        )
        started[name] = process, f"127.0.0.1:{port}", place
    try:
        for process, _, place in started.values():
            deadline = time.monotonic() + 120
            while "Ray runtime started" not in (said := (place / "head.log").read_text()):
                assert process.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(0.2)
        yield {name: address for name, (_, address, _) in started.items()}
    finally:
        for process, _, _ in started.values():
            os.killpg(process.pid, signal.SIGKILL)  # a head that was told to end takes a minute
            process.wait()
        for folder in sockets:
            shutil.rmtree(folder, ignore_errors=True)


def check(address, folder, **variables):
    """Return what is said against the address, and what else comes out."""
    words = [sys.executable, "-c", CHECK, address]
    done = subprocess.run(words, env=environment(folder, **variables), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


PUT = (
    "put the cluster's token into RAY_AUTH_TOKEN, a file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
)


@pytest.mark.parametrize(
    ("there", "secret", "variables", "words"),
    [
        ("closed", SECRET, {}, ""),
        ("closed", None, {"RAY_AUTH_TOKEN": SECRET}, ""),
        ("closed", OTHER, {"RAY_AUTH_TOKEN": SECRET}, ""),
        ("closed", None, {"RAY_AUTH_TOKEN_PATH": "{tmp}/token"}, ""),
        ("closed", SECRET, {"RAY_AUTH_MODE": "token"}, ""),
        ("closed", None, {}, f"the Ray cluster at {{address}} wants a token, and there is none here; {PUT}"),
        (
            "closed",
            OTHER,
            {},
            f"the Ray cluster at {{address}} refuses the token in {{home}}/.ray/auth_token; {PUT}",
        ),
        (
            "closed",
            SECRET,
            {"RAY_AUTH_MODE": "disabled"},
            "the Ray cluster at {address} wants a token, but RAY_AUTH_MODE=disabled keeps Ray from sending "
            "the one in {home}/.ray/auth_token; unset RAY_AUTH_MODE",
        ),
        ("closed", None, {"RAY_AUTH_MODE": "token"}, f"RAY_AUTH_MODE=token, but there is no token; {PUT}"),
        ("open", None, {}, ""),
        ("open", SECRET, {}, ""),
        (
            "open",
            SECRET,
            {"RAY_AUTH_MODE": "token"},
            "RAY_AUTH_MODE=token, but the Ray cluster at {address} uses no token, and its workers could not "
            "answer this process; unset RAY_AUTH_MODE, or start the cluster with it",
        ),
    ],
)
def test_whether_the_cluster_takes_us_is_said_in_a_line(clusters, tmp_path, there, secret, variables, words):
    (tmp_path / "token").write_text(SECRET)
    place = home(tmp_path / "home", secret)
    variables = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
    said, noise = check(clusters[there], place, **variables)
    assert said == words.format(address=clusters[there], home=place)
    assert noise == ""


@pytest.mark.parametrize("there", ["closed", "open"])
def test_a_study_runs_on_a_cluster_beside_a_token_in_the_home_folder(clusters, tmp_path, write_study, there):
    _, path = write_study(optimizers=["sgd"], seeds=1, epochs=1)
    command = [sys.executable, "-m", "study", "run", path, "--runs", tmp_path / "runs"]
    done = subprocess.run(
        [*command, "--address", clusters[there]],
        env=environment(home(tmp_path / "home", SECRET)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1/1 trials done" in done.stdout
    assert done.stderr == ""


def test_a_run_that_the_cluster_refuses_leaves_nothing_behind(clusters, tmp_path, write_study):
    _, path = write_study(optimizers=["sgd"], seeds=1, epochs=1)
    command = [sys.executable, "-m", "study", "run", path, "--runs", tmp_path / "runs"]
    done = subprocess.run(
        [*command, "--address", clusters["closed"]],
        env=environment(home(tmp_path / "home")),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    address = clusters["closed"]
    assert (
        done.stderr == f"error: the Ray cluster at {address} wants a token, and there is none here; {PUT}\n"
    )
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_not_ray_is_said_to_be_none(tmp_path):
    """As the port of a dashboard or of MLflow."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_port}"
    said, noise = check(address, home(tmp_path / "home"))
    server.shutdown()
    server.server_close()
    assert said.startswith(f"no Ray cluster answers at {address} (")
    assert len(said.splitlines()) == 1
    assert noise == ""


def test_where_the_token_is_looked_for(tmp_path, monkeypatch):
    for name in (token.MODE, token.TOKEN, token.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home(tmp_path / "home")))
    assert token.find() is None
    default = Path("~/.ray/auth_token").expanduser()
    default.write_text("  \n")
    assert token.find() is None, "an empty file is no token"
    default.write_text(SECRET)
    assert token.find() == str(default)
    monkeypatch.setenv(token.TOKEN_PATH, str(tmp_path / "absent"))
    assert token.find() is None, "the variable names the only file"
    monkeypatch.setenv(token.TOKEN, OTHER)
    assert token.find() == token.TOKEN
