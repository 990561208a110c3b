"""The executor that trains in this process, without Ray: for debugging, tests and small machines."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch

from study.config.loader import Resources, Trial
from study.execution.executor import Capacity, ExecutorError
from study.execution.search import StudySearch, train_unit
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions, run_bundle


class InProcessExecutor:
    """Trains one bundle or point after the other; see ``study.execution.executor.Executor``.

    A breakpoint in a user's workload or optimizer stops in the terminal. An interruption leaves the current
    trial at its last checkpoint, as it does in a worker process.
    """

    is_local = True
    is_starting = False

    def check(self, resources: Resources) -> None:
        """Raise an error if a study asks for a GPU and there is none.

        Raises:
            ExecutorError: The study asks for a GPU and there is none.
        """
        if resources.gpus > 0 and not torch.cuda.is_available():
            raise ExecutorError(
                f"a trial asks for {resources.gpus:g} GPUs, and PyTorch finds none here; "
                "lower `resources` in the study file"
            )

    def start(self) -> None:
        """Do nothing: this process runs already."""

    def wait(self, resources: Resources, folder: StudyFolder) -> Capacity:
        """Return that there is room for one worker, this process."""
        self.check(resources)
        return Capacity(slots=1, gpus=float(torch.cuda.device_count()))

    def train(self, bundles: Sequence[Sequence[Trial]], folder: StudyFolder, options: WorkerOptions) -> None:
        """Train one bundle after the other."""
        for bundle in bundles:
            for _ in run_bundle(bundle, folder, options):
                pass

    def search(self, search: StudySearch, folder: StudyFolder, options: WorkerOptions) -> None:
        """Train one unit after the other."""
        while (unit := search.next()) is not None:
            with closing(train_unit(unit.trials, unit.objective, folder, options)) as reports:
                for epoch, value in reports:
                    if search.stops(unit, epoch, value):
                        break
            search.settle(unit, stopped=True)

    def shutdown(self) -> None:
        """Do nothing: nothing was started."""
