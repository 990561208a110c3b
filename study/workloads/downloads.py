"""The data sets that are downloaded: their names and their places. Importing it does not import torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["DOWNLOADS", "Download", "needed", "read", "write"]


class Download(NamedTuple):
    """A data set that does not come with the program.

    Args:
        prefix: Beginning of the names of the workloads that use it.
        name: Name for people.
        place: Place in the folder of data sets.
        size: Size of the download, as text for people.
    """

    prefix: str
    name: str
    place: str
    size: str


DOWNLOADS = (
    Download("mnist-", "MNIST", "MNIST/raw", "12 MB"),
    Download("cifar10-", "CIFAR-10", "cifar-10-batches-py", "170 MB"),
)


def needed(workloads: Iterable[str]) -> list[Download]:
    """Return the data sets that workloads with these names use."""
    names = tuple(workloads)
    return [download for download in DOWNLOADS if any(name.startswith(download.prefix) for name in names)]


def read(download: Download, folder: Path) -> dict[str, bytes] | None:
    """Return the content of a data set's unpacked files, by name; None if it is not in ``folder``.

    Raises:
        OSError: A file cannot be read.
    """
    place = folder / download.place
    if not place.is_dir():
        return None
    files = [file for file in sorted(place.iterdir()) if file.is_file() and file.suffix != ".gz"]
    return {file.name: file.read_bytes() for file in files} or None


def write(download: Download, folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a data set's files into ``folder``: all of them, or none if this process ends meanwhile.

    Raises:
        OSError: ``folder`` cannot be written.
    """
    place = folder / download.place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sent-", dir=folder) as staging:
        whole = Path(staging) / "whole"
        whole.mkdir()
        for name, content in files.items():
            (whole / name).write_bytes(content)
        whole.rename(place)
