"""``cifar10-vgg16``: iterations per second by precision beside a bare loop; the paper's six optimizers."""

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

iteration = harness.benchmark("iteration")


def main(context: Context) -> None:
    """Measure the precisions, then train each optimizer for an equal share of the time left."""
    loaded, source = datasets.cifar10(context.pictures, dry=context.dry)
    context.results.note(pictures=source)
    data = loaded.to(context.device)
    workload = registry.resolve(WORKLOAD, {})
    harness.warm_up(context.device)
    for one in PRECISIONS[:1] + PRECISIONS[-1:] if context.dry else PRECISIONS:
        for optimizer in ("adam-adam",) if context.dry else ("adam-adam", "adam"):
            _measure_precision(one, optimizer, workload, data, context)
    _train_optimizers(workload, data, context)


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
    gc.collect()
    if context.device.type == "cuda":
        torch.cuda.empty_cache()


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
