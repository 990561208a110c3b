"""Turns a trial's record into MLflow params and metric points, each point once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mlflow.entities import Metric

from study.config.loader import Trial
from study.storage.records import EpochRecord, TrialRecord
from study.tracking import downsample
from study.tracking.mlflow_backend.address import CURVES

EPOCH_CURVES = ("train_loss_epoch", "val_loss", "val_accuracy", "alpha_epoch")


def params(trial: Trial) -> dict[str, Any]:
    """Return a trial's params by name."""
    rule = {} if trial.lop is None else {"rule": trial.rule}
    settings = {"op": trial.op, "lop": trial.lop, **rule, **trial.settings()}
    known = {name: value for name, value in settings.items() if value is not None and value != {}}
    # The UI's parallel coordinates have no logarithmic axis.
    return known | {f"log10_{n}": f"{math.log10(known[n]):.6g}" for n in ("alpha0", "beta") if known.get(n)}


class Sent:
    """The part of a trial that was already sent to MLflow.

    Args:
        points: About how many points of a curve are sent.
    """

    def __init__(self, points: int) -> None:
        self._most = points
        self._epochs = 0
        self._points = dict.fromkeys(CURVES, 0)

    def fresh(self, record: TrialRecord) -> Iterator[Metric]:
        """Yield the points of ``record`` that were not yielded before.

        Args:
            record: The trial's record, which continues the one given before.
        """
        epochs, self._epochs = record.epochs[self._epochs :], len(record.epochs)
        for epoch in epochs:
            yield from _epoch_metrics(epoch)
        if record.budget is None:
            return
        stamps = [(epoch.last_iteration, epoch.time_ms) for epoch in record.epochs]
        closed = record.is_complete or record.status == "pruned"
        for name in CURVES:
            values = getattr(record, name)
            indices = downsample.thin_indices(values, record.budget, closed, self._most)
            fresh, self._points[name] = indices[self._points[name] :], len(indices)
            position = 0
            for index in fresh:
                while stamps[position][0] < index + 1:
                    position += 1
                yield Metric(name, float(values[index]), stamps[position][1], int(index) + 1)


def _epoch_metrics(epoch: EpochRecord) -> Iterator[Metric]:
    for name in EPOCH_CURVES:
        value = float(getattr(epoch, name))
        if math.isfinite(value):
            yield Metric(name, value, epoch.time_ms, epoch.epoch)
