"""Turns a trial's full curve into a table, for Parquet and CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from study.storage.records import EpochRecord, TrialRecord


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


CURVES = pa.schema(
    [
        ("key", pa.string()),
        ("workload", pa.string()),
        ("optimizer", pa.string()),
        ("alpha0", pa.float64()),
        ("beta", pa.float64()),
        ("seed", pa.int64()),
        ("iteration", pa.int64()),
        ("alpha", pa.float32()),
        ("train_loss", pa.float32()),
        ("hypergradient", pa.float32()),
    ]
)
"""Columns of the long table of curves, one row per trial and iteration; ``alpha`` is the mean of several."""


def curve_rows(record: TrialRecord) -> pa.Table:
    """Return a trial's rows of the long table: one per iteration, columns ``CURVES``.

    ``optimizer`` is the name in tables and figures. ``beta`` and ``hypergradient`` are null for an optimizer
    that does not learn α.
    """
    count, trial = record.iterations, record.trial
    settings = (trial.key, trial.workload, trial.label, trial.alpha0, trial.beta, trial.seed)
    columns = [
        pa.repeat(pa.scalar(value, field.type), count) for value, field in zip(settings, CURVES, strict=False)
    ]
    columns.append(pa.array(range(1, count + 1)))
    columns += [pa.array(values, pa.float32()) for values in (record.alpha, record.train_loss)]
    fixed = trial.lop is None  # has no hypergradient
    columns.append(pa.nulls(count, pa.float32()) if fixed else pa.array(record.hypergradient, pa.float32()))
    return pa.Table.from_arrays(columns, schema=CURVES)
