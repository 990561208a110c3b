"""Reads records of trials with the help of a summary, so that few journals have to be read.

The summary, ``summary.npz`` in the study's folder, says how each trial that has ended did so, and what was
measured of it: a row per trial, in columns. It is never the truth. A row counts only while its journal has
the same size and time of last change, and if the same code measured the trial for the same threshold. All
other journals are read. Without a summary, or with a damaged one, all are read.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from study.config.trial import Trial
from study.storage import journal, journal_reader, records, stored_records, trial_files
from study.storage.records import TrialRecord
from study.storage.stored_records import STATUSES, TYPES, Column, StoredRecords, read_beginning, same

if TYPE_CHECKING:
    from study.storage.study_folder import StudyFolder

FORMAT = 1
YOUNG_NS = 2 * 10**9
"""A journal that changed so shortly ago may change again without a new time of last change."""

_COPIED = [name for name in TYPES if name not in ("status", "details", "best_val_loss", "threshold")]
"""Columns that hold what the record's attribute of that name says."""
_DETAILS = ("machine", "repeatable", "notes", "run", "suspect", "error")
"""What many trials have in common; a row names its place in a list of the different ones, as JSON."""


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
        """Identifies the code that makes a summary."""
        modules = (stored_records, journal, journal_reader, records, trial_files)
        own = [Path(str(module.__file__)) for module in modules]
        digest = hashlib.sha256()
        for path in (Path(__file__), *own, *self.code):
            digest.update(path.read_bytes())
        return f"{FORMAT} {digest.hexdigest()}"


def read_records(
    folder: StudyFolder,
    trials: Sequence[Trial],
    thresholds: Sequence[float | None],
    measures: Measures,
    ahead: Sequence[Trial] = (),
) -> StoredRecords:
    """Return the records of trials, and add those that have ended since to the summary.

    Args:
        folder: The study's folder.
        trials: The trials.
        thresholds: For each trial, the training loss that it is timed to; None for none.
        measures: What is measured of each trial.
        ahead: Further trials that have no journal yet.

    Raises:
        OSError: A journal exists and cannot be read.
        OtherTrialError: A journal is that of another trial.
    """
    count = len(trials)
    columns = _empty(count + len(ahead), measures)
    wanted = np.array([math.nan if limit is None else limit for limit in thresholds], dtype=np.float64)
    keys = np.array([trial.key for trial in trials], dtype="S16")
    now = time.time_ns()
    size, changed = _stamps(folder, trials)
    columns["size"][:count] = size
    details = {_details(TrialRecord(trial)): 0 for trial in [*trials, *ahead][:1]}
    is_kept = np.zeros(count, dtype=bool)
    if kept := _load(folder.summary, measures):
        known, rows = _current_rows(kept, keys, size, changed, wanted)
        for name in (*TYPES, *measures.columns):
            columns[name][known] = kept[name][rows]
        texts = [details.setdefault(text, len(details)) for text in kept["texts"].tolist()]
        columns["details"][known] = np.array(texts, dtype="i4")[kept["details"][rows]]
        is_kept[known] = True
    is_new = np.zeros(count, dtype=bool)
    for row in np.flatnonzero(~is_kept & (size >= 0)).tolist():
        record = read_beginning(folder.journal(trials[row]), trials[row], size[row].item())
        _fill(columns, row, record, wanted[row], details)
        for name, value in measures.of(record, thresholds[row]).items():
            columns[f"measured.{name}"][row] = value
        is_new[row] = record.is_final and len(record.attempt) <= 12 and changed[row] < now - YOUNG_NS
    if is_new.any():
        is_kept |= is_new
        found = {name: columns[name][:count][is_kept] for name in (*TYPES, *measures.columns)}
        found |= {"key": keys[is_kept], "size": size[is_kept], "changed": changed[is_kept]}
        found |= {"texts": np.array(list(details)), "version": np.array(measures.version)}
        _save(folder.summary, found)
    return StoredRecords([*trials, *ahead], folder, columns, list(map(_parsed, details)), measures.names)


def _empty(count: int, measures: Measures) -> dict[str, Column]:
    """Return the columns of trials that have no journal."""
    columns: dict[str, Column] = {name: np.zeros(count, kind) for name, kind in TYPES.items()}
    columns |= {name: np.full(count, math.nan) for name in measures.columns}
    columns["best_val_loss"][:] = columns["threshold"][:] = math.nan
    columns["size"] = np.full(count, -1)
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


def _places(kept: Column, keys: Column) -> Column:
    """Return where each key is among those kept; −1 for nowhere."""
    if np.array_equal(kept, keys):
        return np.arange(len(keys))
    places = {key: place for place, key in enumerate(kept.tolist())}
    return np.array([places.get(key, -1) for key in keys.tolist()], dtype=np.int64)


def _current_rows(
    kept: Mapping[str, Column], keys: Column, size: Column, changed: Column, thresholds: Column
) -> tuple[Column, Column]:
    """Return the places of the trials whose row still counts, and the places of their rows."""
    place = _places(kept["key"], keys)
    known = np.flatnonzero(place >= 0)
    rows = place[known]
    current = (kept["size"][rows] == size[known]) & (kept["changed"][rows] == changed[known])
    current &= same(kept["threshold"][rows], thresholds[known])
    return known[current], rows[current]


def _fill(
    columns: dict[str, Column], row: int, record: TrialRecord, threshold: float, details: dict[str, int]
) -> None:
    columns["status"][row] = STATUSES.index(record.status)
    for name in _COPIED:
        columns[name][row] = getattr(record, name)
    if record.best_val_loss is not None:
        columns["best_val_loss"][row] = record.best_val_loss
    columns["threshold"][row] = threshold
    columns["details"][row] = details.setdefault(_details(record), len(details))


def _details(record: TrialRecord) -> str:
    return json.dumps({name: getattr(record, name) for name in _DETAILS})


def _parsed(text: str) -> dict[str, Any]:
    """Return what ``_details`` wrote, as arguments of ``TrialRecord``."""
    details: dict[str, Any] = json.loads(text)
    return details | {"notes": tuple(details["notes"])}


def _load(path: Path, measures: Measures) -> dict[str, Column] | None:
    """Return the columns of a summary; None if there is none, other code made it, or it is damaged."""
    names = ("key", "size", "changed", *TYPES, *measures.columns)
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


def _save(path: Path, columns: Mapping[str, Column]) -> None:
    """Write a summary, whole or not at all; do nothing where nothing can be written."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}")
    with suppress(OSError):
        try:
            with draft.open("wb") as file:
                np.savez(file, allow_pickle=False, **columns)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
