"""Points per second into MLflow: ``python tests/benchmarks/tracking.py [--uri URI] [--trials 30]``.

Replays made-up trials of 9380 iterations (20 epochs of MNIST), each whole and at once, as a study does whose
trials have ended. Without ``--uri`` into SQLite in a temporary folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from study.config.loader import Study, Trial
from study.storage.journal import Journal, read
from study.storage.records import EpochRecord, TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri
from study.tracking.mlflow_backend.tracker import MlflowTracker

EPOCHS, ITERATIONS = 20, 469


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uri", help="tracking URI of a server; SQLite if not given")
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.uri, options.trials)


def measure(folder: Path, uri: str | None, count: int) -> None:
    study = Study(
        name=f"tracking-benchmark-{int(time.time())}",
        workloads=["mnist-logreg"],
        optimizers=["adam-adam"],
        alpha0=[0.001],
        beta=1e-7,
        seeds=count + 1,
        epochs=EPOCHS,
    )
    home = StudyFolder(folder, study.name)
    records = [record(trial, home) for trial in study.trials()]
    tracker = MlflowTracker(study, uri or embedded_uri(folder), home)
    tracker.publish(records.pop())  # what is made on first use is not measured
    begun = time.perf_counter()
    for each in records:
        tracker.publish(each)
    seconds = time.perf_counter() - begun
    points = stored(tracker, records)
    print(
        f"{uri or 'SQLite'}: {count} trials of {EPOCHS * ITERATIONS} iterations, {points} points in "
        f"{seconds:.1f} s: {points / seconds:.0f} points/s, {count / seconds:.1f} trials/s"
    )


def record(trial: Trial, folder: StudyFolder) -> TrialRecord:
    """A trial that ended, through a journal, so with the stamps that it gives."""
    random = np.random.default_rng(trial.seed)
    path = folder.journal(trial)
    with Journal(path, trial, machine={}, repeatable=True) as journal:
        for epoch in range(1, EPOCHS + 1):
            journal.epoch(
                EpochRecord(
                    epoch=epoch,
                    first_iteration=(epoch - 1) * ITERATIONS + 1,
                    alpha=random.normal(1e-3, 1e-5, ITERATIONS),
                    hypergradient=random.normal(0, 1, ITERATIONS),
                    train_loss=random.exponential(1, ITERATIONS),
                    val_loss=0.3,
                    val_accuracy=0.9,
                    seconds=1.0,
                )
            )
        journal.end("finished")
    return read(path, trial)


def stored(tracker: MlflowTracker, records: list[TrialRecord]) -> int:
    """Return how many points the runs of ``records`` have."""
    client = MlflowClient(tracking_uri=tracker.location)
    wanted = {each.trial.key for each in records}
    runs = client.search_runs([tracker.experiment_id], max_results=10000)
    return sum(
        len(client.get_metric_history(run.info.run_id, name))
        for run in runs
        if run.data.tags.get("trial_key") in wanted
        for name in run.data.metrics
    )


if __name__ == "__main__":
    main()
