"""The executor that trains on Ray: on one of its own, or on a cluster at an address."""

from __future__ import annotations

from collections.abc import Sequence

from study.config.loader import Resources, Trial
from study.execution.executor import Capacity
from study.execution.ray_backend.cluster import Connection
from study.execution.search import StudySearch
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions


class RayExecutor:
    """Trains in worker processes of Ray; see ``study.execution.executor.Executor``.

    Args:
        connection: the Ray to use.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._slots = 1

    @property
    def is_local(self) -> bool:
        """Whether it is a Ray of our own, on this machine."""
        return self._connection.is_local

    @property
    def is_starting(self) -> bool:
        """Whether Ray was started and is not ready yet."""
        return self._connection.is_starting

    def check(self, resources: Resources) -> None:
        """Refuse an address at which no cluster answers, or one that wants another token."""
        self._connection.check(resources)

    def start(self) -> None:
        """Begin to start Ray, or to join it, in the background."""
        self._connection.start()

    def wait(self, resources: Resources) -> Capacity:
        """Wait until Ray is ready and return how many workers with ``resources`` it runs at a time."""
        cluster = self._connection.wait()
        self._slots = cluster.slots(resources)
        return Capacity(self._slots, cluster.gpus)

    def train(self, bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
        """Train each bundle in one process at a time; a process takes one bundle after the other."""
        # Ray Tune takes a second to import, in which Ray itself can start.
        from study.execution.ray_backend import trials

        trials.schedule(bundles, folder, options)

    def search(self, search: StudySearch, folder: StudyFolder, options: WorkerOptions) -> None:
        """Train the points that ``search`` asks for, each in one process."""
        from study.execution.ray_backend.search import run_search

        run_search(search, folder, options, slots=self._slots)

    def shutdown(self) -> None:
        """Leave the cluster, or stop the Ray of our own."""
        self._connection.shutdown()
