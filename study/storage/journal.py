"""A trial's own append-only record on disk, which survives the loss of the process that writes it.

One line per event: the CRC-32 of a JSON text in eight hex digits, a space, the text. Events are ``start``
(settings, machine, host, attempt), ``epoch`` (the arrays of ``records.EpochRecord``) and ``end`` (status).
Every event gets its time once, when it is appended, so a reader can send it any number of times and each
point stays the same point. Any prefix of the bytes is readable: a torn or damaged line ends the record before
it. A reader ignores keys of an event that it does not know.

An *attempt* is one uninterrupted training, as far as its numbers tell. A trial that resumes on the same kind
of CPU machine, from its first iteration or a checkpoint, repeats the same numbers, so it continues its
attempt and epochs already recorded are not recorded twice. If the numbers may differ, on a GPU or in
their last digits in a pack, a new attempt keeps the epochs up to the checkpoint and replaces those after it.

Two processes should never write one journal (``driver_lock``), but one that was suspended may wake beside
its replacement, for seconds. So a reader ignores an epoch out of order, and everything between an end and the
next start.
"""

from __future__ import annotations

import base64
import json
import socket
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from study.config.trial import Trial
from study.storage.journal_reader import ARRAYS, MEASURED, JournalReader, read
from study.storage.records import Array, EpochRecord, Status
from study.storage.trial_files import JournalFile, journal_file

FORMAT = 1
_SCALARS = ("epoch", "first_iteration", *MEASURED)


class Journal:
    """Writes one trial's journal; use as a context manager.

    Args:
        place: Path of the journal, or an object in its place. Created with its folder if absent, continued if
            present.
        trial: The trial that the journal belongs to.
        machine: Versions and device that the trial trains with, kept in the start event. The host's name is
            kept beside it but is no part of it: a trial that resumes on another host with the same kind of
            machine repeats its numbers.
        repeatable: Whether training again gives the same numbers, bit for bit.
        resumed: Number of epochs in the checkpoint from which the training resumes; 0 without one.
        notes: Notes for people: damaged files found before the start, and departures from the plan.
        run: Identifier of the run of the study that starts the trial.
        suspect: Whether the trial may have broken a GPU, and trains with care for the rest of the run.

    Raises:
        OtherTrialError: The file is the journal of another trial.
        OSError: The file cannot be read or written.
    """

    def __init__(
        self,
        place: Path | JournalFile,
        trial: Trial,
        machine: dict[str, str],
        *,
        repeatable: bool,
        resumed: int = 0,
        notes: Sequence[str] = (),
        run: str = "",
        suspect: bool = False,
    ) -> None:
        self._file = journal_file(place)
        reader = JournalReader(self._file, trial)
        reader.poll()
        self._file.open(reader.offset)
        if reader.damaged:
            count = len(reader.record.epochs)
            notes = [*notes, f"the journal was damaged after epoch {count}; later epochs are trained again"]
        before = reader.record
        again = repeatable and before.repeatable and before.machine == machine
        continued = again and bool(before.attempt)
        self._epochs_recorded = len(before.epochs) if continued else resumed
        self._append(
            event="start",
            format=FORMAT,
            attempt=before.attempt if continued else uuid.uuid4().hex[:12],
            kept=self._epochs_recorded,
            key=trial.key,
            settings=trial.settings(),
            machine=machine,
            host=socket.gethostname(),
            notes=list(notes),
            repeatable=repeatable,
            **({"run": run} if run else {}),
            **({"suspect": suspect} if suspect else {}),
        )

    def epoch(self, record: EpochRecord) -> None:
        """Append one epoch, unless this attempt already has it."""
        if record.epoch <= self._epochs_recorded:
            return
        self._append(
            event="epoch",
            **{name: getattr(record, name) for name in _SCALARS},
            **{name: _pack(array) for name in ARRAYS if (array := getattr(record, name)) is not None},
        )
        self._epochs_recorded = record.epoch

    def end(self, status: Status, error: str | None = None) -> None:
        """Append how the trial ended, and wait until the whole journal is on the disk."""
        self._append(event="end", status=status, error=error)
        self._file.sync()

    def close(self) -> None:
        """Close the file; a trial without an end counts as interrupted."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, **event: Any) -> None:
        event["time_ms"] = _now_ms()
        self._file.append(line_of(event))


def mark_pruned(path: Path, trial: Trial) -> None:
    """Record in its journal that a trial, whose process was stopped from outside, was pruned.

    Raises:
        OSError: The file cannot be written.
    """
    _append_end(path, trial, "pruned", None)


def mark_failed(
    place: Path | JournalFile,
    trial: Trial,
    error: str,
    *,
    machine: dict[str, str] | None = None,
    run: str = "",
) -> None:
    """Record in its journal that a trial, which no process trains now, failed. It keeps its epochs.

    Args:
        place: Path of the journal, or an object in its place. Created if absent.
        trial: The trial that the journal belongs to.
        error: The traceback.
        machine: Versions and device, as in ``Journal``. Default: those of the trial's last start.
        run: Identifier of the run of the study in which the trial failed.

    Raises:
        OSError: The file cannot be written.
    """
    before = read(place, trial)
    if before.status == "running" and before.run == run:
        _append_end(place, trial, "failed", error)
        return
    with Journal(
        place,
        trial,
        before.machine if machine is None else machine,
        repeatable=before.repeatable,
        resumed=len(before.epochs),
        run=run,
    ) as journal:
        journal.end("failed", error)


def _append_end(place: Path | JournalFile, trial: Trial, status: Status, error: str | None) -> None:
    file = journal_file(place)
    reader = JournalReader(file, trial)
    reader.poll()
    file.open(reader.offset)
    try:
        file.append(line_of({"event": "end", "status": status, "error": error, "time_ms": _now_ms()}))
        file.sync()
    finally:
        file.close()


def line_of(event: dict[str, Any]) -> bytes:
    """Return the line of a journal that holds an event."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _pack(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}
