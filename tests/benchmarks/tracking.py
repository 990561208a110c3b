"""What it costs to send trials to MLflow, and how far MLflow is behind the journals.

    python tests/benchmarks/tracking.py                                  # a server over PostgreSQL
    python tests/benchmarks/tracking.py --senders 1 4 --rate 0 5 --trials 100
    python tests/benchmarks/tracking.py --against ../other-checkout      # a row of its own for its code
    python tests/benchmarks/tracking.py --store sqlite                   # no server

Journals of made-up trials that have ended are there at once (``--rate 0``) or arrive at a rate of so many per
second. A process follows and sends them as a driver does. Prints the rows of a Markdown table: trials per
second, processor time per trial, and lag: from the end in a trial's journal to the end of its run in MLflow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
HEADER = (
    "| store | code | senders | trials, points of each | arriving | trials/s | driver, ms "
    "| MLflow server, ms | database, ms | lag, median and most |"
)
LEAST_TRIALS = 1000
"""The study has so many trials, or more, as the number of points of a curve depends on it."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--store", choices=("postgres", "sqlite-server", "sqlite"), nargs="+", default=["postgres"]
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=100, help="per epoch")
    parser.add_argument("--senders", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rate", type=float, nargs="+", default=[0, 5], help="trials/s; 0: all at once")
    parser.add_argument("--server-processes", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout, whose code sends first")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver:
        drive(json.loads(options.driver))
        return
    print(HEADER, "|---" * (HEADER.count("|") - 1) + "|", sep="\n", flush=True)
    for store in options.store:
        with tempfile.TemporaryDirectory() as name, served(store, Path(name), options) as services:
            if options.against:
                measure(store, services, options, 1, 0.0, options.against.resolve())
            for senders in options.senders:
                for rate in options.rate:
                    measure(store, services, options, senders, rate, ROOT)


@contextlib.contextmanager
def served(store: str, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, Sequence[int]]]:
    """Start what keeps the runs; yield its address, and the processes of the server and the database."""
    sys.path.insert(0, str(TESTS))
    from chaos.services import MlflowServer, Postgres, postgres_binaries

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    if store == "sqlite":
        yield uri, ()
        return
    with contextlib.ExitStack() as stack:
        pids = []
        if store == "postgres":
            if postgres_binaries() is None:
                raise SystemExit("PostgreSQL's binaries are not here, or this user may not start them")
            database = Postgres(folder)
            stack.callback(database.remove)
            uri = database.uri
            pids = [database.pid]
        server = MlflowServer(folder, uri, folder / "artifacts", processes=options.server_processes)
        stack.callback(server.kill)
        yield server.uri, [server.pid, *pids]


def measure(
    store: str,
    services: tuple[str, Sequence[int]],
    options: argparse.Namespace,
    senders: int,
    rate: float,
    code: Path,
) -> None:
    """Let a driver of its own send the trials, and print a row of the table."""
    uri, pids = services
    settings = {
        "uri": uri,
        "trials": options.trials,
        "epochs": options.epochs,
        "iterations": options.iterations,
        "senders": senders,
        "rate": rate,
    }
    command = [sys.executable, __file__, "--driver", json.dumps(settings)]
    with (
        tempfile.TemporaryDirectory() as runs,
        subprocess.Popen(
            command, cwd=runs, env=os.environ | {"PYTHONPATH": str(code)}, stdout=subprocess.PIPE, text=True
        ) as driver,
    ):
        assert driver.stdout is not None
        before: list[float] = []
        said: dict[str, Any] = {}
        for line in driver.stdout:
            if line.startswith("begin"):
                before = [cpu_seconds(pid) for pid in pids]
            elif line.startswith("{"):
                said = json.loads(line)
                break
        after = [cpu_seconds(pid) for pid in pids]
    if not said:
        raise SystemExit("the driver failed")
    spent = [(b - a) / options.trials for a, b in zip(before, after, strict=True)]
    server, database = ([f"{1000 * seconds:.0f}" for seconds in spent] + ["–", "–"])[:2]
    lag = f"{said['lag']:.1f} s, {said['most_lag']:.1f} s" if rate else "–"
    cells = [
        f"server over {'PostgreSQL' if store == 'postgres' else 'SQLite'}" if pids else "SQLite",
        "this" if code == ROOT else code.name,
        said["senders"],
        f"{options.trials}, {said['points']}",
        f"{rate:g} per s" if rate else "at once",
        f"{options.trials / said['seconds']:.1f}",
        f"{1000 * said['cpu'] / options.trials:.0f}",
        server,
        database,
        lag,
    ]
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its descendants, with those that it has waited for."""
    root = psutil.Process(pid)
    return sum(sum(process.cpu_times()[:4]) for process in [root, *root.children(recursive=True)])


def drive(settings: dict[str, Any]) -> None:
    """Follow journals and send them, as a driver does; print "begin", and at the end what was measured."""
    from study.config.loader import Study
    from study.execution.live_records import LiveRecords
    from study.execution.publisher import RunPublisher, Uploader
    from study.storage.study_folder import StudyFolder
    from study.tracking import open_tracker

    count = settings["trials"]
    study = Study(
        name=f"tracking-{time.time_ns()}",
        workloads=["mnist-logreg"],
        optimizers=["adam-adam"],
        alpha0=[0.001],
        beta=1e-7,
        seeds=max(LEAST_TRIALS, count + 1),
        epochs=settings["epochs"],
    )
    folder = StudyFolder(Path.cwd(), study.name)
    folder.save_study(study)
    first, *trials = study.trials()[: count + 1]
    tracker = open_tracker(study, settings["uri"], folder)
    if hasattr(tracker, "senders"):
        tracker.senders = settings["senders"]  # type: ignore[misc]
    tracker.begin()
    timed = Timed(tracker)
    feeder = get_context("spawn").Process(
        target=write_journals, args=(folder, trials, settings["iterations"], settings["rate"])
    )
    # What is made on first use is not measured.
    write_journals(folder, [first], settings["iterations"], 0)
    Uploader(timed).send(LiveRecords(study, folder))
    publisher = RunPublisher(LiveRecords(study, folder), Uploader(timed), lambda progress: None)
    feeder.start()
    if not settings["rate"]:
        feeder.join()
    timed.lags.clear()
    print("begin", flush=True)
    begun, cpu = time.perf_counter(), time.process_time()
    publisher.start(slots=2)
    while len(timed.lags) < count:
        time.sleep(0.1)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    said = {
        "seconds": seconds,
        "cpu": cpu,
        "points": points_of_a_run(settings["uri"], study.name),
        "senders": getattr(tracker, "senders", 1),
        "lag": float(np.median(timed.lags)),
        "most_lag": max(timed.lags),
    }
    print(json.dumps(said), flush=True)
    publisher.stop()
    feeder.join()


class Timed:
    """A tracker that notes how long after its trial's end each run is complete, in s."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self.lags: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def publish(self, record: Any) -> None:
        self._tracker.publish(record)
        if record.is_final:
            self.lags.append(time.time() - record.ended_ms / 1000)


def write_journals(folder: Any, trials: Sequence[Any], iterations: int, rate: float) -> None:
    """Write journals of trials that have ended, so many per second; 0 as fast as it goes."""
    from study.storage.journal import Journal
    from study.storage.records import EpochRecord

    begun = time.monotonic()
    for number, trial in enumerate(trials):
        random = np.random.default_rng(trial.seed)
        if rate:
            time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        with Journal(folder.journal(trial), trial, machine={}, repeatable=True) as journal:
            for epoch in range(trial.epochs):
                journal.epoch(
                    EpochRecord(
                        epoch=epoch + 1,
                        first_iteration=epoch * iterations + 1,
                        alpha=random.normal(1e-3, 1e-5, iterations),
                        hypergradient=random.normal(0, 1, iterations),
                        train_loss=random.exponential(1, iterations),
                        val_loss=0.3,
                        val_accuracy=0.9,
                        seconds=1.0,
                    )
                )
            journal.end("finished")


def points_of_a_run(uri: str, study: str) -> int:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.role = 'trial'", max_results=1)
    return sum(len(client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics)


if __name__ == "__main__":
    main()
