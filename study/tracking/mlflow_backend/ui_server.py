"""Serves the MLflow UI over a database: starts a server, waits for it, and stops all its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from study.tracking.base import Say, TrackingError
from study.tracking.mlflow_backend.address import without_secrets

HOST = "127.0.0.1"
START_SECONDS = 120
PORTS = 50
"""Number of ports to try, one after the other."""


@contextmanager
def serving(uri: str, port: int, say: Say = lambda line: None) -> Iterator[str]:
    """Serve the MLflow UI over the database ``uri`` on 127.0.0.1; yield its address once it answers.

    Args:
        uri: The database, such as ``sqlite:///runs/mlflow.db``. It may contain a password.
        port: TCP port, or the next free one if it is taken; 0 takes any free one.
        say: Called with a line if another port is used.

    Raises:
        TrackingError: This port and the next ones are taken, or the server does not start.
    """
    wanted, port = port, _free_port(port)
    if wanted not in (0, port):
        say(f"port {wanted} is taken; using {port}")
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    # Everyone on a machine can read the arguments of a process; only its user can read its environment.
    environment = os.environ | {"MLFLOW_BACKEND_STORE_URI": uri}
    # The server has several processes; in their own session they can be stopped together.
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            address = f"http://{HOST}:{port}"
            _wait(server, address, log, uri)
            yield address
        finally:
            _stop(server)


def _free_port(port: int) -> int:
    """Return ``port`` if it is free, or the next free one; for 0 any free one."""
    tried = range(port, min(port + PORTS, 65536)) if port else (0,)
    for candidate in tried:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, candidate))
                chosen: int = probe.getsockname()[1]
                return chosen
    raise TrackingError(f"ports {tried[0]} to {tried[-1]} on {HOST} are taken; choose another with --port")


def _wait(server: subprocess.Popen[bytes], address: str, log: IO[bytes], uri: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise TrackingError(without_secrets(f"the MLflow server did not start: {said[-1]}", uri))
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise TrackingError(f"the MLflow server did not answer at {address} within {START_SECONDS} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(timeout=10)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
