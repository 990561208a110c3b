"""Fault injection: kills drivers, workers and servers, and fills disks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil

from study.config.loader import Study
from study.storage.study_folder import StudyFolder

from .services import MlflowServer, Postgres, kill_tree

OUTAGE_SECONDS = 4.0
BY_ITSELF_SECONDS = 240.0


class Driver:
    """``hypergrad-study run`` as a process that can be started again, and what each start printed."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.command, self._folder = command, folder
        self._environment = {**os.environ, **environment, "PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def pid(self) -> int:
        """Process id of the last start."""
        assert self._process is not None
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code of the last start; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self.starts += 1
        with (self._folder / f"driver-{self.starts:03d}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )

    def said(self) -> list[str]:
        """Return what each start printed."""
        return [log.read_text(errors="replace") for log in sorted(self._folder.glob("driver-*.log"))]

    def processes(self, name: str) -> list[psutil.Process]:
        """Return its descendants whose title begins with ``name``: ``raylet``, or ``ray::`` for workers."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    title = " ".join(process.cmdline())
                    if title.startswith(name) or Path(title.partition(" ")[0]).name == name:
                        found.append(process)
        return found

    def stop(self) -> None:
        """End it with all its descendants."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()


class Stage:
    """What can be hit: the driver, the servers, and the disks that they write to."""

    def __init__(
        self,
        driver: Driver,
        server: MlflowServer,
        postgres: Postgres | None = None,
        runs_disk: Path | None = None,
        artifacts_disk: Path | None = None,
    ) -> None:
        self.driver, self.server, self.postgres = driver, server, postgres
        self.runs_disk, self.artifacts_disk = runs_disk, artifacts_disk

    def faults(self) -> dict[str, Callable[[], None]]:
        """Return the kinds of fault that this machine allows, by name."""
        kinds: dict[str, Callable[[], None]] = {
            "driver killed": lambda: self._signal_driver(signal.SIGKILL),
            "driver interrupted": lambda: self._signal_driver(signal.SIGINT),
            "worker killed": lambda: self._kill_some("ray::"),
            "folder's actor killed": lambda: self._kill_some("ray::FolderActor"),
            "Ray node killed": lambda: self._kill_some("raylet"),
            "everything killed": self.driver.stop,
            "MLflow killed": self._kill_server,
            "MLflow does not answer": lambda: self.server.pause(OUTAGE_SECONDS),
        }
        if "--no-shared-folder" not in self.driver.command:
            del kinds["folder's actor killed"]
        if self.postgres is not None:
            kinds["PostgreSQL killed"] = self._kill_postgres
        if self.runs_disk is not None:
            kinds["disk full"] = self._fill_disk
        if self.artifacts_disk is not None:
            kinds["artifacts read-only"] = self._lock_artifacts
        return kinds

    def _signal_driver(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.driver.pid, number)

    def _kill_some(self, name: str) -> None:
        for process in self.driver.processes(name)[:1]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def _kill_server(self) -> None:
        self.server.kill()
        time.sleep(OUTAGE_SECONDS)
        self.server.start()

    def _kill_postgres(self) -> None:
        assert self.postgres is not None
        self.postgres.kill()
        time.sleep(OUTAGE_SECONDS)
        self.postgres.start()

    def _fill_disk(self) -> None:
        assert self.runs_disk is not None
        filler = self.runs_disk / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        time.sleep(OUTAGE_SECONDS)
        filler.unlink()

    def _lock_artifacts(self) -> None:
        remount = ["mount", "-o", "remount,{}", str(self.artifacts_disk)]
        subprocess.run([word.format("ro") for word in remount], check=True)
        time.sleep(OUTAGE_SECONDS)
        subprocess.run([word.format("rw") for word in remount], check=True)


def schedule_of_faults(kinds: list[str], count: int, random: Random) -> Iterator[str]:
    """Yield ``count`` kinds, every kind as often as the others give or take one, in a shuffled order."""
    left = count
    while left:
        round_ = random.sample(kinds, min(left, len(kinds)))
        left -= len(round_)
        yield from round_


def run_under_faults(
    stage: Stage, study: Study, folder: StudyFolder, kinds: list[str], last_share: float = 0.9
) -> list[str]:
    """Run ``study`` to its end while faults of these kinds happen; return a line per fault.

    The faults are spread evenly over the study's progress, not over time, so that a slow machine has as many
    of them and each comes after some new work. A driver that ended is started again at once.
    """
    driver, done = stage.driver, []
    faults = stage.faults()
    driver.start()
    for number, kind in enumerate(kinds, start=1):
        due = last_share * (number - 1) / len(kinds)
        share = _await_share(driver, study, folder, due)
        faults[kind]()
        done.append(f"{number:3d} at {share:4.0%} of the study: {kind}")
        print(done[-1], flush=True)
        driver.start()
    deadline = time.monotonic() + 4 * BY_ITSELF_SECONDS
    while driver.code != 0:
        assert time.monotonic() < deadline, driver.said()[-1]
        driver.start()
        time.sleep(0.5)
    return done


def _await_share(driver: Driver, study: Study, folder: StudyFolder, due: float) -> float:
    deadline = time.monotonic() + BY_ITSELF_SECONDS
    while True:
        records = folder.records(study.trials())
        share = sum(record.progress for record in records) / len(records)
        if share > due and driver.code is None:
            return share
        assert time.monotonic() < deadline, f"no progress beyond {share:.0%}: {driver.said()[-1]}"
        driver.start()
        time.sleep(0.2)


def command(study_file: Path, runs: Path, uri: str, *, shared: bool = True) -> list[str]:
    """Return the command of a driver that runs ``study_file`` on a Ray of its own.

    Unless the folder of runs is ``shared``, workers write it through an actor.
    """
    where = ["--runs", str(runs), "--tracking-uri", uri]
    where += [] if shared else ["--no-shared-folder"]
    return [sys.executable, "-m", "study", "run", str(study_file), *where, "--cpus", "2"]
