"""The executor that trains on Ray: on one of our own, or on a cluster at an address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.config.loader import Resources, Trial
from study.execution.executor import Capacity
from study.execution.ray_backend.cluster import Connection
from study.execution.search import StudySearch
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions

if TYPE_CHECKING:
    from study.execution.ray_backend.sent_data import SentData
    from study.execution.ray_backend.shared_places import SharedPlaces


class RayExecutor:
    """Trains in worker processes of Ray; see ``study.execution.executor.Executor``.

    Args:
        connection: The Ray to use.
        shared_folder: Whether all nodes see the study's folder at the same path. Workers that do not see it
            write through an actor on this node; with False, all workers do. Default: ask every node.
    """

    def __init__(self, connection: Connection, shared_folder: bool | None = None) -> None:
        self._connection, self.shared_folder = connection, shared_folder
        self._slots = 1
        self._places: dict[Path, tuple[SharedPlaces, Any]] = {}

    @property
    def is_local(self) -> bool:
        """Whether it is a Ray of our own, on this machine."""
        return self._connection.is_local

    @property
    def is_starting(self) -> bool:
        """Whether Ray was started and is not ready yet."""
        return self._connection.is_starting

    def check(self, resources: Resources) -> None:
        """Raise an error if no cluster answers at the address, or it requires another token."""
        self._connection.check(resources)

    def start(self) -> None:
        """Begin to start Ray, or to join it, in the background."""
        self._connection.start()

    def wait(self, resources: Resources, folder: StudyFolder) -> Capacity:
        """Wait until Ray is ready and return how many workers with ``resources`` it runs at a time."""
        cluster = self._connection.wait()
        self._slots = cluster.slots(resources)
        return Capacity(self._slots, cluster.gpus, self._note(folder))

    def _note(self, folder: StudyFolder) -> str:
        """Return a line for people if some nodes do not see ``folder``; otherwise an empty one."""
        if (places := self._places_of(folder)) is None:
            return ""
        from study.execution.ray_backend import shared_places

        blind, nodes = shared_places.count_blind_nodes(places)
        if not blind:
            return ""
        return f"{blind} of {nodes} nodes do not see {folder.path}: they write through this node"

    @property
    def _nodes_see_ours(self) -> bool:
        """Whether all nodes are known to see the files of this one."""
        return self.is_local if self.shared_folder is None else self.shared_folder

    def _places_of(self, folder: StudyFolder) -> SharedPlaces | None:
        """Return how workers reach ``folder``; None if all nodes see it. The first call starts the actor."""
        if self._nodes_see_ours:
            return None
        if folder.path not in self._places:
            from study.execution.ray_backend import shared_places

            self._places[folder.path] = shared_places.share(folder, look=self.shared_folder is None)
        return self._places[folder.path][0]

    def _data(self, workloads: Iterable[str], options: WorkerOptions) -> SentData | None:
        """Return the data sets that nodes may lack; None if all nodes see those of this one."""
        if self._nodes_see_ours:
            return None
        from study.execution.ray_backend import sent_data

        return sent_data.send(workloads, options.data_folder)

    def train(self, bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
        """Train each bundle in one process at a time; a process takes one bundle after the other."""
        # Ray Tune takes a second to import, in which Ray itself can start.
        from study.execution.ray_backend import trials

        workloads = {trial.workload for bundle in bundles for trial in bundle}
        trials.schedule(bundles, folder, options, self._places_of(folder), self._data(workloads, options))

    def search(self, search: StudySearch, folder: StudyFolder, options: WorkerOptions) -> None:
        """Train the points that ``search`` asks for, each in one process."""
        from study.execution.ray_backend.search import run_search

        workloads = {arm.arm.template.workload for arm in search.arms.values()}
        data = self._data(workloads, options)
        run_search(search, folder, options, self._places_of(folder), data, slots=self._slots)

    def shutdown(self) -> None:
        """Leave the cluster, or stop the Ray of our own."""
        self._places.clear()
        self._connection.shutdown()
