"""Lets a worker that does not see the study's folder use it, through the actor on the driver's node.

A worker collects the lines of an epoch, sends them as one message, and waits for the reply before it sends
the next; where a scheduler decides by the epoch, it waits before it reports. So the order stays, and when a
process dies at most two messages without a reply are lost; the trial then resumes from a checkpoint that fits
the journal.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Any

import ray

from study.config.loader import Trial
from study.execution.ray_backend.folder_actor import Chunk
from study.storage.journal_reader import JournalReader
from study.storage.records import TrialRecord
from study.storage.trial_files import JournalFile

MESSAGE_BYTES = 4_000_000
"""A message is sent at about this size, and in any case after an epoch."""
CHECKPOINT_BYTES = 1_000_000_000
"""Larger checkpoints do not go through the actor, which holds each in memory."""
READ_TOGETHER = 200


class RemoteFolder:
    """The study's folder, as a worker reaches it through the actor; see ``TrialFolder``.

    Args:
        actor: Handle of a ``FolderActor``.
    """

    def __init__(self, actor: Any) -> None:
        self._link = _Link(actor)

    def journal(self, trial: Trial) -> JournalFile:
        """Return the journal of ``trial``."""
        return _RemoteJournal(self._link, trial.key)

    def checkpoint(self, trial: Trial) -> _RemoteCheckpoints:
        """Return the checkpoints of ``trial``."""
        return _RemoteCheckpoints(self._link, trial.key)

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return the records of ``trials``, in their order, from their journals."""
        left, found = list(trials), []
        while left:
            now, left = left[:READ_TOGETHER], left[READ_TOGETHER:]
            contents = self._link.ask("read_journals", [trial.key for trial in now])
            for trial, content in zip(now, contents, strict=True):
                reader = JournalReader(_RemoteJournal(self._link, trial.key, content), trial)
                reader.poll()
                found.append(reader.record)
        return found

    def flush(self, *, wait: bool = False) -> None:
        """Send the lines that were appended, after the reply to the previous message."""
        self._link.send()
        if wait:
            self._link.wait()


class _Link:
    """Sends messages to the actor, one at a time."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._chunks: list[Chunk] = []
        self._size = 0
        self._under_way: Any = None

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._size += len(chunk.data)
        if self._size > MESSAGE_BYTES:
            self.send()

    def send(self) -> None:
        if self._chunks:
            self.wait()
            self._under_way = self._actor.append.remote(self._chunks)
            self._chunks, self._size = [], 0

    def wait(self) -> None:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            ray.get(under_way)

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of the actor after it has written everything added."""
        self.send()
        self.wait()
        return ray.get(getattr(self._actor, method).remote(*args))


class _RemoteJournal:
    """One journal; see ``JournalFile``."""

    def __init__(self, link: _Link, key: str, content: bytes | None = None) -> None:
        self._link, self._key, self._content = link, key, content
        self._length: int | None = None

    def read(self, offset: int = 0) -> bytes:
        content, self._content = self._content, None
        if content is None:
            (content,) = self._link.ask("read_journals", [self._key])
        return content[offset:]

    def open(self, length: int) -> None:
        self._length = length

    def append(self, line: bytes) -> None:
        self._add(line)

    def sync(self) -> None:
        self._add(b"", durable=True)
        self._link.send()
        self._link.wait()

    def close(self) -> None:
        self._link.send()
        self._link.wait()

    def _add(self, data: bytes, *, durable: bool = False) -> None:
        length, self._length = self._length, None
        self._link.add(Chunk(self._key, length, data, durable))


class _RemoteCheckpoints:
    """The checkpoints of one trial; see ``CheckpointFiles``."""

    def __init__(self, link: _Link, key: str) -> None:
        self._link, self._key = link, key

    def write(self, content: bytes) -> None:
        if len(content) > CHECKPOINT_BYTES:
            raise OSError(
                errno.EFBIG,
                f"a checkpoint of {len(content) / 1e9:.1f} GB does not go through the driver's node; "
                "name an object store with --checkpoints",
            )
        self._link.ask("save_checkpoint", self._key, content)

    def read(self) -> Iterator[tuple[str, bytes | OSError]]:
        yield from self._link.ask("read_checkpoints", self._key)

    def remove(self) -> None:
        self._link.ask("remove_checkpoints", self._key)
