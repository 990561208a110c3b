"""The interface of executors, which train trials and run searches, in this process or on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from study.config.sections import Resources
    from study.config.trial import Trial
    from study.execution.search import StudySearch
    from study.storage.study_folder import StudyFolder
    from study.training.worker import WorkerOptions


class ExecutorError(RuntimeError):
    """Trials cannot be run as asked; the message is one line that says what would help."""


class LostWorkersError(ExecutorError):
    """All workers went away in the middle of a study. The trials keep their progress."""


@dataclass(frozen=True)
class Capacity:
    """The room that an executor has for workers.

    Args:
        slots: Number of worker processes that run at a time.
        gpus: Number of GPUs in all.
        note: One line for people, on how workers reach the study's folder if some do not see it.
    """

    slots: int
    gpus: float = 0.0
    note: str = ""


class Executor(Protocol):
    """Runs trials in worker processes, or in this process.

    The driver calls the methods from the main thread, in the order in which they are defined here; ``train``
    and ``search`` any number of times. Workers write results into the trials' journals, and a trial whose
    journal is complete is not trained again, so every call can be repeated after an interruption.
    """

    @property
    def is_local(self) -> bool:
        """Whether trials run on this machine, and so find the data sets of this process."""

    @property
    def is_starting(self) -> bool:
        """Whether the executor was started and is not ready yet; an interruption waits until it is."""

    def check(self, resources: Resources) -> None:
        """Raise the errors of ``wait`` at once, as far as they can be found without starting.

        Raises:
            ExecutorError: Nothing answers at the address, or a worker asks for more than there is.
        """

    def start(self) -> None:
        """Begin to start in the background. A second call does nothing."""

    def wait(self, resources: Resources, folder: StudyFolder) -> Capacity:
        """Start, wait until workers can run, and return how many.

        Args:
            resources: The resources that one worker takes.
            folder: The study's folder.

        Raises:
            ExecutorError: The executor does not start, has no room for one worker, or another driver runs the
                study.
        """

    def train(self, bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
        """Train every bundle and return when all have ended. The journals say how each trial ended.

        Args:
            bundles: The trials that each worker process trains.
            folder: The study's folder.
            options: What each worker may use, and how it trains.

        Raises:
            LostWorkersError: All workers are gone.
        """

    def search(self, search: StudySearch, folder: StudyFolder, options: WorkerOptions) -> None:
        """Train the points that ``search`` asks for, until it asks for no more.

        Args:
            search: The search, which gives the points and gets their outcomes.
            folder: The study's folder.
            options: What each worker may use, and how it trains.

        Raises:
            LostWorkersError: All workers are gone.
        """

    def shutdown(self) -> None:
        """Stop everything that ``start`` started. The executor cannot be used again."""
