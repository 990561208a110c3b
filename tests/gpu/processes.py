"""Single trials in concurrent processes: what the card gives without packs."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gpu import datasets
from gpu.harness import Context
from study.config.trial import Trial

MEMORY_GB = 1.5
"""Of the card, for one process: its context, the data, the trial."""
START_SECONDS = 20.0
"""For the processes to come up; those that are later do not count."""
MEASURE_SECONDS = 1.0
EPOCH = 100
"""Iterations between two looks at the clock."""


def measure(trials: Sequence[Trial], context: Context) -> None:
    """Record the iterations per second of 1, 2, 4, … processes together, up to what the card takes.

    Args:
        trials: What each process trains, one after the other; their budgets do not count.
        context: Of the part.
    """
    wanted = 2 if context.dry else _most(context)
    spawn = multiprocessing.get_context("spawn")
    workers = []
    try:
        for _ in range(wanted):
            ours, theirs = spawn.Pipe()
            arguments = (trials, context.device.type, context.data, context.dry, theirs)
            process = spawn.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            workers.append((process, ours))
        end = time.monotonic() + min(120 if context.dry else START_SECONDS, context.budget.left)
        ready = [ours for _, ours in workers if _answer(ours, end - time.monotonic()) == "ready"]
        context.results.note(processes_started=wanted, processes_ready=len(ready))
        counts = sorted({2**power for power in range(10) if 2**power < len(ready)} | {len(ready)} - {0})
        for index, trial in enumerate(trials):
            for count in counts:
                _measure_together(ready[:count], index, trial, context)
    finally:
        for process, ours in workers:
            ours.close()
            process.kill()
            process.join()


def _measure_together(pipes: Sequence[Connection], index: int, trial: Trial, context: Context) -> None:
    seconds = 0.2 if context.dry else MEASURE_SECONDS
    labels = {"workload": trial.workload, "processes": len(pipes)}
    if not context.budget.has(seconds + 1):
        context.results.add("processes", **labels, skipped="no time was left")
        return
    for pipe in pipes:
        pipe.send((index, seconds))
    answers = [_answer(pipe, seconds + (60 if context.dry else 5)) for pipe in pipes]
    speeds = [speed for speed in answers if isinstance(speed, float)]
    context.results.add("processes", **labels, answered=len(speeds), per_s=sum(speeds))


def _most(context: Context) -> int:
    """Return how many processes to start: two per core, as far as the card's memory holds them."""
    import torch

    free, _ = torch.cuda.mem_get_info(context.device)
    return max(1, min(2 * (os.cpu_count() or 1), int(free / 1e9 / MEMORY_GB)))


def _answer(ours: Connection, seconds: float) -> Any:
    """Return what a process sends within ``seconds``; None if it sends nothing or has ended."""
    try:
        return ours.recv() if ours.poll(max(0.0, seconds)) else None
    except (EOFError, OSError):
        return None


def _work(trials: Sequence[Trial], device: str, folder: Path | None, dry: bool, pipe: Connection) -> None:
    """Answer each (index of a trial, seconds) with its iterations per second over about so long."""
    import torch

    from study.training.trainer import Training
    from study.workloads import registry
    from study.workloads.base import Data

    torch.set_num_threads(1)
    loaded, _ = datasets.mnist(folder, dry=dry)
    rows = (2 if dry else EPOCH) * trials[0].batch_size
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    data = Data(
        loaded.train_inputs[:rows],
        loaded.train_targets[:rows],
        loaded.val_inputs[:100],
        loaded.val_targets[:100],
    ).to(where)
    epochs = []
    for trial in trials:
        endless = replace(trial, epochs=10**6)
        epochs.append(Training(endless, registry.resolve(trial.workload, {}), data, where).epochs())
        next(epochs[-1])
    pipe.send("ready")
    while True:
        try:
            index, seconds = pipe.recv()
        except EOFError:
            return
        begun, iterations = time.monotonic(), 0
        while (taken := time.monotonic() - begun) < seconds:
            iterations += next(epochs[index]).iterations
        pipe.send(iterations / taken)
