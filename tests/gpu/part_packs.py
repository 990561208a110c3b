"""Packs of 1 to 1024 members, captured and not, beside the unpacked loop and concurrent processes."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gpu import datasets, harness, processes
from gpu.harness import Context
from study.config.trial import Trial
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import registry
from study.workloads.base import Data

WORKLOADS = ("mnist-logreg", "mnist-mlp")
OPTIMIZER = "adam-adam"
SEEDS = 6
"""Different seeds, so orders of the data, in a pack."""
BATCH = 128
ITERATIONS = {1: 200, 16: 200, 64: 100, 256: 50, 1024: 20}
"""Members, and iterations of each in the epoch that is timed."""
DRY_ITERATIONS = {1: 2, 3: 2}
BUILT_ON_CPU = 16
"""Members of a pack up to which weights are drawn on the CPU, as a study does: 30 ms for each mlp."""
BUILD_SECONDS = 0.005
"""For one member of a larger pack, roughly: a pack that cannot be built in the time left is skipped."""
PROCESS_SECONDS = 32.0
"""Kept for the concurrent processes."""

packs = harness.benchmark("packs")


def main(context: Context) -> None:
    """Measure packs from small to large, then concurrent processes."""
    loaded, source = datasets.mnist(context.data, dry=context.dry)
    context.results.note(data=source, optimizer=OPTIMIZER, batch=BATCH)
    data = loaded.to(context.device)
    harness.warm_up(context.device)
    sizes = DRY_ITERATIONS if context.dry else ITERATIONS
    for name in WORKLOADS:
        _measure_unpacked(name, _cut(data, max(sizes.values())), context)
    for (members, count), name in itertools.product(sizes.items(), WORKLOADS):
        for capture in (True, False):
            labels = {"workload": name, "members": members, "captured": capture}
            if context.budget.left - 2 - BUILD_SECONDS * members < PROCESS_SECONDS and not context.dry:
                context.results.add("pack", **labels, skipped="no time was left")
                continue
            with context.results.attempt("pack", **labels):
                trials, some = _trials(name, members), _cut(data, count)
                try:
                    measured = _measure_pack(trials, some, context, capture=capture)
                except torch.OutOfMemoryError:
                    measured = {"skipped": "the card's memory does not hold it"}
                context.results.add("pack", **labels, **measured)
            _free(context.device)
    del data
    _free(context.device)
    with context.results.attempt("processes"):
        processes.measure([_trials(name, 1)[0] for name in WORKLOADS], context)


def _trials(name: str, members: int) -> list[Trial]:
    """Return members that differ in α₀ and, over the seeds, in the seed; two epochs, the second is timed."""
    return [
        Trial(
            name,
            OPTIMIZER,
            1e-3 * (1 + index / members),
            1e-7,
            seed=index % SEEDS,
            epochs=2,
            batch_size=BATCH,
        )
        for index in range(members)
    ]


def _cut(data: Data, iterations: int) -> Data:
    """Return as many rows as the iterations of an epoch take, and a few to validate on."""
    rows = iterations * BATCH
    return replace(
        data,
        train_inputs=data.train_inputs[:rows],
        train_targets=data.train_targets[:rows],
        val_inputs=data.val_inputs[:500],
        val_targets=data.val_targets[:500],
    )


def _measure_unpacked(name: str, data: Data, context: Context) -> None:
    with context.results.attempt("unpacked", workload=name):
        (trial,) = _trials(name, 1)
        *_, last = Training(trial, registry.resolve(name, {}), data, context.device).epochs()
        context.results.add("unpacked", workload=name, per_s=last.iterations / last.seconds)


def _measure_pack(trials: Sequence[Trial], data: Data, context: Context, *, capture: bool) -> dict[str, Any]:
    """Return trial-iterations per second in the second epoch, and what the pack takes to make and to hold."""
    device, workload = context.device, registry.resolve(trials[0].workload, {})
    if len(trials) > BUILT_ON_CPU:
        workload = replace(workload, build=partial(_build_on, device, workload.build))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    begun = time.monotonic()
    pack = PackTraining(trials, workload, data, device, capture=capture)
    harness.synchronize(device)
    build = time.monotonic() - begun
    *_, records = pack.epochs()
    seconds = sum(record.seconds for _, record in records)
    iterations = sum(record.iterations for _, record in records)
    measured: dict[str, Any] = {
        "per_s": iterations / seconds,
        "ms_per_iteration": 1e3 * seconds / records[0][1].iterations,
        "build_s": build,
        # Of the captured and the other pack these are to agree.
        "train_loss": sum(float(record.train_loss.mean()) for _, record in records) / len(records),
    }
    if device.type == "cuda":
        measured["memory_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    if not capture:
        del pack
        _free(device)
        least = 0.02 if context.dry else 0.3
        seconds = packs.products(trials, workload, data, device, least)
        measured["products_ms"] = None if seconds is None else 1e3 * seconds
    return measured


def _build_on(device: torch.device, build: Callable[[], nn.Module]) -> nn.Module:
    with device:
        return build()


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
