"""Lets workers that do not see the study's folder write it through an actor on the driver's node.

The actor is the only process that writes for them. A worker keeps the lines of an epoch, sends them as one
message, and waits for the answer before it sends the next. So the order stays, and whatever dies loses at
most two messages that were not answered; the trial then resumes from a checkpoint that fits the journal. Ray
starts the actor again if it dies, and sends again what it had not answered. A message that arrives twice does
no harm: readers of a journal pass over an epoch that they know.

The actor's name belongs to one study in one folder, and the actor ends with its driver. So it also keeps a
second driver away, which may be on a node that does not see the first one's lock file.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from study.config.loader import Trial
from study.execution.executor import ExecutorError
from study.storage import journal
from study.storage.driver_lock import Holder
from study.storage.records import TrialRecord
from study.storage.study_folder import StudyFolder
from study.storage.trial_files import CheckpointsOnDisk, JournalFile, JournalOnDisk, TrialFolder

NAMESPACE = "hypergrad-study"
MESSAGE_BYTES = 4_000_000
"""A message is sent when it is about so large, and in any case after an epoch."""
CHECKPOINT_BYTES = 1_000_000_000
"""Larger checkpoints do not go through the actor, which has each in memory."""
READ_TOGETHER = 200
LEAVING_SECONDS = 15.0
"""How long the actor of a driver that was killed may take to go away."""


class Chunk(NamedTuple):
    """What is to be written into one journal."""

    key: str
    length: int | None
    """Cut the journal off after so many bytes first; None to add to it."""
    data: bytes
    durable: bool


class FolderActor:
    """Reads and writes the files of trials for workers; runs as an actor of Ray.

    Args:
        folder: the study's folder.
        holder: the driver, for a message to another.
    """

    def __init__(self, folder: StudyFolder, holder: str) -> None:
        self._folder, self._holder = folder, holder
        self._whole: set[str] = set()
        """Keys of journals that are known to end with a whole line."""

    def holder(self) -> str:
        """Return the driver."""
        return self._holder

    def read_journals(self, keys: Sequence[str]) -> list[bytes]:
        """Return all of the journals with these keys."""
        return [JournalOnDisk(self._folder.journal_of(key)).read() for key in keys]

    def append(self, chunks: Sequence[Chunk]) -> None:
        """Write ``chunks`` in their order.

        Raises:
            OSError: one cannot be written; those after it are not.
        """
        for chunk in chunks:
            path = self._folder.journal_of(chunk.key)
            path.parent.mkdir(parents=True, exist_ok=True)
            length = chunk.length
            if length is None and chunk.key not in self._whole:
                # An actor before this one may have died while it wrote a line.
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


class RemoteFolder:
    """The study's folder, as a worker reaches it through the actor; see ``TrialFolder``.

    Args:
        actor: handle of a ``FolderActor``.
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
        """Return what the journals say of ``trials``, in their order."""
        left, found = list(trials), []
        while left:
            now, left = left[:READ_TOGETHER], left[READ_TOGETHER:]
            contents = self._link.ask("read_journals", [trial.key for trial in now])
            for trial, content in zip(now, contents, strict=True):
                reader = journal.JournalReader(_RemoteJournal(self._link, trial.key, content), trial)
                reader.poll()
                found.append(reader.record)
        return found

    def flush(self) -> None:
        """Send what was appended, after the answer to what was sent before."""
        self._link.send()


class _Link:
    """Sends to the actor, one message at a time."""

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
        """Call a method of the actor, when it has written all that was added."""
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


@dataclass(frozen=True)
class SharedPlaces:
    """How the workers of one driver reach the study's folder; made by ``share``, and sent to them.

    Args:
        folder: the study's folder.
        has_actor: whether there is a ``FolderActor``; there is none where all workers see the folder.
        mark: what the driver wrote into a file of the folder, to know it by; empty if nobody is to look.
    """

    folder: StudyFolder
    has_actor: bool = False
    mark: str = ""

    def here(self) -> TrialFolder:
        """Return the folder itself if this process sees it, or else the way through the actor."""
        if not self.has_actor or self.is_seen():
            return self.folder
        return RemoteFolder(ray.get_actor(str(self.folder.path), namespace=NAMESPACE))

    def is_seen(self) -> bool:
        """Whether this process sees the folder that the driver writes."""
        with suppress(OSError):
            return bool(self.mark) and _mark_file(self.folder).read_text() == self.mark
        return False


def share(folder: StudyFolder, *, look: bool) -> tuple[SharedPlaces, Any]:
    """Start the actor; return how workers anywhere in the cluster reach the study's folder, and its handle.

    The actor ends when the handle is dropped. Drop it before Ray is left: a handle that outlives its Ray may
    end an actor of the next one, whose identifiers begin anew.

    Args:
        folder: the study's folder, on this machine.
        look: whether workers that see the folder write it themselves; otherwise all use the actor.

    Raises:
        ExecutorError: another driver runs the study.
        OSError: the folder cannot be written.
    """
    actor = _start_actor(folder)
    if not look:
        return SharedPlaces(folder, has_actor=True), actor
    mark = uuid.uuid4().hex
    folder.path.mkdir(parents=True, exist_ok=True)
    _mark_file(folder).write_text(mark)
    return SharedPlaces(folder, has_actor=True, mark=mark), actor


def count_blind_nodes(places: SharedPlaces) -> tuple[int, int]:
    """Return how many of the cluster's nodes do not see the folder, and how many there are."""
    ask = ray.remote(num_cpus=0, max_retries=0)(SharedPlaces.is_seen)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    answers = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(places)
        for node in nodes
    ]
    seen = 0
    for answer in answers:
        with suppress(ray.exceptions.RayError):  # A node that went away meanwhile sees nothing.
            seen += ray.get(answer, timeout=60)
    return len(answers) - seen, len(answers)


def _start_actor(folder: StudyFolder) -> Any:
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options: dict[str, Any] = {
        "name": str(folder.path),
        "namespace": NAMESPACE,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": -1,
        "scheduling_strategy": here,
    }
    deadline = time.monotonic() + LEAVING_SECONDS
    while True:
        try:
            actor: Any = ray.remote(FolderActor).options(**options).remote(folder, str(Holder.here()))
            # Of two that are made at the same time, one dies when it is to run.
            ray.get(actor.holder.remote())
            return actor
        except (ValueError, ray.exceptions.RayActorError) as taken:
            if time.monotonic() > deadline:
                other = _holder(str(folder.path)) or "another driver"
                raise ExecutorError(f"the study {folder.name!r} is being run by {other}") from taken
            time.sleep(1.0)


def _holder(name: str) -> str:
    """Return who runs the actor with a name; empty if it does not answer, or went away."""
    with suppress(ValueError, ray.exceptions.RayError):
        actor = ray.get_actor(name, namespace=NAMESPACE)
        return str(ray.get(actor.holder.remote(), timeout=10))
    return ""


def _mark_file(folder: StudyFolder) -> Path:
    return folder.path / "driver.mark"
