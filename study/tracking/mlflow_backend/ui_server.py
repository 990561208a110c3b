"""The MLflow UI over an embedded store: starts the server, waits for it, stops it whole."""

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
from contextlib import contextmanager
from typing import IO

HOST = "127.0.0.1"
START_SECONDS = 120


class UiError(RuntimeError):
    """The UI cannot be served."""


@contextmanager
def serving(uri: str, port: int) -> Iterator[str]:
    """Serve the MLflow UI over the store ``uri`` on 127.0.0.1 and yield its address once it answers.

    Args:
        uri: of the backend store, e.g. ``sqlite:///runs/mlflow.db``.
        port: TCP port; 0 takes a free one.

    Raises:
        UiError: the port is taken, or the server does not come up.
    """
    port = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # The server is several processes; a session of its own lets them be stopped together.
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://{HOST}:{port}"
            _wait(server, address, log)
            yield address
        finally:
            _stop(server)


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UiError(f"port {port} on {HOST} is taken; choose another with --port") from error
        chosen: int = probe.getsockname()[1]
        return chosen


def _wait(server: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise UiError(f"the MLflow server did not start: {said[-1]}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise UiError(f"the MLflow server did not answer at {address} within {START_SECONDS} s")


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
