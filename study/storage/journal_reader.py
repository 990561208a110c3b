"""Reads the journal of a trial: from lines to a record.

``journal`` describes the lines, and says why a reader must expect torn, damaged and misplaced ones.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from study.config.trial import Trial
from study.storage.records import Array, EpochRecord, Status, TrialRecord
from study.storage.trial_files import JournalFile, journal_file

MEASURED = ("val_loss", "val_accuracy", "seconds")
"""Fields of ``EpochRecord`` that hold one measurement of the epoch."""
ARRAYS = ("alpha", "hypergradient", "train_loss", "alpha_tensors")
"""Fields of ``EpochRecord`` that are arrays with a row per iteration."""


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


def read(place: Path | JournalFile, trial: Trial) -> TrialRecord:
    """Return the record of ``trial`` that the journal at ``place`` holds."""
    reader = JournalReader(place, trial)
    reader.poll()
    return reader.record


def events_in(data: bytes) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the event of each complete line, None for a damaged one, and the line's length in bytes."""
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        yield _decode(line), len(line)


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
    arrays: dict[str, Any] = {name: _unpack(event[name]) for name in ARRAYS if name in event}
    count = len(arrays["train_loss"])
    if count == 0 or any(len(array) != count for array in arrays.values()):
        raise ValueError("arrays of different lengths")
    measured: dict[str, Any] = {name: float(event[name]) for name in MEASURED}
    return EpochRecord(
        epoch=int(event["epoch"]),
        first_iteration=int(event["first_iteration"]),
        **measured,
        **arrays,
        time_ms=int(event["time_ms"]),
    )


def _unpack(packed: dict[str, Any]) -> Array:
    if packed["dtype"] not in ("<f4", "<f8"):
        raise ValueError(f"an array of {packed['dtype']}")
    flat = np.frombuffer(base64.b64decode(packed["data"], validate=True), dtype=packed["dtype"])
    array: Array = flat.reshape(packed["shape"])
    return array
