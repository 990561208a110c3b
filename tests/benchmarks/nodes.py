"""What the commands take on a study of many trials: ``python tests/benchmarks/scale.py [--trials 100000]``.

<<<<<<<< HEAD:tests/benchmarks/scale.py
Fills a folder with a study whose results are MADE UP (``made_up_study.py``), runs the commands on it, each
as a process of its own, and prints wall-clock seconds, processor seconds and the peak memory of its processes
together, beside the goals. The "first status" reads every journal. The commands after it find the summary
that it wrote.
========
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
>>>>>>>> mlflowrate:tests/benchmarks/nodes.py
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import made_up_study
import psutil

from study import __version__
from study.storage.study_folder import StudyFolder

GOAL_MEGABYTES = 2000
GOALS = {"plan": 10.0, "status": 2.0, "list": 2.0, "report": 120.0}
"""Seconds, for 100,000 trials."""


class Cost(NamedTuple):
    """What a command took."""

    wall: float
    processor: float
    megabytes: float


def main() -> None:
<<<<<<<< HEAD:tests/benchmarks/scale.py
    """Measure and print a table in Markdown."""
========
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are ended
>>>>>>>> mlflowrate:tests/benchmarks/nodes.py
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--runs", type=Path, help="use this folder, filled already, and keep it")
    parser.add_argument("--again", type=int, default=3, help="times that plan, status and list are repeated")
    options = parser.parse_args()
    if options.runs:
        measure(options.runs.resolve(), options.again)
        return
    with tempfile.TemporaryDirectory(prefix="made-up-") as name:
        folder = StudyFolder(Path(name), made_up_study.NAME)
        begun = time.perf_counter()
        count = made_up_study.write(folder, made_up_study.study(options.trials))
        print(f"{count} made-up trials written in {time.perf_counter() - begun:.0f} s", flush=True)
        measure(folder.runs, options.again)


def measure(runs: Path, again: int) -> None:
    """Run every command on the made-up study in ``runs`` and print what it took."""
    folder = StudyFolder(runs, made_up_study.NAME)
    count = sum(1 for _ in folder.path.glob("trials/*.journal"))
    print(f"hypergrad-study {__version__}, {count} made-up trials, {os.cpu_count()} CPUs: {_processor()}\n")
    print("| command | wall, s | processor, s | memory, MB | goal |\n|---|---|---|---|---|", flush=True)
    folder.summary.unlink(missing_ok=True)
    row("first status", cost("status", made_up_study.NAME, runs=runs), "")
    file = str(folder.study_file)
    for command, goal in GOALS.items():
        arguments = {"plan": [file], "list": []}.get(command, [made_up_study.NAME])
        times = 1 if command == "report" else again
        best = min((cost(command, *arguments, runs=runs) for _ in range(times)), key=lambda found: found.wall)
        row(command, best, f"{goal:g} s, {GOAL_MEGABYTES} MB")
    with tempfile.TemporaryDirectory() as empty:
        row("plan before the first run", cost("plan", file, runs=Path(empty)), f"{GOALS['plan']:g} s")


def row(name: str, found: Cost, goal: str) -> None:
    """Print a line of the table."""
    print(
        f"| {name} | {found.wall:.1f} | {found.processor:.1f} | {found.megabytes:.0f} | {goal} |", flush=True
    )


def cost(*arguments: str, runs: Path) -> Cost:
    """Run a command to its end; its memory is the largest sum of its processes that was seen, every 20 ms."""
    command = [sys.executable, "-m", "study", *arguments, "--runs", str(runs)]
    begun = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    peak = 0
    usage = None
    while usage is None:
        time.sleep(0.02)
        peak = max(peak, _memory(process))
        ended, status, resources = os.wait4(process.pid, os.WNOHANG)
        if ended:
            usage = resources
    wall = time.perf_counter() - begun
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(arguments)} failed: {process.stderr.read()}")
    peak = max(peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
    return Cost(wall, usage.ru_utime + usage.ru_stime, peak / 1e6)


<<<<<<<< HEAD:tests/benchmarks/scale.py
def _memory(process: psutil.Process) -> int:
    total = 0
    for each in [process, *_children(process)]:
        try:
            total += each.memory_info().rss
        except psutil.Error:
            continue
    return total


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
    return names[0] if names else "unknown processor"
========
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
        for style, label in styles.values()
    ]
    figure.legend(handles=keys, loc="outside upper center", ncols=2, frameon=False)
    figure.savefig(path, dpi=110)
>>>>>>>> mlflowrate:tests/benchmarks/nodes.py


if __name__ == "__main__":
    main()
