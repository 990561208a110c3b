"""Finds the folders of data sets and caches, and loads data once. Importing it does not import torch."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import filelock

if TYPE_CHECKING:
    import torch

    from study.workloads.base import Data, Workload

__all__ = [
    "CACHE_VARIABLE",
    "DATA_VARIABLE",
    "DataError",
    "cache_dir",
    "data_dir",
    "load",
    "machine_lock",
    "open_or_download",
]

DATA_VARIABLE = "HYPERGRAD_STUDY_DATA"
CACHE_VARIABLE = "HYPERGRAD_STUDY_CACHE"

T = TypeVar("T")
_loaded: dict[tuple[object, ...], Data] = {}
_loading = threading.Lock()


class DataError(RuntimeError):
    """Data are missing or unusable; the message is one line that says what, where, and what would help."""


def cache_dir() -> Path:
    """Return the folder of caches: ``HYPERGRAD_STUDY_CACHE``, or a folder in the user's own cache."""
    chosen: str | Path | None = os.environ.get(CACHE_VARIABLE)
    if not chosen:
        import platformdirs  # a bare GPU machine may lack it

        chosen = platformdirs.user_cache_path("hypergrad-study", appauthor=False)
    return Path(chosen).expanduser().absolute()


def data_dir(option: Path | None = None) -> Path:
    """Return the folder of data sets: ``option``, ``HYPERGRAD_STUDY_DATA``, or ``data`` in the cache."""
    chosen = option or os.environ.get(DATA_VARIABLE) or cache_dir() / "data"
    return Path(chosen).expanduser().absolute()


def load(workload: Workload, folder: Path | None, device: torch.device | str) -> Data:
    """Return the workload's data on ``device``: the same tensors for every trial of this process.

    ``workload.load`` runs in one process of this machine at a time per folder, so a data set is downloaded
    once. Two machines that share a folder do not see each other's locks: fill it before they start. A folder
    that has the data is only read.

    Args:
        workload: The workload; workloads with the same ``load`` function share their data.
        folder: Folder of the data sets; None for the default, see ``data_dir``.
        device: Device of the tensors.

    Raises:
        DataError: The data are missing and cannot be downloaded, or ``workload.load`` returned no ``Data``.
    """
    import torch

    from study.workloads import torch_settings
    from study.workloads.base import Data

    folder = data_dir(folder)
    device = torch.empty(0, device=device).device  # "cuda" and "cuda:0" are one device
    key = (workload.load, folder, device, repr(torch_settings.kept(workload)))
    with _loading:
        if key not in _loaded:
            with (
                machine_lock(f"data {folder.resolve()}"),
                torch_settings.keeping(workload.load, workload),
            ):
                data: object = workload.load(folder)
            if not isinstance(data, Data):
                returned = type(data).__name__
                raise DataError(
                    f"workload {workload.name!r}: load returned {returned}, not study.workloads.base.Data"
                )
            _loaded[key] = data.to(device)
        return _loaded[key]


@contextmanager
def machine_lock(name: str) -> Iterator[None]:
    """Hold the lock ``name`` against this user's other processes on this machine; wait until it is free.

    Locks lie in the cache folder: the data may be read-only or on a network disk.

    Raises:
        DataError: The cache folder cannot be written.
    """
    locks = cache_dir() / "locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(locks / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock")
        lock.acquire()
    except OSError as error:
        raise DataError(
            f"cannot write the cache folder {cache_dir()} ({error}); name another with {CACHE_VARIABLE}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def open_or_download(
    dataset: Callable[[Path, bool], T], folder: Path, *, what: str, files: str, source: str
) -> T:
    """Return ``dataset(folder, False)``, after a download into ``folder`` if files are absent or damaged.

    The download goes to a folder beside the data, and the files are renamed into place when all are there. So
    a process that is killed meanwhile leaves no incomplete file among the data.

    Args:
        dataset: Opens the data in a folder, and downloads them first if the second argument is true, as
            torchvision's classes do.
        folder: Folder of the data sets; created if absent.
        what: Name of the data set, for messages.
        files: Place of its files in ``folder``, for messages.
        source: Address of the download, for messages.

    Raises:
        DataError: The data are missing and cannot be downloaded.
    """
    # torchvision's own error for absent files, and its errors for files that were cut off.
    unusable = (RuntimeError, ValueError, LookupError, AssertionError)
    with suppress(*unusable):
        return dataset(folder, False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as staging:
            dataset(Path(staging), True)
            _move_files(Path(staging), folder)
        return dataset(folder, False)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{what} is incomplete in {folder / files}, and downloading it from {source} failed ({reason});"
            f" name the folder that has it with --data or {DATA_VARIABLE}"
        ) from error


def _move_files(source: Path, target: Path) -> None:
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.replace(place)
