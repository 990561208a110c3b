"""The files of one trial: a journal, which grows, and checkpoints, which are replaced.

A worker uses them through these protocols, because the study's folder may lie on another machine
(``study.execution.ray_backend.remote_folder``). The classes here are files on a disk that this machine
sees.
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
        """Return the bytes from ``offset`` on; none if there is no journal yet.

        Raises:
            OSError: The journal cannot be read.
        """

    def open(self, length: int) -> None:
        """Cut off everything after the first ``length`` bytes, and prepare for ``append``.

        Raises:
            OSError: The journal cannot be written.
        """

    def append(self, line: bytes) -> None:
        """Add ``line`` at the end. It survives the end of this process once ``sync`` has returned.

        Raises:
            OSError: The journal cannot be written.
        """

    def sync(self) -> None:
        """Wait until everything appended is on a disk, where it survives a crash of the machine.

        Raises:
            OSError: The journal cannot be written.
        """

    def close(self) -> None:
        """Close the journal: nothing more can be appended."""


class CheckpointFiles(Protocol):
    """The last two checkpoints of one trial, as bytes."""

    def write(self, content: bytes) -> None:
        """Keep ``content`` as the last checkpoint, complete or not at all, and the one that it replaces.

        Raises:
            OSError: The checkpoint cannot be written; the earlier ones stay.
        """

    def read(self) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield the name and the content of each, the last one first; or the error if it cannot be read."""

    def remove(self) -> None:
        """Remove all of them."""


class TrialFolder(Protocol):
    """The study's folder, or an object in its place, where a worker finds the files of its trials."""

    def journal(self, trial: Trial) -> Path | JournalFile:
        """Return the journal of ``trial``."""

    def checkpoint(self, trial: Trial) -> Path | CheckpointFiles:
        """Return the checkpoints of ``trial``: the path of the last one, or an object in its place."""

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return the records of ``trials``, in their order, from their journals."""

    def flush(self, *, wait: bool = False) -> None:
        """Send the lines that were appended to journals. Called after every epoch; returns soon.

        Args:
            wait: Whether to wait until other processes can read the lines.

        Raises:
            OSError: Lines that were appended before cannot be written.
        """


class JournalOnDisk:
    """A journal in a file; see ``JournalFile``.

    Args:
        path: The file; created with its folder if absent.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.BufferedWriter | None = None

    def read(self, offset: int = 0) -> bytes:
        """Return the bytes from ``offset`` on; none if there is no file."""
        try:
            with self._path.open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def open(self, length: int) -> None:
        """Create the file if it is absent, and cut it off after ``length`` bytes."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("ab")
        self._file.truncate(length)

    def append(self, line: bytes) -> None:
        """Hand ``line`` to the system, which writes it even if this process ends."""
        assert self._file is not None
        self._file.write(line)
        self._file.flush()

    def sync(self) -> None:
        """Wait until the system has written the file to the disk."""
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
        path: File of the last checkpoint. The one before it has ``.before`` added to its name.
    """

    def __init__(self, path: Path) -> None:
        self._last = path
        self._before, self._draft = (path.with_name(path.name + suffix) for suffix in (".before", ".new"))

    def write(self, content: bytes) -> None:
        """Write a new file, wait until it is on the disk, and rename it to its name."""
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
        """Remove the files, and an incomplete one."""
        for path in (self._last, self._before, self._draft):
            path.unlink(missing_ok=True)


def journal_file(place: Path | JournalFile) -> JournalFile:
    """Return the journal at ``place``, which may be its path."""
    return JournalOnDisk(place) if isinstance(place, Path) else place


def checkpoint_files(place: Path | CheckpointFiles) -> CheckpointFiles:
    """Return the checkpoints at ``place``, which may be the path of the last one."""
    return CheckpointsOnDisk(place) if isinstance(place, Path) else place
