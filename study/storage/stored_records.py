"""Records of many trials without their epochs, by record and by column.

A study may have 100,000 journals, gigabytes in all, and most commands only ask how trials ended and what
was measured of them. Epochs are read from a journal when they are first used, and as far as the journal went
when its record was read. So records stay as they were read while a study runs on.
``study.storage.summary_file`` makes these records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from study.config.trial import Trial
from study.storage import journal_reader
from study.storage.records import EpochRecord, Status, TrialRecord
from study.storage.trial_files import JournalOnDisk

if TYPE_CHECKING:
    from study.storage.study_folder import StudyFolder

STATUSES: tuple[Status, ...] = get_args(Status)
"""A column of statuses holds places in this tuple."""

_NUMBERS = ("started_ms", "resumed_ms", "ended_ms", "last_ms", "iterations", "epoch_length")
TYPES = {"status": "u1", "attempt": "U12", "details": "i4", **dict.fromkeys(_NUMBERS, "i8")}
TYPES |= dict.fromkeys(("seconds", "best_val_loss", "threshold"), "f8")
"""The columns from which records are made, with their dtypes."""

Column = NDArray[Any]


class ChangedJournalError(OSError):
    """A journal has lost epochs that it had when its record was read."""


class StoredRecord(TrialRecord):
    """A record whose epochs are read from its journal when they are first used."""

    def __init__(self, row: int, table: StoredRecords, values: dict[str, Any]) -> None:
        self.__dict__.update(values, _row=row, _table=table)

    @cached_property
    def epochs(self) -> tuple[EpochRecord, ...]:
        """The epochs that the journal had when the record was read.

        Raises:
            ChangedJournalError: The journal no longer has them.
            OSError: The journal cannot be read.
        """
        table: StoredRecords = self.__dict__["_table"]
        return table.whole(self.__dict__["_row"]).epochs if self.iterations else ()

    def measures(self, threshold: float | None) -> Mapping[str, float] | None:
        """Return what was measured of the trial, unless that was for another threshold."""
        table: StoredRecords = self.__dict__["_table"]
        return table.measures(self.__dict__["_row"], threshold)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle it as a record with its epochs: other processes have no table."""
        return TrialRecord, tuple(getattr(self, field.name) for field in fields(TrialRecord))


