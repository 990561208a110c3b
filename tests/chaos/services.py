"""PostgreSQL and an MLflow server that can be killed, and started again where they were."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

START_SECONDS = 120


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kill_tree(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and all its descendants, the process first."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.send_signal(number)


class Service:
    """A server process of our own: its command, and how to tell that it answers."""

    def __init__(self, command: list[str], log: Path, user: str | None = None) -> None:
        self._command, self._log, self._user = command, log, user
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its first process."""
        assert self._process is not None
        return self._process.pid

    def answers(self) -> bool:
        """Whether the service answers now."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self._user
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            alive = self._process.poll() is None and time.monotonic() < deadline
            assert alive, self._log.read_text()[-2000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """End it and its children with SIGKILL."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()
            self._process = None

    def pause(self, seconds: float) -> None:
        """Let it accept connections and answer nothing for a while: what a client sees of a lost network."""
        assert self._process is not None
        kill_tree(self._process.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            kill_tree(self._process.pid, signal.SIGCONT)


class Postgres(Service):
    """PostgreSQL in a folder of its own, until :meth:`remove`; one database, its log in ``folder``."""

    def __init__(self, folder: Path) -> None:
        binaries = postgres_binaries()
        assert binaries is not None
        self._port, self._binaries = free_port(), binaries
        # It refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        # Not below the test's folder, whose parents are closed to that user.
        self._data = Path(tempfile.mkdtemp(prefix="study-test-postgres-"))
        if user:
            shutil.chown(self._data, user)
        initdb = [str(binaries / "initdb"), "--pgdata", str(self._data), "--auth", "trust"]
        initdb += ["--username", "study", "--encoding", "UTF8", "--locale", "C"]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, user=user)
        command = [
            str(binaries / "postgres"),
            "-D",
            str(self._data),
            "-p",
            str(self._port),
            "-h",
            "127.0.0.1",
        ]
        super().__init__([*command, "-k", ""], folder / "postgres.log", user)
        self.start()
        self._psql("postgres", "CREATE DATABASE mlflow")

    @property
    def uri(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg2://study@127.0.0.1:{self._port}/mlflow"

    def answers(self) -> bool:
        """Whether it accepts connections."""
        ready = [str(self._binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(self._port), "-q"]
        return subprocess.run(ready).returncode == 0

    def start(self) -> None:
        """Start it, over what a kill left of its lock and its shared memory."""
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        super().start()

    def remove(self) -> None:
        """End it and delete what it keeps."""
        self.kill()
        shutil.rmtree(self._data)

    def _psql(self, database: str, statement: str) -> None:
        psql = [str(self._binaries / "psql"), "-h", "127.0.0.1", "-p", str(self._port), "-U", "study"]
        subprocess.run([*psql, "-d", database, "-q", "-c", statement], check=True)


class MlflowServer(Service):
    """An MLflow server of so many processes that serves artifacts, over ``store``."""

    def __init__(self, folder: Path, store: str, artifacts: Path, processes: int = 1) -> None:
        self.uri = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
        command += ["--artifacts-destination", artifacts.as_uri(), "--host", "127.0.0.1", "--port", str(port)]
        super().__init__([*command, "--workers", str(processes)], folder / "mlflow.log")
        os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        self.start()

    def answers(self) -> bool:
        """Whether its health page is there."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


def postgres_binaries() -> Path | None:
    """Return the folder with PostgreSQL's server and ``initdb``, which Debian leaves off PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "postgres").exists()]
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):
            pwd.getpwnam("postgres")
            return usable[-1] if usable else None
        return None
    return usable[-1] if usable else None


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own at ``folder``, which can be full or read-only without harming others."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "study-test", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    try:
        with small_disk(folder / "probe", "1m"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
