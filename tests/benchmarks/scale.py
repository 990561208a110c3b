"""What the commands take on a study of many trials: ``python tests/benchmarks/scale.py [--trials 100000]``.

Fills a folder with a study whose results are MADE UP (``made_up_study.py``), runs the commands on it, each
as a process of its own, and prints wall-clock seconds, processor seconds and the peak memory of its processes
together, beside the goals. The "first status" reads every journal. The commands after it find the summary
that it wrote.
"""

from __future__ import annotations

import argparse
import os
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
    """Measure and print a table in Markdown."""
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


if __name__ == "__main__":
    main()
