"""A trial's own append-only record on disk, which survives whatever kills the process that writes it.

One line per event: the CRC-32 of a JSON text in eight hex digits, a space, the text. Events are ``start``
(settings, machine, attempt), ``epoch`` (the arrays of :class:`~study.records.EpochRecord`) and ``end``
(status). Every event is stamped once, when it is appended, so a reader can send it on any number of times and
each point stays the same point. Any prefix of the bytes is readable: a torn or damaged line ends the record
before it.

An *attempt* is one training as the record tells it. A trial that is started again on the same kind of CPU
machine, from its first iteration or a checkpoint, repeats the same numbers, so it continues its attempt and
epochs already recorded are not recorded twice. Where the numbers may differ, on a GPU or in their last digits
in a pack, a new attempt keeps the epochs up to the checkpoint and replaces those after it.
"""

from __future__ import annotations

import base64
import json
import os
import time
import uuid
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from study.records import Array, EpochRecord, Status, TrialRecord
from study.spec import Trial

FORMAT = 1
_STANDING = ("status", "error", "attempt", "machine", "repeatable", "started_ms", "ended_ms")
_SCALARS = ("epoch", "first_iteration", "val_loss", "val_accuracy", "seconds")
_ARRAYS = ("alpha", "hypergradient", "train_loss", "alpha_tensors")


class JournalReader:
    """Follows one journal; each :meth:`poll` takes in what was appended since the last.

    A journal that does not exist yet reads as a pending trial.

    Attributes:
        record: what the journal says so far.
        offset: bytes taken in; everything after them is unwritten, torn or damaged.
        damaged: whether a complete line that cannot be trusted stops the reading.
    """

    def __init__(self, path: Path, trial: Trial) -> None:
        self.path = path
        self.record = TrialRecord(trial)
        self.offset = 0
        self.damaged = False

    def poll(self) -> bool:
        """Take in new events; return whether there were any.

        Raises:
            OSError: the file exists and cannot be read.
        """
        if self.damaged:
            return False
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                fresh = file.read()
        except FileNotFoundError:
            return False
        events, taken, self.damaged = events_in(fresh)
        self.offset += taken
        if events:
            self.record = _replay(self.record, events)
        return bool(events)


class Journal:
    """Writes one trial's journal; use as a context manager.

    Args:
        path: the file; made with its folder if absent, continued if present.
        trial: whose journal it is.
        machine: what the trial runs on, kept with the start event.
        repeatable: whether training again gives the same numbers, bit for bit.
        resumed: how many epochs the training has behind it, from a checkpoint.

    Raises:
        ValueError: the file is the journal of another trial.
        OSError: the file cannot be written.
    """

    def __init__(
        self, path: Path, trial: Trial, machine: dict[str, str], *, repeatable: bool, resumed: int = 0
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        reader = JournalReader(path, trial)
        reader.poll()
        self._file = path.open("ab")
        self._file.truncate(reader.offset)
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
            repeatable=repeatable,
        )

    def epoch(self, record: EpochRecord) -> None:
        """Append one epoch, unless this attempt has it already."""
        if record.epoch <= self._epochs_recorded:
            return
        self._append(
            event="epoch",
            **{name: getattr(record, name) for name in _SCALARS},
            **{name: _pack(array) for name in _ARRAYS if (array := getattr(record, name)) is not None},
        )
        self._epochs_recorded = record.epoch

    def end(self, status: Status, error: str | None = None) -> None:
        """Append how the trial ended, and make the whole journal durable."""
        self._append(event="end", status=status, error=error)
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, **event: Any) -> None:
        event["time_ms"] = _now_ms()
        self._file.write(line_of(event))
        self._file.flush()


def read(path: Path, trial: Trial) -> TrialRecord:
    """Return all that the journal at ``path`` says of ``trial``."""
    reader = JournalReader(path, trial)
    reader.poll()
    return reader.record


def mark_pruned(path: Path, trial: Trial) -> None:
    """Say in the journal of a trial whose process was stopped from outside that it was pruned.

    Raises:
        OSError: the file cannot be written.
    """
    reader = JournalReader(path, trial)
    reader.poll()
    with path.open("r+b") as file:
        file.truncate(reader.offset)
        file.seek(reader.offset)
        file.write(line_of({"event": "end", "status": "pruned", "error": None, "time_ms": _now_ms()}))


def line_of(event: dict[str, Any]) -> bytes:
    """Return an event as the line that keeps it."""
    text = json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def events_in(data: bytes) -> tuple[list[dict[str, Any]], int, bool]:
    """Return the events in whole lines, the bytes that they take, and whether a damaged line follows them."""
    events: list[dict[str, Any]] = []
    taken = 0
    for line in data.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        event = _decode(line)
        if event is None:
            return events, taken, True
        events.append(event)
        taken += len(line)
    return events, taken, False


def _now_ms() -> int:
    return int(time.time() * 1000)


def _decode(line: bytes) -> dict[str, Any] | None:
    checksum, _, text = line[:-1].partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    event: dict[str, Any] = json.loads(text)
    return event


def _replay(record: TrialRecord, events: list[dict[str, Any]]) -> TrialRecord:
    epochs = list(record.epochs)
    known = dict(vars(record))
    for event in events:
        match event["event"]:
            case "start":
                if event["key"] != record.trial.key:
                    raise ValueError(f"the journal of trial {record.trial.key} holds trial {event['key']}")
                if event["attempt"] != known["attempt"]:
                    del epochs[event["kept"] :]
                    known |= {"attempt": event["attempt"], "started_ms": event["time_ms"]}
                known |= {"status": "running", "error": None, "machine": event["machine"], "ended_ms": 0}
                known["repeatable"] = event.get("repeatable", True)
            case "epoch":
                fields: dict[str, Any] = {name: event[name] for name in _SCALARS}
                fields |= {name: _unpack(event[name]) for name in _ARRAYS if name in event}
                epochs.append(EpochRecord(**fields, time_ms=event["time_ms"]))
            case "end":
                known |= {"status": event["status"], "error": event["error"], "ended_ms": event["time_ms"]}
    return TrialRecord(record.trial, epochs=tuple(epochs), **{name: known[name] for name in _STANDING})


def _pack(array: Array) -> dict[str, Any]:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode()
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}


def _unpack(packed: dict[str, Any]) -> Array:
    flat = np.frombuffer(base64.b64decode(packed["data"]), dtype=packed["dtype"])
    array: Array = flat.reshape(packed["shape"])
    return array
