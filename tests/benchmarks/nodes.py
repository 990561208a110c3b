"""A study on 1, 8 and 32 simulated nodes: what saturates, with and without a shared folder.

    python tests/benchmarks/nodes.py                                     # minutes, and about 20 GB of memory
    python tests/benchmarks/nodes.py --nodes 1 4 --trials 400
    python tests/benchmarks/nodes.py --save measured.json                # adds its rows to the file
    python tests/benchmarks/nodes.py --from measured.json --figure docs/scale.png

The nodes are Ray nodes of one CPU each on this machine (``ray.cluster_utils.Cluster``), beside a head
without CPUs that the driver joins. So more nodes are more processes on the same cores: the figures say what
the driver, the folder's actor and MLflow take, not how fast such a cluster trains. The driver is
``hypergrad-study run`` with a server over PostgreSQL. Prints the rows of a Markdown table.

Trials per second count from the start of the first trial to the end of the last, in the journals and in
MLflow. Lag is from the end of a trial in its journal to the end of its run in MLflow, as the database says
it, which is asked every half second. Processor time and memory are as of the same span.
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder

TESTS = Path(__file__).parents[1]
MEGABYTE = 1e6
SAMPLE_SECONDS = 0.5
KINDS = ("driver", "mlflow", "actor", "workers", "ray")
ENDED_TRIALS = """
SELECT runs.run_uuid, runs.end_time FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid
WHERE runs.status = 'FINISHED' AND tags.key = 'role' AND tags.value = 'trial'
"""


@dataclass(frozen=True)
class Measured:
    """A run of a study; a row of the table."""

    nodes: int
    shared: bool
    trials: int
    start: float
    """Seconds from the driver's start to that of the first trial."""
    trained_rate: float
    """Trials per second, until the last journal ended."""
    sent_rate: float
    """Trials per second, until the last run in MLflow ended."""
    driver: float
    """Processor time of the driver, in ms per trial."""
    memory: float
    """Most resident memory of the driver, in MB."""
    actor: float
    """Processor time of the folder's actor, in ms per trial."""
    workers: float
    """Processor time of the processes that train, in ms per trial."""
    nodes_own: float
    """Processor time of Ray's own processes on all nodes, in ms per trial."""
    mlflow: float
    """Processor time of the MLflow server and its database, in ms per trial."""
    lag: float
    """Median lag of MLflow behind the journals, in s."""
    most_lag: float


HEADER = (
    "| nodes | folder | trials | first trial after | trials/s: trained | in MLflow | driver, ms "
    "| driver, MB | folder's actor, ms | workers, ms | Ray, ms | MLflow, ms | lag, median and most |"
)


def row(measured: Measured) -> str:
    cells = [
        measured.nodes,
        "shared" if measured.shared else "through the actor",
        measured.trials,
        f"{measured.start:.0f} s",
        f"{measured.trained_rate:.1f}",
        f"{measured.sent_rate:.1f}",
        f"{measured.driver:.0f}",
        f"{measured.memory:.0f}",
        "–" if measured.shared else f"{measured.actor:.1f}",
        f"{measured.workers:.0f}",
        f"{measured.nodes_own:.0f}",
        f"{measured.mlflow:.0f}",
        f"{measured.lag:.1f} s, {measured.most_lag:.1f} s",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--trials", type=int, default=2000, help="a multiple of 20")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--folder", choices=("shared", "actor"), nargs="+", default=["shared", "actor"])
    parser.add_argument("--server-processes", type=int, default=2)
    parser.add_argument("--save", type=Path, help="a JSON file to which the rows are added")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing; take the rows from a file")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    rows = load(options.source) if options.source else []
    print(HEADER, "|---" * (HEADER.count("|") - 1) + "|", *map(row, rows), sep="\n", flush=True)
    if not options.source:
        for nodes in options.nodes:
            for folder in options.folder:
                rows.append(measure(nodes, folder == "shared", options))
                print(row(rows[-1]), flush=True)
                if options.save:
                    known = load(options.save) if options.save.exists() else []
                    options.save.write_text(
                        json.dumps([asdict(each) for each in [*known, rows[-1]]], indent=1)
                    )
    if options.figure:
        draw(rows, options.figure)


