"""Records of many trials, from a summary of the journals of those that have ended.

A study may have 100,000 journals, gigabytes in all, and most commands only ask how trials ended and what
was measured of them. The summary, ``summary.npz`` in the study's folder, keeps that of every trial that has
ended: a row per trial, in columns. It is never the truth. A row counts only while its journal has the same
size and time of last change, and if the same code measured the trial for the same threshold. All other
journals are read. Without a summary, or with a damaged one, all are read.

Epochs are read from a journal when they are first used, and as far as the journal went when its record was
read. So records stay as they were read while a study runs on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np
from numpy.typing import NDArray

from study.config.trial import Trial
from study.storage import journal, records
from study.storage.records import EpochRecord, Status, TrialRecord
from study.storage.trial_files import JournalOnDisk

if TYPE_CHECKING:
    from study.storage.study_folder import StudyFolder

FORMAT = 1
STATUSES: tuple[Status, ...] = get_args(Status)
"""A column of statuses holds places in this tuple."""
YOUNG_NS = 2 * 10**9
"""A journal that changed so shortly ago may change again without a new time of last change."""

_NUMBERS = ("started_ms", "resumed_ms", "ended_ms", "last_ms", "iterations", "epoch_length")
_TYPES = {"status": "u1", "attempt": "U12", "details": "i4", **dict.fromkeys(_NUMBERS, "i8")}
_TYPES |= dict.fromkeys(("seconds", "best_val_loss", "threshold"), "f8")
_DETAILS = ("machine", "repeatable", "notes", "run", "suspect", "error")
"""What many trials have in common; a row names its place in a list of the different ones."""

Column = NDArray[Any]


@dataclass(frozen=True)
class Measures:
    """What is measured of every trial.

    Args:
        names: Names of the measures.
        of: Returns those of a record that there are, for the trial's threshold; all are finite.
        code: Files of the code that measures; when they change, everything is measured anew.
    """

    names: tuple[str, ...]
    of: Callable[[TrialRecord, float | None], Mapping[str, float]]
    code: tuple[Path, ...]

    @property
    def columns(self) -> list[str]:
        """Names of the columns that hold the measures."""
        return [f"measured.{name}" for name in self.names]

    @cached_property
    def version(self) -> str:
        """What identifies the code that makes a summary."""
        own = [Path(str(module.__file__)) for module in (journal, records)]
        digest = hashlib.sha256()
        for path in (Path(__file__), *own, *self.code):
            digest.update(path.read_bytes())
        return f"{FORMAT} {digest.hexdigest()}"


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
        details: What ``columns["details"]`` counts.
        names: Names of the measures.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        folder: StudyFolder,
        columns: dict[str, Column],
        details: Sequence[str],
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
        """Return the records with one of these statuses."""
        wanted = np.isin(self.columns["status"], [STATUSES.index(status) for status in statuses])
        return [self._one(row) for row in np.flatnonzero(wanted).tolist()]

    def whole(self, row: int) -> TrialRecord:
        """Return the record of a trial with its epochs, from the part of its journal that was read.

        Raises:
            ChangedJournalError: The journal no longer has the same epochs there.
            OSError: The journal cannot be read.
        """
        trial, path = self.trials[row], self._folder.journal(self.trials[row])
        record = _read(path, trial, self.columns["size"][row].item())
        for name in ("attempt", "iterations", "last_ms"):
            if self.columns[name][row] != np.array(getattr(record, name), dtype=_TYPES[name]):
                raise ChangedJournalError(
                    f"{path}: this journal has lost epochs since the study was loaded; load the study again"
                )
        return record

    def measures(self, row: int, threshold: float | None) -> Mapping[str, float] | None:
        """Return the measures that a trial has; None if they were taken for another threshold."""
        if not self.columns["iterations"][row]:
            return {}
        if not _same(self.columns["threshold"][row], math.nan if threshold is None else threshold):
            return None
        values = ((name, float(self.columns[f"measured.{name}"][row])) for name in self._names)
        return {name: value for name, value in values if value == value}

    def is_measured_for(self, thresholds: Column) -> bool:
        """Return whether each trial was measured for its threshold in ``thresholds``; NaN is none."""
        same = _same(self.columns["threshold"], thresholds) | (self.columns["iterations"] == 0)
        return bool(same.all())

    @cached_property
    def _records(self) -> list[TrialRecord]:
        rows = zip(*(self.columns[name].tolist() for name in _TYPES), strict=True)
        return [self._record(row, values) for row, values in enumerate(rows)]

    @cached_property
    def _parsed(self) -> list[dict[str, Any]]:
        return [_parsed(text) for text in self._details]

    def _one(self, row: int) -> StoredRecord:
        return self._record(row, [self.columns[name][row].item() for name in _TYPES])

    def _record(self, row: int, entries: Sequence[Any]) -> StoredRecord:
        values = dict(zip(_TYPES, entries, strict=True))
        del values["threshold"]
        values["status"] = STATUSES[values["status"]]
        if values["best_val_loss"] != values["best_val_loss"]:
            values["best_val_loss"] = None
        values |= self._parsed[values.pop("details")]
        return StoredRecord(row, self, values | {"trial": self.trials[row]})


def read(
    folder: StudyFolder,
    trials: Sequence[Trial],
    thresholds: Sequence[float | None],
    measures: Measures,
    ahead: Sequence[Trial] = (),
) -> StoredRecords:
    """Return the records of trials, and keep what is new of those that have ended in the summary.

    Args:
        folder: The study's folder.
        trials: The trials.
        thresholds: Of each, the training loss that it is timed to.
        measures: What is measured of each.
        ahead: Further trials that have no journal yet.

    Raises:
        OSError: A journal exists and cannot be read.
        OtherTrialError: A journal is that of another trial.
    """
    count = len(trials)
    columns = {name: np.zeros(count + len(ahead), kind) for name, kind in _TYPES.items()}
    columns |= {name: np.full(count + len(ahead), math.nan) for name in measures.columns}
    columns["best_val_loss"][:] = columns["threshold"][:] = math.nan
    columns["size"] = np.full(count + len(ahead), -1)
    wanted = np.array([math.nan if limit is None else limit for limit in thresholds], dtype=np.float64)
    keys = np.array([trial.key for trial in trials], dtype="S16")
    now = time.time_ns()
    size, changed = _stamps(folder, trials)
    columns["size"][:count] = size
    details = {_details(TrialRecord(trial)): 0 for trial in [*trials, *ahead][:1]}
    kept = _load(folder.summary, measures) or {"key": keys[:0]}
    place = _places(kept["key"], keys)
    known = np.flatnonzero(place >= 0)
    if len(known):
        rows = place[known]
        same = (kept["size"][rows] == size[known]) & (kept["changed"][rows] == changed[known])
        same &= _same(kept["threshold"][rows], wanted[known])
        known, rows = known[same], rows[same]
        texts = [details.setdefault(text, len(details)) for text in kept["texts"].tolist()]
        for name in (*_TYPES, *measures.columns):
            columns[name][known] = kept[name][rows]
        columns["details"][known] = np.array(texts, dtype="i4")[kept["details"][rows]]
    is_kept = np.zeros(count, dtype=bool)
    is_kept[known] = True
    new = 0
    for row in np.flatnonzero(~is_kept & (size >= 0)).tolist():
        record = _read(folder.journal(trials[row]), trials[row], size[row].item())
        _fill(columns, row, record, wanted[row], details)
        for name, value in measures.of(record, thresholds[row]).items():
            columns[f"measured.{name}"][row] = value
        if record.is_final and len(record.attempt) <= 12 and changed[row] < now - YOUNG_NS:
            is_kept[row] = True
            new += 1
    if new:
        found = {name: column[:count][is_kept] for name, column in columns.items()}
        found |= {"key": keys[is_kept], "size": size[is_kept], "changed": changed[is_kept]}
        _save(
            folder.summary, found | {"texts": np.array(list(details)), "version": np.array(measures.version)}
        )
    return StoredRecords([*trials, *ahead], folder, columns, list(details), measures.names)


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


def _stamps(folder: StudyFolder, trials: Sequence[Trial]) -> tuple[Column, Column]:
    """Return the size of every journal in bytes, −1 for none, and when it changed, in nanoseconds."""
    sizes, times = [-1] * len(trials), [0] * len(trials)
    place = folder.journal_of("")
    before, after = f"{place.parent}{os.sep}", place.name
    for row, trial in enumerate(trials):
        try:
            found = os.stat(f"{before}{trial.key}{after}")
        except FileNotFoundError:
            continue
        sizes[row], times[row] = found.st_size, found.st_mtime_ns
    return np.array(sizes, dtype="i8"), np.array(times, dtype="i8")


class _Beginning(JournalOnDisk):
    """The first bytes of a journal. Any beginning of a journal can be read as a journal."""

    def __init__(self, path: Path, length: int) -> None:
        super().__init__(path)
        self._length = length

    def read(self, offset: int = 0) -> bytes:
        """Return the bytes from ``offset`` to the end of this beginning."""
        return super().read(offset)[: max(0, self._length - offset)]


def _read(path: Path, trial: Trial, length: int) -> TrialRecord:
    """Return a trial's record from the first ``length`` bytes of its journal."""
    return journal.read(_Beginning(path, length), trial)


