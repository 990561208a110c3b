"""The last two checkpoints of one trial, each written whole or not at all.

The CRC-32 of a checkpoint shows whether it was damaged on disk; then the one before it is used. Reading a
checkpoint executes nothing.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import torch

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        path: the file of the last one; the one before it has ``.before`` added to its name.
    """

    def __init__(self, path: Path) -> None:
        self._last, self._before = path, path.with_name(f"{path.name}.before")

    def save(self, state: State) -> None:
        """Write ``state`` as the last checkpoint.

        Args:
            state: of ``trainer.Training.state_dict`` or ``packed_trainer.PackTraining.state_dict``.

        Raises:
            OSError: it cannot be written; the earlier checkpoints stay.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self._last.parent.mkdir(parents=True, exist_ok=True)
        draft = self._last.with_name(f"{self._last.name}.new")
        with draft.open("wb") as file:
            file.write(b"%08x\n" % zlib.crc32(content))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if self._last.exists():
            self._last.replace(self._before)
        draft.replace(self._last)

    def newest(self, key: str, recorded: int) -> tuple[State | None, list[str]]:
        """Return the newest usable checkpoint, or None, and the faults of newer ones.

        Args:
            key: the trial's.
            recorded: epochs in the trial's journal. A checkpoint that is ahead of the journal is not used.
        """
        problems = []
        for path in (self._last, self._before):
            try:
                checksum, _, content = path.read_bytes().partition(b"\n")
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(f"checkpoint {path.name} cannot be read ({error.strerror})")
                continue
            try:
                if checksum != b"%08x" % zlib.crc32(content):
                    raise ValueError
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception:
                # Foreign content may raise anything.
                problems.append(f"checkpoint {path.name} is damaged")
                continue
            if isinstance(state, dict) and state.get("key") == key and 0 < state.get("epoch", 0) <= recorded:
                return state, problems
            problems.append(f"checkpoint {path.name} does not belong to the trial's journal")
        return None, problems

    def remove(self) -> None:
        """Remove all of them; for a trial that has ended."""
        for path in (self._last, self._before, self._last.with_name(f"{self._last.name}.new")):
            path.unlink(missing_ok=True)
