"""What many trials cost: ``python tests/benchmarks/load.py [--trials 500 2000 --planned 100000 --cpus 2]``.

Plans a study of ``--planned`` trials; runs one for each of ``--trials``, of short trials, and watches the
driver's memory; then asks for its status and its report. Prints seconds, megabytes and, for the driver,
megabytes per thousand trials, from a straight line through its resident memory over the trials that had
ended. ``--figure`` draws how all of it grows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from mlflow import MlflowClient

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri

MEGABYTE = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, nargs="+", default=[2000], help="each a multiple of 20")
    parser.add_argument("--planned", type=int, default=100_000)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--figure", type=Path, help="draw seconds and memory over --trials")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        planned = write_study(Path(name), "planned", options.planned)
        say(f"plan of {options.planned} trials", *timed(["plan", str(planned), "--runs", name]))
    measured = [measure(count // 20 * 20, options.cpus) for count in sorted(options.trials)]
    if options.figure:
        draw(measured, options.figure)


def measure(trials: int, cpus: int) -> dict[str, float]:
    """Run a study of ``trials`` trials and look at it; return its figures by what they are of."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = {"trials": trials} | run(write_study(folder, "load", trials), folder, trials, cpus)
        for command in ("status", "report"):
            figures[command], megabytes = timed([command, "load", "--runs", name])
            say(f"{command} of {trials} trials", figures[command], megabytes)
        check_store(folder, trials)
    return figures


def draw(measured: list[dict[str, float]], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    trials = [figures["trials"] for figures in measured]
    for name in ("run", "report", "status"):
        left.plot(trials, [figures[name] for figures in measured], "o-", label=name)
    right.plot(trials, [figures["memory"] for figures in measured], "o-")
    left.set(xlabel="trials", ylabel="seconds")
    right.set(xlabel="trials", ylabel="driver's memory while trials run, MB")
    for axes in (left, right):
        axes.set(xlim=(0, None), ylim=(0, 1.1 * axes.dataLim.y1))
        axes.grid(True, alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(path, dpi=150)


def write_study(folder: Path, name: str, trials: int) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"name: {name}\nworkloads: digits-logreg\noptimizers: [sgd, sgd-sgd]\n"
        f"alpha0: {[round(0.01 * n, 2) for n in range(1, 11)]}\nbeta: 1e-3\n"
        f"seeds: {trials // 20}\nepochs: 2\nthreshold: 1.0\n"
    )
    return path


def run(path: Path, folder: Path, count: int, cpus: int) -> dict[str, float]:
    """Run the study; print and return how long it took and how the driver's memory grew."""
    command = [sys.executable, "-m", "study", "run", str(path), "--runs", str(folder)]
    begun = time.perf_counter()
    driver = psutil.Popen([*command, "--cpus", str(cpus)], stdout=subprocess.DEVNULL)
    home = StudyFolder(folder, "load")
    samples = []
    while driver.poll() is None:
        ended = sum(1 for _ in home.path.glob("trials/*.journal"))
        samples.append((ended, driver.memory_info().rss / MEGABYTE))
        time.sleep(2)
    seconds = time.perf_counter() - begun
    # The report, which loads figures and all curves, comes after the last trial.
    trials, memory = np.array([sample for sample in samples if 50 < sample[0] < count]).T
    slope = np.polyfit(trials / 1000, memory, 1)[0] if len(trials) >= 10 else np.nan
    print(
        f"run of {count} trials on {cpus} CPUs: {seconds:.0f} s, {count / seconds:.1f} trials/s, exit "
        f"code {driver.returncode}; driver {memory[0]:.0f} MB to {memory[-1]:.0f} MB, "
        f"{slope:+.1f} MB per 1000 trials while they ran",
        flush=True,
    )
    return {"run": seconds, "memory": float(np.median(memory))}


def timed(arguments: list[str]) -> tuple[float, float]:
    """Return the seconds and the peak megabytes of a command."""
    begun = time.perf_counter()
    process = psutil.Popen([sys.executable, "-m", "study", *arguments], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return time.perf_counter() - begun, peak / MEGABYTE


def say(what: str, seconds: float, megabytes: float) -> None:
    print(f"{what}: {seconds:.1f} s, {megabytes:.0f} MB", flush=True)


def check_store(folder: Path, count: int) -> None:
    """Say whether MLflow has every trial once, finished, with a threshold or an outcome that says why not."""
    client = MlflowClient(tracking_uri=embedded_uri(folder))
    experiment = client.get_experiment_by_name("load")
    assert experiment is not None
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment.experiment_id], "tags.role = 'trial'", max_results=1000, page_token=token
        )
        runs += page
        token = page.token
        if not token:
            break
    keys = {trial.key for trial in load_study(folder / "load.yaml").trials()}
    consistent = (
        len(runs) == count
        and {run.data.tags["trial_key"] for run in runs} == keys
        and all(run.info.status == "FINISHED" and run.data.tags["outcome"] for run in runs)
    )
    print(f"MLflow: {len(runs)} runs, {'consistent' if consistent else 'NOT CONSISTENT'}")


if __name__ == "__main__":
    main()
