"""Checkpoints in an object store, such as S3, which every node of a cluster reaches without a shared folder.

It may be any store that fsspec knows: ``s3://bucket/folder`` (with the package s3fs), ``gs://`` (gcsfs),
``file:///`` … Credentials and endpoints come from the environment, as each store's own tools read them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config.messages import first_line

if TYPE_CHECKING:
    from study.config.trial import Trial
    from study.storage.records import TrialRecord
    from study.storage.trial_files import JournalFile, TrialFolder


class ObjectStoreError(ValueError):
    """An object store cannot be used as asked; the message is one line."""


@dataclass(frozen=True)
class ObjectStore:
    """A folder in an object store.

    Args:
        uri: Address of the folder for checkpoints, such as ``s3://bucket/studies``.
    """

    uri: str

    def check(self) -> None:
        """Write an object, read it and remove it, to see whether the store can be used.

        Raises:
            ObjectStoreError: Nothing can be kept there; the message says why.
        """
        probe, content = f"{self._root}/probe-{uuid.uuid4().hex}", b"hypergrad-study"
        try:
            with _os_errors():
                self._files.pipe_file(probe, content)
                there = self._files.cat_file(probe)
                self._files.rm_file(probe)
        except OSError as error:
            raise ObjectStoreError(
                f"no checkpoints can be kept at {self.uri}: {first_line(error)}"
            ) from error
        if there != content:
            raise ObjectStoreError(f"no checkpoints can be kept at {self.uri}: it returns other bytes")

    def of_study(self, name: str) -> ObjectStore:
        """Return the folder of one study's checkpoints."""
        return ObjectStore(f"{self.uri.rstrip('/')}/{name}")

    def checkpoint(self, key: str) -> CheckpointsInStore:
        """Return the checkpoints of the trial with a key."""
        return CheckpointsInStore(self._files, f"{self._root}/{key}.pt")

    @property
    def _files(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return str(self._place[1]).rstrip("/")

    @cached_property
    def _place(self) -> tuple[Any, str]:
        import fsspec  # a dependency of torch; a study without a store does without

        options = {"auto_mkdir": True} if self.uri.startswith(("file:", "local:")) else {}
        try:
            files, root = fsspec.core.url_to_fs(self.uri, **options)
        except (ValueError, ImportError) as error:
            raise ObjectStoreError(f"--checkpoints {self.uri}: {first_line(error)}") from error
        return files, root


class CheckpointsInStore:
    """The last two checkpoints of one trial; see ``study.storage.trial_files.CheckpointFiles``.

    A store replaces an object whole or not at all.

    Args:
        files: The store, an ``fsspec.AbstractFileSystem``.
        path: Path of the last checkpoint. The one before it has ``.before`` added to its name.
    """

    def __init__(self, files: Any, path: str) -> None:
        self._files, self._last, self._before = files, path, f"{path}.before"

    def write(self, content: bytes) -> None:
        """Copy the last checkpoint to the one before it, and replace it."""
        with _os_errors():
            with suppress(FileNotFoundError):
                self._files.cp_file(self._last, self._before)
            self._files.pipe_file(self._last, content)

    def read(self) -> Iterator[tuple[str, bytes | OSError]]:
        """Yield the name and the content of each object that there is."""
        for path in (self._last, self._before):
            try:
                with _os_errors():
                    content: bytes | OSError = self._files.cat_file(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                content = error
            yield path.rpartition("/")[2], content

    def remove(self) -> None:
        """Remove both objects."""
        for path in (self._last, self._before):
            with _os_errors(), suppress(FileNotFoundError):
                self._files.rm_file(path)


@dataclass(frozen=True)
class WithCheckpointsIn:
    """A study's folder whose checkpoints are in an object store; see ``TrialFolder``.

    Args:
        store: The store for the checkpoints.
        folder: The study's folder, which has everything else.
    """

    store: ObjectStore
    folder: TrialFolder

    def journal(self, trial: Trial) -> Path | JournalFile:
        """Return the journal of ``trial``."""
        return self.folder.journal(trial)

    def checkpoint(self, trial: Trial) -> CheckpointsInStore:
        """Return the checkpoints of ``trial``."""
        return self.store.checkpoint(trial.key)

    def records(self, trials: Iterable[Trial]) -> list[TrialRecord]:
        """Return the records of ``trials``, in their order."""
        return self.folder.records(trials)

    def flush(self, *, wait: bool = False) -> None:
        """Send the lines that were appended to journals to their files."""
        self.folder.flush(wait=wait)


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn the errors of a store's own package, such as botocore's, into OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error
