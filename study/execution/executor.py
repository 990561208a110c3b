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
    """All workers went away in the middle of a study. What the trials did so far is kept."""


@dataclass(frozen=True)
class Capacity:
    """What an executor offers.

    Args:
        slots: how many worker processes run at a time.
        gpus: how many GPUs there are in all.
        note: for people: how workers reach the study's folder, where that is not plain; one line.
    """

    slots: int
    gpus: float = 0.0
    note: str = ""


class Executor(Protocol):
    """Runs trials in worker processes, or in this process.

    The driver calls the methods in the order in which they stand here, from the main thread; ``train`` and
    ``search`` any number of times. Workers leave their results in the trials' journals, and a trial whose
    journal is complete is not trained again, so every call can be repeated after an interruption.
    """

    @property
    def is_local(self) -> bool:
        """Whether trials run on this machine, and so find the data sets of this process."""

    @property
    def is_starting(self) -> bool:
        """Whether it was told to start and is not ready yet; an interruption waits until it is."""

    def check(self, resources: Resources) -> None:
        """Refuse at once what ``wait`` would refuse, as far as that can be told without starting.

        Raises:
            ExecutorError: nothing answers where it should, or a worker asks for more than there is.
        """

    def start(self) -> None:
        """Begin to start in the background. A second call does nothing."""

    def wait(self, resources: Resources, folder: StudyFolder) -> Capacity:
        """Start, wait until workers can be had, and return how many.

        Args:
            resources: what one worker takes.
            folder: the study's folder.

        Raises:
            ExecutorError: it does not start, or has no room for one worker; or another driver runs the study.
        """

    def train(self, bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
        """Train every bundle and return when all have ended; how, their journals say.

        Args:
            bundles: for each worker process, the trials that it trains.
            folder: the study's folder.
            options: what each worker may use, and how it trains.

        Raises:
            LostWorkersError: all workers are gone.
        """

    def search(self, search: StudySearch, folder: StudyFolder, options: WorkerOptions) -> None:
        """Train the points that ``search`` asks for, until it asks for no more.

        Args:
            search: what to ask for points and tell how they ended.
            folder: the study's folder.
            options: what each worker may use, and how it trains.

        Raises:
            LostWorkersError: all workers are gone.
        """

    def shutdown(self) -> None:
        """Stop everything that ``start`` started. The executor cannot be used again."""
