"""The checkpoints of one trial under way: the last two, each written whole or not at all.

A checkpoint that was damaged on disk is told by its CRC-32, and the one before it is used. Nothing in a
checkpoint is executed when it is read.
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
        path: where the last one lies; the one before lies beside it, with ``.before`` added.
    """

    def __init__(self, path: Path) -> None:
        self._last, self._before = path, path.with_name(f"{path.name}.before")

    def save(self, state: State) -> None:
        """Make ``state`` the last checkpoint.

        Raises:
            OSError: it cannot be written; the checkpoints that are there stay.
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
        """Return the newest checkpoint that can be used, or None, and what is wrong with newer ones.

        Args:
            key: of the trial.
            recorded: epochs that the trial's journal has. A checkpoint that is ahead of it is not used.
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
                # Whatever is in it, it is not a checkpoint of ours.
                problems.append(f"checkpoint {path.name} is damaged")
                continue
            if isinstance(state, dict) and state.get("key") == key and 0 < state.get("epoch", 0) <= recorded:
                return state, problems
            problems.append(f"checkpoint {path.name} does not belong to the trial's journal")
        return None, problems

    def remove(self) -> None:
        """Remove them all: the trial has ended."""
        for path in (self._last, self._before, self._last.with_name(f"{self._last.name}.new")):
            path.unlink(missing_ok=True)
