"""The full curve of a trial as a table, for Parquet."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from study.records import EpochRecord, TrialRecord


def curve_table(record: TrialRecord) -> pa.Table:
    """Return every iteration of a trial: iteration, epoch, alpha, hypergradient, train_loss.

    With one α per tensor, columns ``alpha_0``, ``alpha_1`` … hold each.
    """
    epochs = [epoch.epoch for epoch in record.epochs for _ in range(epoch.iterations)]
    columns = {"iteration": range(1, len(epochs) + 1), "epoch": epochs}
    columns |= {name: getattr(record, name) for name in ("alpha", "hypergradient", "train_loss")}
    for index in range(_tensors(record.epochs)):
        parts = [epoch.alpha_tensors[:, index] for epoch in record.epochs if epoch.alpha_tensors is not None]
        columns[f"alpha_{index}"] = [value for part in parts for value in part.tolist()]
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def _tensors(epochs: Sequence[EpochRecord]) -> int:
    first = epochs[0].alpha_tensors
    return 0 if first is None else first.shape[1]
