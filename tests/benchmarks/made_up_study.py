"""Fill a folder of runs with a study whose results are MADE UP: nothing is trained.

    python tests/benchmarks/made_up_study.py RUNS [--trials 100000]

For measuring how commands cope with many trials (``scale.py``). The journals are like those of a run,
written by the journal's own writer; the curves are formulas with noise and say nothing about any optimizer.
Every journal's machine says ``made up``. Some trials have diverged, and a few have failed.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from study.config.loader import Study, Trial
from study.storage.journal import Journal
from study.storage.records import Array, EpochRecord
from study.storage.study_folder import StudyFolder

NAME = "made-up"
EPOCHS = 24
ITERATIONS = 12
"""Of an epoch on the digits, whose 1,437 training examples come in batches of 128."""
WORKLOADS = ("digits-logreg", "digits-mlp", "digits-noisy-mlp", "digits-autoencoder", "digits-conv")
FIXED = ("sgd", "adam")
LEARNED = ("sgd-sgd", "sgd-sgdn", "sgd-adam", "adam-sgd", "adam-sgdn", "adam-adam")
ALPHA0, BETA = 10, 8
CONFIGURATIONS = len(WORKLOADS) * ALPHA0 * (len(FIXED) + len(LEARNED) * BETA)
FAILED = 0.002
"""The share of trials that failed."""
MACHINE = {"device": "cpu", "threads": "1", "made up": "yes"}
TRACEBACK = """Traceback (most recent call last):
  File "/made/up/model.py", line 12, in forward
    raise RuntimeError("made up: trial {number} was to fail")
RuntimeError: made up: trial {number} was to fail
"""


def main() -> None:
    """Write the study and say how long it took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the folder of runs, made if absent")
    parser.add_argument(
        "--trials", type=int, default=100_000, help=f"rounded to a multiple of {CONFIGURATIONS}"
    )
    options = parser.parse_args()
    begun = time.perf_counter()
    folder = StudyFolder(options.runs.expanduser().resolve(), NAME)
    count = write(folder, study(options.trials))
    print(f"{count} made-up trials in {folder.path}, written in {time.perf_counter() - begun:.0f} s")


def study(trials: int) -> Study:
    """Return a study of about so many trials."""
    return Study(
        name=NAME,
        description="Made-up results, to measure commands with: no trial was trained",
        workloads=list(WORKLOADS),
        optimizers=[*FIXED, *LEARNED],
        alpha0=[round(10 ** (-4 + 4 * place / (ALPHA0 - 1)), 8) for place in range(ALPHA0)],
        beta=[10.0**-power for power in range(1, BETA + 1)],
        seeds=max(1, round(trials / CONFIGURATIONS)),
        epochs=EPOCHS,
        threshold=0.5,
    )


def write(folder: StudyFolder, made_up: Study) -> int:
    """Write the study's file and all journals; return how many."""
    folder.save_study(made_up)
    trials = made_up.trials()
    folder.journal(trials[0]).parent.mkdir(parents=True, exist_ok=True)
    pieces = [trials[start : start + 500] for start in range(0, len(trials), 500)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(functools.partial(_write_journals, folder), pieces))


def _write_journals(folder: StudyFolder, trials: Sequence[Trial]) -> int:
    for trial in trials:
        _write_journal(folder.journal(trial), trial)
    return len(trials)


class _InMemory:
    """A ``study.storage.trial_files.JournalFile`` that is written to the disk at its end, in one go."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, [b""]

    def read(self, offset: int = 0) -> bytes:
        return b""

    def open(self, length: int) -> None:
        pass

    def append(self, line: bytes) -> None:
        self._lines.append(line)

    def sync(self) -> None:
        pass

    def close(self) -> None:
        self._path.write_bytes(b"".join(self._lines))


def _write_journal(path: Path, trial: Trial) -> None:
    random = np.random.default_rng(int(trial.key, 16))
    alpha, hypergradient, train_loss, diverges = _curves(trial, random)
    fails_after = int(random.integers(EPOCHS)) if random.random() < FAILED else None
    with Journal(_InMemory(path), trial, MACHINE, repeatable=True) as journal:
        for epoch in range(EPOCHS):
            if epoch == fails_after:
                journal.end("failed", TRACEBACK.format(number=trial.seed))
                return
            rows = slice(epoch * ITERATIONS, (epoch + 1) * ITERATIONS)
            broken = diverges is not None and rows.stop >= diverges
            if broken:
                rows = slice(rows.start, diverges)
            loss = float(np.mean(train_loss[rows]))
            journal.epoch(
                EpochRecord(
                    epoch=epoch + 1,
                    first_iteration=rows.start + 1,
                    alpha=alpha[rows],
                    hypergradient=hypergradient[rows],
                    train_loss=train_loss[rows],
                    val_loss=math.nan if broken else loss * float(random.normal(1.1, 0.02)),
                    val_accuracy=math.nan if broken else math.exp(-0.4 * loss),
                    seconds=float(random.normal(0.01, 0.0005)),
                )
            )
            if broken:
                journal.end("diverged")
                return
        journal.end("finished")


def _curves(trial: Trial, random: np.random.Generator) -> tuple[Array, Array, Array, int | None]:
    """Return α, h and the training loss of every iteration, and the iteration at which the trial diverges."""
    count = EPOCHS * ITERATIONS
    steps = np.arange(count)
    best = {"sgd": -1.0, "adam": -2.5}[trial.op] + 0.1 * WORKLOADS.index(trial.workload)
    drift = (
        0.0 if trial.beta is None else (best - math.log10(trial.alpha0)) * 0.08 * (9 + math.log10(trial.beta))
    )
    alpha = trial.alpha0 * 10 ** (drift * (1 - np.exp(-steps / 60)))
    distance = np.log10(alpha) - best
    speed = np.cumsum(0.06 * np.exp(-0.5 * distance**2))
    train_loss = (0.08 + 2.2 * np.exp(-speed)) * random.normal(1.0, 0.06, count)
    hypergradient = random.normal(0, 1e-2, count) if trial.lop else np.zeros(count)
    curves = [values.astype(np.float32) for values in (alpha, hypergradient, train_loss)]
    diverges = None
    if distance[0] > 0.6 and random.random() < 0.7:
        diverges = int(random.integers(2, count // 2))
        curves[2][diverges - 1] = np.inf
    return curves[0], curves[1], curves[2], diverges


if __name__ == "__main__":
    main()
