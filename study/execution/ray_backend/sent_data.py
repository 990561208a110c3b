"""Sends data sets from the driver to nodes that lack them, which may not reach the internet."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from study.workloads import datasets, downloads
from study.workloads.downloads import Download

SENT_BYTES = 300_000_000
"""Larger data sets are not sent, as Ray keeps them in memory. MNIST has 55 MB, CIFAR-10 has 178 MB."""
SENT_SHARE = 0.5
"""Share of a node's memory for objects that a data set may take."""


@dataclass(frozen=True)
class SentData:
    """Data sets that a worker can take from the driver; ``send`` creates it, and Ray sends it to workers.

    Args:
        sets: Each data set, with a reference to the content of its files by name.
    """

    sets: tuple[tuple[Download, Any], ...] = ()

    def unpack(self, data_folder: Path | None) -> None:
        """Write the data sets that are not in this node's folder of data sets, once per node.

        If the folder cannot be written, the workload reports that when it loads its data.

        Args:
            data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        """
        folder = datasets.data_dir(data_folder)
        for download, reference in self.sets:
            with suppress(OSError, datasets.DataError):
                if (folder / download.place).is_dir():
                    continue
                with datasets.machine_lock(f"data {folder.resolve()}"):
                    if not (folder / download.place).is_dir():
                        downloads.write(download, folder, ray.get(reference))


def send(workloads: Iterable[str], data_folder: Path | None) -> SentData:
    """Give Ray the small data sets of workloads that are on this node; a node fetches those that it lacks.

    Args:
        workloads: Names of workloads.
        data_folder: The driver's folder of data sets. Default: see ``study.workloads.datasets.data_dir``.

    Raises:
        OSError: A file cannot be read.
    """
    folder = datasets.data_dir(data_folder)
    room = min(SENT_BYTES, SENT_SHARE * _smallest_object_store())
    sets = []
    for download in downloads.needed(workloads):
        files = downloads.read(download, folder)
        if files is not None and sum(map(len, files.values())) <= room:
            sets.append((download, ray.put(files)))
    return SentData(tuple(sets))


def _smallest_object_store() -> float:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return float(min(resources.get("object_store_memory", 0.0) for resources in nodes))