def load(path: Path) -> list[Measured]:
    return [Measured(**each) for each in json.loads(path.read_text())]


def measure(nodes: int, shared: bool, options: argparse.Namespace) -> Measured:
    trials = options.trials // 20 * 20
    # A socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="scale-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        os.environ["RAY_TMPDIR"] = name
        database, uri, pids = stack.enter_context(served(folder, options))
        address = stack.enter_context(cluster(nodes))
        path = write_study(folder, trials, options.epochs)
        command = [sys.executable, "-m", "study", "run", str(path), "--runs", str(folder / "runs")]
        command += ["--tracking-uri", uri, "--address", address]
        command += ["--shared-folder" if shared else "--no-shared-folder"]
        began = time.time()
        with (folder / "driver.log").open("wb") as log:
            driver = psutil.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
            stack.callback(end, driver)
            watch = Watch(driver, pids, database)
            while driver.poll() is None:
                watch.look()
                time.sleep(SAMPLE_SECONDS)
        if driver.returncode:
            said = (folder / "driver.log").read_text()
            raise SystemExit(f"the driver ended with {driver.returncode}:\n{said[:1500]}\n…\n{said[-1500:]}")
        return sum_up(watch, folder, path, nodes, shared, trials, began)


def end(process: psutil.Popen) -> None:
    """End a process, unless it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()


def sum_up(
    watch: Watch, folder: Path, path: Path, nodes: int, shared: bool, trials: int, began: float
) -> Measured:
    records = StudyFolder(folder / "runs", "scale").records(load_study(path).trials())
    assert all(record.is_complete for record in records)
    first = min(record.started_ms for record in records) / 1000
    trained = max(record.ended_ms for record in records) / 1000
    watch.look()
    assert len(watch.seen) == trials, f"MLflow has {len(watch.seen)} runs that have ended"
    sent = max(seen for seen, _ in watch.seen.values())
    lags = [seen - ended_ms / 1000 for seen, ended_ms in watch.seen.values()]
    spent = {name: 1000 * watch.spent(name, first, sent) / trials for name in KINDS}
    return Measured(
        nodes=nodes,
        shared=shared,
        trials=trials,
        start=first - began,
        trained_rate=trials / (trained - first),
        sent_rate=trials / (sent - first),
        driver=spent["driver"],
        memory=max(memory for when, memory in watch.memory if when <= sent + 1) / MEGABYTE,
        actor=spent["actor"],
        workers=spent["workers"],
        nodes_own=spent["ray"],
        mlflow=spent["mlflow"],
        lag=float(np.median(lags)),
        most_lag=max(lags),
    )


class Watch:
    """Samples processor time, the driver's memory, and which runs have ended in MLflow's database."""

    def __init__(self, driver: psutil.Process, server: list[int], database: str) -> None:
        self._driver = driver
        self._server = [psutil.Process(pid) for pid in server]
        self._engine = sqlalchemy.create_engine(database)
        self._kinds: dict[int, str] = {}
        self._samples: list[tuple[float, dict[int, float]]] = []
        """When, in Unix seconds, and the processor time of each process until then."""
        self.memory: list[tuple[float, float]] = []
        """When, in Unix seconds, and how many bytes the driver had."""
        self.seen: dict[str, tuple[float, int]] = {}
        """By run, when it was first seen to have ended, and when its trial ended, in Unix ms."""

    def look(self) -> None:
        """Take a sample."""
        now = time.time()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.memory.append((now, self._driver.memory_info().rss))
        server = [each for root in self._server for each in [root, *root.children(recursive=True)]]
        spent: dict[int, float] = dict(self._samples[-1][1]) if self._samples else {}
        for process in [self._driver, *server, *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                self._kinds[process.pid] = self._kind(process, {each.pid for each in server})
                spent[process.pid] = sum(process.cpu_times()[:2])
        self._samples.append((now, spent))
        # The tables may not be there yet.
        with contextlib.suppress(sqlalchemy.exc.DBAPIError), self._engine.connect() as connection:
            for run, ended_ms in connection.execute(sqlalchemy.text(ENDED_TRIALS)):
                self.seen.setdefault(run, (now, ended_ms))

    def spent(self, kind: str, begin: float, end: float) -> float:
        """Return the processor time that a kind of process took between two times, in s."""
        whens = [when for when, _ in self._samples]
        totals = [
            sum(seconds for pid, seconds in spent.items() if self._kinds[pid] == kind)
            for _, spent in self._samples
        ]
        return float(np.interp(end, whens, totals) - np.interp(begin, whens, totals))

    def _kind(self, process: psutil.Process, server: set[int]) -> str:
        if process.pid == self._driver.pid:
            return "driver"
        if process.pid in server:
            return "mlflow"
        title = process.name()
        # A process that was the actor, or trained, may be idle when its kind is asked for.
        if self._kinds.get(process.pid) == "actor" or title.startswith("ray::FolderActo"):
            return "actor"
        return "workers" if title.startswith("ray::") and "Agent" not in title else "ray"


@contextlib.contextmanager
def served(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, str, list[int]]]:
    """Start what keeps the runs; yield the database, the tracking URI, and the processes of both."""
    sys.path.insert(0, str(TESTS))
    from chaos.services import MlflowServer, Postgres, postgres_binaries

    if postgres_binaries() is None:
        raise SystemExit("PostgreSQL's binaries are not here, or this user may not start them")
    with contextlib.ExitStack() as stack:
        database = Postgres(folder)
        stack.callback(database.remove)
        server = MlflowServer(folder, database.uri, folder / "artifacts", processes=options.server_processes)
        stack.callback(server.kill)
        yield database.uri, server.uri, [server.pid, database.pid]


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """Start a head without CPUs and so many nodes of one CPU; yield its address."""
    # Ray would ask for a token if it found one of the user's. It would start processes ahead that nobody
    # uses, as the driver wants some of another environment: at 32 nodes gigabytes. It reads this on import.
    os.environ.update({"RAY_AUTH_MODE": "disabled", "RAY_prestart_worker_first_driver": "0"})
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            made.add_node(wait=False, num_cpus=1)
        made.wait_for_nodes(timeout=300)
        yield made.address
    finally:
        made.shutdown()


def write_study(folder: Path, trials: int, epochs: int) -> Path:
    path = folder / "scale.yaml"
    path.write_text(
        f"name: scale\nworkloads: digits-logreg\noptimizers: [sgd, sgd-sgd]\n"
        f"alpha0: {[round(0.01 * n, 2) for n in range(1, 11)]}\nbeta: 1e-3\n"
        f"seeds: {trials // 20}\nepochs: {epochs}\nthreshold: 1.0\nresources: {{cpus: 1}}\n"
    )
    return path


def draw(rows: list[Measured], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained", sharex=True)
    panels = {
        "trials per second": {"trained_rate": "trained", "sent_rate": "in MLflow"},
        "processor time, ms per trial": {
            "driver": "driver",
            "actor": "folder's actor",
            "mlflow": "MLflow, PostgreSQL",
        },
        "driver's memory, MB": {"memory": "driver"},
        "MLflow behind the journals, s": {"lag": "median", "most_lag": "most"},
    }
    styles = {True: ("o-", "shared folder"), False: ("s--", "through the actor")}
    for panel, (title, names) in zip(axes.flat, panels.items(), strict=True):
        for number, (name, label) in enumerate(names.items()):
            panel.plot([], [], color=f"C{number}", label=label)
            for shared, (style, _) in styles.items():
                chosen = sorted((each.nodes, getattr(each, name)) for each in rows if each.shared == shared)
                if chosen and not (name == "actor" and shared):
                    panel.plot(*zip(*chosen, strict=True), style, color=f"C{number}")
        panel.set(ylabel=title, xlim=(0, None), ylim=(0, 1.3 * panel.dataLim.y1))
        panel.grid(True, alpha=0.3)
        panel.legend(frameon=False, ncols=len(names), loc="upper center", fontsize="small")
    for panel in axes[1]:
        panel.set_xlabel("nodes")
    keys = [
        plt.Line2D([], [], color="gray", marker=style[0], ls=style[1:], label=label)
        for shared, (style, label) in styles.items()
        if any(each.shared == shared for each in rows)
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
