"""The actor on the driver's node that reads and writes the files of trials for workers.

It is the only process that writes for them. Ray starts it again if it dies, and sends again the messages
without a reply. A message that arrives twice does no harm: readers of a journal ignore an epoch that they
know.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from study.storage.study_folder import StudyFolder
from study.storage.trial_files import CheckpointsOnDisk, JournalOnDisk


class Chunk(NamedTuple):
    """Bytes to write into one journal."""

    key: str
    length: int | None
    """Cut the journal off after this many bytes first; None to append."""
    data: bytes
    durable: bool


class FolderActor:
    """Reads and writes the files of trials for workers; runs as an actor of Ray.

    Args:
        folder: The study's folder.
        holder: Description of the driver, for a message to another driver.
    """

    def __init__(self, folder: StudyFolder, holder: str) -> None:
        self._folder, self._holder = folder, holder
        self._whole: set[str] = set()
        """Keys of journals that are known to end with a complete line."""

    def holder(self) -> str:
        """Return the description of the driver."""
        return self._holder

    def read_journals(self, keys: Sequence[str]) -> list[bytes]:
        """Return the contents of the journals with these keys."""
        return [JournalOnDisk(self._folder.journal_of(key)).read() for key in keys]

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Write ``chunks`` in their order.

        Raises:
            OSError: A chunk cannot be written; the chunks after it are not written.
        """
        for chunk in chunks:
            path = self._folder.journal_of(chunk.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            length = chunk.length
            if length is None and chunk.key not in self._whole:
                # A previous actor may have died while it wrote a line.
                length = JournalOnDisk(path).read().rfind(b"\n") + 1
            self._whole.discard(chunk.key)
            with path.open("ab") as file:
                if length is not None:
                    file.truncate(length)
                file.write(chunk.data)
                file.flush()
                if chunk.durable:
                    os.fsync(file.fileno())
            self._whole.add(chunk.key)

    def save_checkpoint(self, key: str, content: bytes) -> None:
        """Keep ``content`` as the last checkpoint of the trial with a key."""
        self._checkpoints(key).write(content)

    def read_checkpoints(self, key: str) -> list[tuple[str, bytes | OSError]]:
        """Return the checkpoints of the trial with a key, the last one first."""
        return list(self._checkpoints(key).read())

    def remove_checkpoints(self, key: str) -> None:
        """Remove the checkpoints of the trial with a key."""
        self._checkpoints(key).remove()

    def _checkpoints(self, key: str) -> CheckpointsOnDisk:
        return CheckpointsOnDisk(self._folder.checkpoint_of(key))
