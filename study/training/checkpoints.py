"""The last two checkpoints of one trial, each written complete or not at all.

The CRC-32 of a checkpoint shows whether it was damaged on disk; if so, the one before it is used. Reading a
checkpoint executes no code from it.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import torch

from study.storage.trial_files import CheckpointFiles, checkpoint_files

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one trial.

    Args:
        place: Path of the last checkpoint's file, or an object that keeps the checkpoints.
    """

    def __init__(self, place: Path | CheckpointFiles) -> None:
        self._files = checkpoint_files(place)

    def save(self, state: State) -> None:
        """Write ``state`` as the last checkpoint.

        Args:
            state: State from ``trainer.Training.state_dict`` or ``packed_trainer.PackTraining.state_dict``.

        Raises:
            OSError: The checkpoint cannot be written; the earlier ones stay.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        self._files.write(b"%08x\n" % zlib.crc32(content) + content)

    def newest(self, key: str, recorded: int) -> tuple[State | None, list[str]]:
        """Return the newest usable checkpoint, or None, and a line per newer one that is not usable.

        Args:
            key: The trial's key.
            recorded: Number of epochs in the trial's journal. A checkpoint that is ahead of the journal is
                not used.
        """
        problems = []
        for name, found in self._files.read():
            if isinstance(found, OSError):
                problems.append(f"checkpoint {name} cannot be read ({found.strerror})")
                continue
            checksum, _, content = found.partition(b"\n")
            try:
                if checksum != b"%08x" % zlib.crc32(content):
                    raise ValueError
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception:
                # Content from elsewhere may raise anything.
                problems.append(f"checkpoint {name} is damaged")
                continue
            if isinstance(state, dict) and state.get("key") == key and 0 < state.get("epoch", 0) <= recorded:
                return state, problems
            problems.append(f"checkpoint {name} does not belong to the trial's journal")
        return None, problems

    def remove(self) -> None:
        """Remove both checkpoints, for a trial that has ended."""
        self._files.remove()
