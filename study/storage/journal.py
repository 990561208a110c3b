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
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np

from study.config.trial import Trial
from study.storage.records import Array, EpochRecord, Status, TrialRecord
from study.storage.trial_files import JournalFile, journal_file

FORMAT = 1
_MEASURED = ("val_loss", "val_accuracy", "seconds")
_SCALARS = ("epoch", "first_iteration", *_MEASURED)
_ARRAYS = ("alpha", "hypergradient", "train_loss", "alpha_tensors")


class OtherTrialError(ValueError):
    """A journal belongs to another trial than its name says."""


class JournalReader:
    """Follows one journal: each ``poll`` reads the events appended since the last.

    A journal that does not exist yet reads as a pending trial.

    Args:
        place: Path of the journal, or an object in its place.
        trial: The trial that the journal belongs to.

    Attributes:
        record: The trial's record so far.
        offset: Number of bytes read. Everything after them is unwritten, torn or damaged.
        damaged: Whether a damaged line stopped the reading.
    """

    def __init__(self, place: Path | JournalFile, trial: Trial) -> None:
        self._file = journal_file(place)
        self.record = TrialRecord(trial)
        self.offset = 0
        self.damaged = False

    def poll(self) -> bool:
        """Read new events; return whether there were any.

        Raises:
            OSError: The file exists and cannot be read.
        """
        if self.damaged:
            return False
        fresh = self._file.read(self.offset)
        advanced = False
        for event, length in events_in(fresh):
            record = None if event is None else _after(self.record, event)
            if record is None:
                self.damaged = True
                break
            self.record = record
            self.offset += length
            advanced = True
        return advanced


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
            **{name: _pack(array) for name in _ARRAYS if (array := getattr(record, name)) is not None},
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


def read(place: Path | JournalFile, trial: Trial) -> TrialRecord:
    """Return the record of ``trial`` that the journal at ``place`` holds."""
    reader = JournalReader(place, trial)
    reader.poll()
    return reader.record


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


def events_in(data: bytes) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the event of each complete line, None for a damaged one, and the line's length in bytes."""
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield _decode(line), len(line)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _decode(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; None if the line is damaged, or another program made it."""
    checksum, _, text = line[:-1].partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        event = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _after(record: TrialRecord, event: dict[str, Any]) -> TrialRecord | None:
    """Return the record after ``event``; None if it is not an event of a journal, or cannot come here.

    Raises:
        OtherTrialError: The event starts another trial.
    """
    try:
        match event["event"]:
            case "start":
                if event["key"] != record.trial.key:
                    raise OtherTrialError(
                        f"the journal of trial {record.trial.key} holds trial {event['key']}"
                    )
                changes: dict[str, Any] = {"status": "running", "error": None, "ended_ms": 0}
                changes["resumed_ms"] = int(event["time_ms"])
                if event["attempt"] != record.attempt:
                    changes |= {
                        "epochs": record.epochs[: int(event["kept"])],
                        "attempt": str(event["attempt"]),
                        "started_ms": int(event["time_ms"]),
                    }
                changes["machine"] = {str(name): str(value) for name, value in event["machine"].items()}
                changes["repeatable"] = bool(event.get("repeatable", True))
                notes = (*record.notes, *map(str, event.get("notes", ())))
                changes["notes"] = tuple(dict.fromkeys(notes))
                changes["run"] = str(event.get("run", ""))
                changes["suspect"] = bool(event.get("suspect", False))
                return replace(record, **changes)
            case "epoch":
                epoch = _epoch(event)
                follows = (epoch.epoch, epoch.first_iteration) == (
                    len(record.epochs) + 1,
                    record.iterations + 1,
                )
                if record.status != "running" or not follows:
                    return record
                return replace(record, epochs=(*record.epochs, epoch))
            case "end" if event["status"] in get_args(Status):
                # The driver marks a trial as pruned, even if the trial's process has recorded an end.
                if record.status != "running" and event["status"] != "pruned":
                    return record
                error = None if event["error"] is None else str(event["error"])
                return replace(record, status=event["status"], error=error, ended_ms=int(event["time_ms"]))
    except OtherTrialError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        pass
    return None


def _epoch(event: dict[str, Any]) -> EpochRecord:
    arrays: dict[str, Any] = {name: _unpack(event[name]) for name in _ARRAYS if name in event}
    count = len(arrays["train_loss"])
    if count == 0 or any(len(array) != count for array in arrays.values()):
        raise ValueError("arrays of different lengths")
    measured: dict[str, Any] = {name: float(event[name]) for name in _MEASURED}
    return EpochRecord(
        epoch=int(event["epoch"]),
        first_iteration=int(event["first_iteration"]),
        **measured,
        **arrays,
        time_ms=int(event["time_ms"]),
    )


def _pack(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(packed: dict[str, Any]) -> Array:
    if packed["dtype"] not in ("<f4", "<f8"):
        raise ValueError(f"an array of {packed['dtype']}")
    flat = np.frombuffer(base64.b64decode(packed["data"], validate=True), dtype=packed["dtype"])
    array: Array = flat.reshape(packed["shape"])
    return array
