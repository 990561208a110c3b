"""``cifar10-vgg16``: iterations per second by precision beside a bare loop; packs; the paper's optimizers."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import Any

import torch

from gpu import curves, datasets, harness, precision
from gpu.harness import Context
from gpu.precision import PRECISIONS, Precision
from study.config.trial import Trial
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import registry
from study.workloads.base import Data, Workload

WORKLOAD = "cifar10-vgg16"
ADAM_BETA = 1e-8
"""The preset figure1-vgg's."""
RUNS_PRECISION = PRECISIONS[2]
"""Of the six optimizers' runs."""
EPOCHS = 200
"""The preset's budget, far beyond what the minutes here give."""
MEMBERS, SEEDS = 16, 4
"""Of a pack, and how many different seeds they have."""
PACKS = (("bf16", False), ("bf16", True), ("float32", False))
"""Precision of a pack, and whether its iterations are captured."""
PACK_SECONDS = 60.0
"""Kept for the six optimizers: a pack that begins later is skipped."""

iteration = harness.benchmark("iteration")


def main(context: Context) -> None:
    """Measure the precisions and packs, then train each optimizer for an equal share of the time left."""
    loaded, source = datasets.cifar10(context.pictures, dry=context.dry)
    context.results.note(pictures=source)
    data = loaded.to(context.device)
    workload = registry.resolve(WORKLOAD, {})
    harness.warm_up(context.device)
    for one in PRECISIONS[:1] + PRECISIONS[-1:] if context.dry else PRECISIONS:
        for optimizer in ("adam-adam",) if context.dry else ("adam-adam", "adam"):
            _measure_precision(one, optimizer, workload, data, context)
    _measure_packs(workload, data, context)
    _train_optimizers(workload, data, context)


def _measure_packs(workload: Workload, data: Data, context: Context) -> None:
    """Record trial-iterations per second of packs, and how many times that of float32 trials alone it is."""
    members, batch, count = (2, 4, 2) if context.dry else (MEMBERS, 128, 30)
    rows = count * batch
    some = Data(data.train_inputs[:rows], data.train_targets[:rows], *_few(data, context))
    budget = {"epochs": 2, "batch_size": batch}  # the second is timed
    alone = None
    with context.results.attempt("pack", members=1):
        trial = Trial(WORKLOAD, "adam-adam", 1e-3, ADAM_BETA, seed=0, **budget)
        *_, last = Training(trial, workload, some, context.device).epochs()
        alone = last.iterations / last.seconds
        context.results.add("pack", members=1, precision="float32", captured=False, per_s=alone, x_alone=1.0)
    for computing, capture in PACKS[:1] if context.dry else PACKS:
        labels = {"members": members, "precision": computing, "captured": capture}
        if context.budget.left < PACK_SECONDS and not context.dry:
            context.results.add("pack", **labels, skipped="no time was left")
            continue
        trials = [
            Trial(
                WORKLOAD,
                "adam-adam",
                1e-3 * (1 + index / members),
                ADAM_BETA,
                seed=index % SEEDS,
                precision=computing,
                **budget,
            )
            for index in range(members)
        ]
        with context.results.attempt("pack", **labels):
            try:
                *_, records = PackTraining(trials, workload, some, context.device, capture=capture).epochs()
            except torch.OutOfMemoryError:
                context.results.add("pack", **labels, skipped="the card's memory does not hold it")
                continue
            seconds = sum(record.seconds for _, record in records)
            per_s = sum(record.iterations for _, record in records) / seconds
            loss = sum(float(record.train_loss.mean()) for _, record in records) / members
            x_alone = None if alone is None else per_s / alone
            context.results.add("pack", **labels, per_s=per_s, x_alone=x_alone, train_loss=loss)
        _free(context)


def _few(data: Data, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
    count = 16 if context.dry else 500
    return data.val_inputs[:count], data.val_targets[:count]


def _free(context: Context) -> None:
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


def _measure_precision(
    one: Precision, optimizer: str, workload: Workload, data: Data, context: Context
) -> None:
    """Record iterations per second of the study's loop and of a bare one."""
    batch, count = (4, 2) if context.dry else (128, 150)
    labels = {"precision": one.name, "optimizer": optimizer}
    budget = {"seed": 0, "iterations": count, "batch_size": batch}
    trial = Trial(WORKLOAD, optimizer, 1e-3, ADAM_BETA, **budget)
    some = replace(data, val_inputs=data.val_inputs[:16], val_targets=data.val_targets[:16])
    adapted = precision.adapted(workload, one)
    with context.results.attempt("iteration", **labels), precision.in_use(one):
        warm = replace(trial, iterations=max(1, count // 5))
        list(Training(warm, adapted, some, context.device).epochs())
        under_way = Training(trial, adapted, some, context.device)
        records = list(under_way.epochs())
        studied = sum(record.iterations for record in records) / sum(record.seconds for record in records)
        iteration.bare_loop(warm, adapted, some, context.device)
        bare = count / iteration.bare_loop(trial, adapted, some, context.device)
        context.results.add(
            "iteration",
            **labels,
            per_s=studied,
            bare_per_s=bare,
            x_bare=bare / studied,
            loss=float(records[-1].train_loss[-1]),
            switches=under_way.parts()[0].switches,
        )
    _free(context)


def _train_optimizers(workload: Workload, data: Data, context: Context) -> None:
    epochs, batch = (1, 16) if context.dry else (EPOCHS, 128)
    context.results.note(runs_precision=RUNS_PRECISION.name)
    adapted = precision.adapted(workload, RUNS_PRECISION)
    trials = [
        curves.trial(WORKLOAD, name, seed=0, epochs=epochs, adam_beta=ADAM_BETA, batch=batch)
        for name in (curves.OPTIMIZERS[:2] if context.dry else curves.OPTIMIZERS)
    ]
    for index, trial in enumerate(trials):
        share = context.budget.left / (len(trials) - index)
        labels = {"optimizer": trial.optimizer}
        with context.results.attempt("curve", **labels), precision.in_use(RUNS_PRECISION):
            (curve,) = curves.begin(context.results, [trial]).values()
            under_way = Training(trial, adapted, data, context.device)
            _train(under_way, curve, share, context)
            curve["switches"] = under_way.parts()[0].switches
            curves.show(curve)


def _train(under_way: Training, curve: dict[str, Any], share: float, context: Context) -> None:
    """Train for ``share`` seconds, and no epoch that would end after them."""
    end = time.monotonic() + share
    longest = 0.0
    epochs = under_way.epochs()
    while time.monotonic() + longest < end:
        begun = time.monotonic()
        record = next(epochs, None)
        if record is None:
            break
        curves.extend(curve, record)
        context.results.save()
        longest = max(longest, time.monotonic() - begun)