class StoredRecords(Sequence[TrialRecord]):
    """The records of trials, without their epochs, by record and by column.

    Args:
        trials: The trials.
        folder: The study's folder.
        columns: By name, an entry per trial: ``status``, a place in ``STATUSES``; ``started_ms``,
            ``resumed_ms``, ``ended_ms``, ``last_ms``, ``iterations``, ``epoch_length``, ``seconds`` and
            ``best_val_loss`` as of ``TrialRecord``; ``size``, the bytes of the journal when it was read, −1
            for none; ``threshold``, for which the trial was measured; and the measures as
            ``measured.NAME``. NaN is none.
        details: What many trials have in common, as arguments of ``TrialRecord``; ``columns["details"]`` has
            the place of each trial's.
        names: Names of the measures.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        folder: StudyFolder,
        columns: dict[str, Column],
        details: Sequence[Mapping[str, Any]],
        names: Sequence[str],
    ) -> None:
        self.trials, self.columns = trials, columns
        self._folder, self._details, self._names = folder, details, names

    def __len__(self) -> int:
        return len(self.trials)

    @overload
    def __getitem__(self, place: int) -> TrialRecord: ...
    @overload
    def __getitem__(self, place: slice) -> StoredRecords: ...
    def __getitem__(self, place: int | slice) -> TrialRecord | StoredRecords:
        if isinstance(place, slice):
            columns = {name: column[place] for name, column in self.columns.items()}
            return StoredRecords(self.trials[place], self._folder, columns, self._details, self._names)
        if "_records" not in self.__dict__:
            return self._one(place)  # does not make all the others
        return self._records[place]

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records)

    def having(self, *statuses: Status) -> list[TrialRecord]:
        """Return the records with one of these statuses, in the order of the trials.

        Args:
            statuses: At least one.
        """
        wanted = np.isin(self.columns["status"], [STATUSES.index(status) for status in statuses])
        return [self._one(row) for row in np.flatnonzero(wanted).tolist()]

    def whole(self, row: int) -> TrialRecord:
        """Return the record of a trial with its epochs, from the part of its journal that was read.

        Args:
            row: The trial's place.

        Raises:
            ChangedJournalError: The journal no longer has the same epochs there.
            OSError: The journal cannot be read.
        """
        trial, path = self.trials[row], self._folder.journal(self.trials[row])
        record = read_beginning(path, trial, self.columns["size"][row].item())
        for name in ("attempt", "iterations", "last_ms"):
            if self.columns[name][row] != np.array(getattr(record, name), dtype=TYPES[name]):
                raise ChangedJournalError(
                    f"{path}: this journal has lost epochs since the study was loaded; load the study again"
                )
        return record

    def measures(self, row: int, threshold: float | None) -> Mapping[str, float] | None:
        """Return the measures that a trial has; None if they were taken for another threshold.

        Args:
            row: The trial's place.
            threshold: The training loss that it is timed to; None for none.
        """
        if not self.columns["iterations"][row]:
            return {}
        if not same(self.columns["threshold"][row], math.nan if threshold is None else threshold):
            return None
        values = ((name, float(self.columns[f"measured.{name}"][row])) for name in self._names)
        return {name: value for name, value in values if value == value}

    def is_measured_for(self, thresholds: Column) -> bool:
        """Return whether the trials were measured for these thresholds.

        Args:
            thresholds: The threshold of each trial; NaN for none.
        """
        is_measured = same(self.columns["threshold"], thresholds) | (self.columns["iterations"] == 0)
        return bool(is_measured.all())

    @cached_property
    def _records(self) -> list[TrialRecord]:
        rows = zip(*(self.columns[name].tolist() for name in TYPES), strict=True)
        return [self._record(row, values) for row, values in enumerate(rows)]

    def _one(self, row: int) -> StoredRecord:
        return self._record(row, [self.columns[name][row].item() for name in TYPES])

    def _record(self, row: int, entries: Sequence[Any]) -> StoredRecord:
        values = dict(zip(TYPES, entries, strict=True))
        del values["threshold"]
        values["status"] = STATUSES[values["status"]]
        if values["best_val_loss"] != values["best_val_loss"]:
            values["best_val_loss"] = None
        values |= self._details[values.pop("details")]
        return StoredRecord(row, self, values | {"trial": self.trials[row]})


def trials_of(found: Sequence[TrialRecord]) -> Sequence[Trial]:
    """Return the trials of records."""
    return found.trials if isinstance(found, StoredRecords) else [record.trial for record in found]


def columns_of(found: Sequence[TrialRecord]) -> Mapping[str, Column]:
    """Return ``status``, ``ended_ms``, ``last_ms``, ``started_ms`` and ``best_val_loss`` of records."""
    if isinstance(found, StoredRecords):
        return found.columns
    losses = [math.nan if record.best_val_loss is None else record.best_val_loss for record in found]
    columns: dict[str, Column] = {"best_val_loss": np.array(losses, dtype="f8")}
    columns["status"] = np.array([STATUSES.index(record.status) for record in found], dtype="u1")
    for name in ("started_ms", "ended_ms", "last_ms"):
        columns[name] = np.array([getattr(record, name) for record in found], dtype="i8")
    return columns


class _Beginning(JournalOnDisk):
    """The first bytes of a journal. Any beginning of a journal can be read as a journal."""

    def __init__(self, path: Path, length: int) -> None:
        super().__init__(path)
        self._length = length

    def read(self, offset: int = 0) -> bytes:
        """Return the bytes from ``offset`` to the end of this beginning."""
        return super().read(offset)[: max(0, self._length - offset)]


def read_beginning(path: Path, trial: Trial, length: int) -> TrialRecord:
    """Return a trial's record from the first bytes of its journal.

    Args:
        path: The journal.
        trial: The trial.
        length: How many bytes.

    Raises:
        OSError: The journal cannot be read.
        OtherTrialError: The journal is that of another trial.
    """
    return journal_reader.read(_Beginning(path, length), trial)


def same(one: Any, other: Any) -> Any:
    """Return where two columns, or two numbers, are equal; NaN equals NaN."""
    return (one == other) | ((one != one) & (other != other))
