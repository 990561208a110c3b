"""The files of one trial: a journal, which grows, and checkpoints, which are replaced.

A worker asks for them by these protocols, because the study's folder may lie on another machine
(``study.execution.ray_backend.remote_folder``). The classes here are the files themselves, on a disk that
this machine sees.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from study.config.trial import Trial
    from study.storage.records import TrialRecord


class JournalFile(Protocol):
    """The bytes of a journal."""

    def read(self, offset: int = 0) -> bytes:
        """Return all from ``offset`` on; nothing if there is no journal yet.

        Raises:
            OSError: it cannot be read.
        """

    def open(self, length: int) -> None:
        """Cut off all after the first ``length`` bytes, and prepare for ``append``.

        Raises:
            OSError: it cannot be written.
        """

    def append(self, line: bytes) -> None:
        """Add ``line`` at the end. It survives the end of this process once ``sync`` has returned.

        Raises:
            OSError: it cannot be written.
        """

    def sync(self) -> None:
        """Return when all that was appended is on a disk, and survives the end of its machine.

        Raises:
            OSError: it cannot be written.
        """

    def close(self) -> None:
        """Append nothing more."""


class CheckpointFiles(Protocol):
    """The last two checkpoints of one trial, as bytes."""

    def write(self, content: bytes) -> None:
        """Keep ``content`` as the last checkpoint, whole or not at all; the last becomes the one before it.

        Raises:
            OSError: it cannot be written; the earlier checkpoints stay.
        """

    def read(self) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield the name and the content of each, the last one first; or why it cannot be read."""

    def remove(self) -> None:
        """Remove all of them."""


class TrialFolder(Protocol):
    """Where a worker finds the files of its trials: the study's folder, or what stands for it."""

    def journal(self, trial: Trial) -> Path | JournalFile:
        """Return the journal of ``trial``."""

    def checkpoint(self, trial: Trial) -> Path | CheckpointFiles:
        """Return the checkpoints of ``trial``; for a path, the file of the last one."""

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return what the journals say of ``trials``, in their order."""

    def flush(self) -> None:
        """Send on what was appended to journals. Called after every epoch; returns soon.

        Raises:
            OSError: what was appended before cannot be written.
        """


class JournalOnDisk:
    """A journal in a file; see ``JournalFile``.

    Args:
        path: the file; made with its folder if absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.BufferedWriter | None = None

    def read(self, offset: int = 0) -> bytes:
        """Return all from ``offset`` on; nothing without a file."""
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def open(self, length: int) -> None:
        """Make the file if it is absent, and cut it off after ``length`` bytes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        self._file.truncate(length)

    def append(self, line: bytes) -> None:
        """Hand ``line`` to the system, which keeps it whatever becomes of this process."""
        assert self._file is not None
        self._file.write(line)
        self._file.flush()

    def sync(self) -> None:
        """Wait until the system has written it to the disk."""
        assert self._file is not None
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class CheckpointsOnDisk:
    """Checkpoints in files; see ``CheckpointFiles``.

    Args:
        path: the file of the last one; the one before it has ``.before`` added to its name.
    """

    def __init__(self, path: Path) -> None:
        self._last = path
        self._before, self._draft = (path.with_name(path.name + suffix) for suffix in (".before", ".new"))

    def write(self, content: bytes) -> None:
        """Write a new file, wait until it is on the disk, and rename it into its place."""
        self._last.parent.mkdir(parents=True, exist_ok=True)
        with self._draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if self._last.exists():
            self._last.replace(self._before)
        self._draft.replace(self._last)

    def read(self) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield the name and the content of each file that there is."""
        for path in (self._last, self._before):
            try:
                yield path.name, path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                yield path.name, error

    def remove(self) -> None:
        """Remove the files, and one that was not written to its end."""
        for path in (self._last, self._before, self._draft):
            path.unlink(missing_ok=True)


def journal_file(place: Path | JournalFile) -> JournalFile:
    """Return the journal at ``place``, which may be a path."""
    return JournalOnDisk(place) if isinstance(place, Path) else place


def checkpoint_files(place: Path | CheckpointFiles) -> CheckpointFiles:
    """Return the checkpoints at ``place``, which may be the path of the last one."""
    return CheckpointsOnDisk(place) if isinstance(place, Path) else place
