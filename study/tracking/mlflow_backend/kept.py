"""The state of a study in MLflow: its experiment, and one run per trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from study.storage.records import TrialRecord
from study.tracking.mlflow_backend.client import all_runs, complete_status


@dataclass
class Kept:
    """The study's experiment and runs in MLflow, as far as this process knows."""

    experiment_id: str
    parent_id: str
    """Empty while there is no parent run."""
    runs: dict[str, Run]
    """Runs by trial key."""
    complete: dict[str, str]
    """Final status of each run that was sent to its end, by trial key."""
    doubles: list[Run]
    """Further runs of the same trials: a request whose answer comes too late is sent twice."""
    tags: dict[str, str]
    """Tags of the experiment."""

    def look_again(self, client: MlflowClient, key: str) -> None:
        """Read the runs of one trial again, after a request whose answer was lost; delete doubles.

        Args:
            client: Client of the MLflow that has the study.
            key: The trial's key.
        """
        found, doubles = _one_per_trial(self._runs_of(client, key))
        self.runs.pop(key, None)
        self.complete.pop(key, None)
        self.runs |= found
        self.complete |= _complete(found)
        for run in doubles:
            client.delete_run(run.info.run_id)

    def withdraw(self, client: MlflowClient, key: str) -> None:
        """Delete the run of a trial that this process knows if MLflow has another; otherwise keep it.

        Args:
            client: Client of the MLflow that has the study.
            key: The trial's key.
        """
        run = self.runs.pop(key, None)
        self.complete.pop(key, None)
        found = self._runs_of(client, key)
        if run is not None and {other.info.run_id for other in found} > {run.info.run_id}:
            client.delete_run(run.info.run_id)

    def _runs_of(self, client: MlflowClient, key: str) -> Iterable[Run]:
        return client.search_runs([self.experiment_id], f"tags.trial_key = '{key}'")


def look_up(client: MlflowClient, experiment: Experiment) -> Kept:
    """Return the state of a study in MLflow.

    Args:
        client: Client of the MLflow that has the study.
        experiment: The study's experiment.
    """
    runs = list(all_runs(client, experiment.experiment_id))
    parent = next((run.info.run_id for run in runs if run.data.tags.get("role") == "study"), "")
    kept, doubles = _one_per_trial(runs)
    return Kept(experiment.experiment_id, parent, kept, _complete(kept), doubles, experiment.tags)


def _complete(runs: Mapping[str, Run]) -> dict[str, str]:
    return {key: status for key, run in runs.items() if (status := complete_status(run))}


def final_status(record: TrialRecord) -> str:
    """Return the status for the MLflow run of a trial that has ended."""
    return "FINISHED" if record.is_complete else "KILLED" if record.status == "pruned" else "FAILED"


def _one_per_trial(runs: Iterable[Run]) -> tuple[dict[str, Run], list[Run]]:
    """Return one run per trial key, the most complete one, and the doubles."""
    kept: dict[str, Run] = {}
    doubles = []
    for run in sorted(runs, key=lambda run: (complete_status(run) is None, run.info.start_time)):
        if (key := run.data.tags.get("trial_key")) and kept.setdefault(key, run) is not run:
            doubles.append(run)
    return kept, doubles