def _places(kept: Column, keys: Column) -> Column:
    """Return where each key is among those kept; −1 for nowhere."""
    if np.array_equal(kept, keys):
        return np.arange(len(keys))
    places = {key: place for place, key in enumerate(kept.tolist())}
    return np.array([places.get(key, -1) for key in keys.tolist()], dtype=np.int64)


def _fill(
    columns: dict[str, Column], row: int, record: TrialRecord, threshold: float, details: dict[str, int]
) -> None:
    columns["status"][row] = STATUSES.index(record.status)
    for name in (*_NUMBERS, "seconds", "attempt"):
        columns[name][row] = getattr(record, name)
    if record.best_val_loss is not None:
        columns["best_val_loss"][row] = record.best_val_loss
    columns["threshold"][row] = threshold
    columns["details"][row] = details.setdefault(_details(record), len(details))


def _details(record: TrialRecord) -> str:
    return json.dumps({name: getattr(record, name) for name in _DETAILS}, sort_keys=True)


def _parsed(text: str) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(text)
    return details | {"notes": tuple(details["notes"])}


def _same(one: Any, other: Any) -> Any:
    return (one == other) | ((one != one) & (other != other))


def _load(path: Path, measures: Measures) -> dict[str, Column] | None:
    """Return the columns of a summary; None if there is none, other code made it, or it is damaged."""
    names = ("key", "size", "changed", *_TYPES, *measures.columns)
    try:
        with np.load(path, allow_pickle=False) as file:
            if file["version"].item() != measures.version:
                return None
            found = {name: file[name] for name in (*names, "texts")}
        whole = all(found[name].shape == found["key"].shape for name in names)
        fits = bool(
            (found["status"] < len(STATUSES)).all() and (found["details"] < len(found["texts"])).all()
        )
        for text in found["texts"].tolist():
            fits &= _parsed(text).keys() == set(_DETAILS)
        return found if whole and fits else None
    except Exception:  # whatever a damaged file makes of itself
        return None


def _save(path: Path, columns: dict[str, Column]) -> None:
    """Write a summary, whole or not at all; do nothing where nothing can be written."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
    with suppress(OSError):
        try:
            with draft.open("wb") as file:
                np.savez(file, allow_pickle=False, **columns)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
