"""``figure1-mlp``: 100 epochs of the paper's six optimizers, side by side, each a pack of three seeds."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

from gpu import curves, datasets
from gpu.harness import Context
from study.config.trial import Trial
from study.training.packed_trainer import PackTraining
from study.workloads import registry

WORKLOAD = "mnist-mlp"
ADAM_BETA = 1e-7
"""The preset figure1-mlp's, as are three seeds and 100 epochs."""


def main(context: Context) -> None:
    """Train all optimizers at once, so that a run cut short leaves equally many epochs of each."""
    seeds, epochs = (range(2), 1) if context.dry else (range(3), 100)
    packs = {
        name: [curves.trial(WORKLOAD, name, seed=seed, epochs=epochs, adam_beta=ADAM_BETA) for seed in seeds]
        for name in (curves.OPTIMIZERS[:2] if context.dry else curves.OPTIMIZERS)
    }
    found = curves.begin(context.results, [trial for trials in packs.values() for trial in trials])
    spawn = multiprocessing.get_context("spawn")
    reports: Queue[Report] = spawn.Queue()
    processes = {
        name: spawn.Process(
            target=_train, args=(trials, context.device.type, context.data, context.dry, reports)
        )
        for name, trials in packs.items()
    }
    for process in processes.values():
        process.start()
    try:
        _collect(processes, found, reports, context)
    finally:
        for process in processes.values():
            process.kill()
            process.join()
    for curve in found.values():
        curves.show(curve)
    short = min(len(curve["alpha"]) for curve in found.values())
    context.results.note(epochs=f"{short} of {epochs} at least")


Report = tuple[str, str, Any]
"""(optimizer, kind, content): ``("adam-sgd", "epoch", [(key, record), …])``; of the kinds ``"data"`` and
``"error"`` the content is a text, of ``"end"`` nothing."""


def _collect(
    processes: dict[str, Any], found: dict[str, Any], reports: Queue[Report], context: Context
) -> None:
    """Record what the processes report until all have ended or the time is over."""
    open_ = set(processes)
    while open_ and context.budget.left:
        try:
            optimizer, kind, content = reports.get(timeout=min(1.0, context.budget.left + 0.01))
        except queue.Empty:
            for optimizer in sorted(open_):
                if processes[optimizer].exitcode is not None:
                    _fail(optimizer, f"the process ended with {processes[optimizer].exitcode}", context)
                    open_.remove(optimizer)
            continue
        if kind == "epoch":
            for key, record in content:
                curves.extend(found[key], record)
            context.results.save(every=1.0)
        elif kind == "data":
            context.results.note(data=content)
        else:
            open_.discard(optimizer)
            if kind == "error":
                _fail(optimizer, content, context)
    context.results.save()


def _fail(optimizer: str, reason: str, context: Context) -> None:
    context.results.errors += 1
    context.results.add("curve", optimizer=optimizer, error=reason)


def _train(trials: list[Trial], device: str, folder: Path | None, dry: bool, reports: Queue[Report]) -> None:
    """Train a pack, in a process of its own, and report each epoch."""
    import torch

    name = trials[0].optimizer
    try:
        torch.set_num_threads(1)
        loaded, source = datasets.mnist(folder, dry=dry)
        if name == curves.OPTIMIZERS[0]:
            reports.put((name, "data", source))
        where = torch.device(device, 0) if device == "cuda" else torch.device(device)
        pack = PackTraining(trials, registry.resolve(WORKLOAD, {}), loaded.to(where), where)
        for epoch in pack.epochs():
            reports.put((name, "epoch", [(trial.key, record) for trial, record in epoch]))
        reports.put((name, "end", None))
    except Exception:
        reports.put((name, "error", traceback.format_exc()[-2000:]))
