"""Checks of a study before any worker starts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from study.config.catalogue import CATALOGUE
from study.config.loader import Study
from study.config.optimizer_name import is_dotted
from study.config.trial import Trial
from study.execution import samplers, source_check
from study.storage.failures import Failure
from study.storage.records import TrialRecord
from study.training import optimizers
from study.training.preflight import preflight
from study.workloads import datasets, registry

PREFLIGHT_SECONDS = 20.0
"""After so many seconds no further combination of workload and optimizer is tried."""


def check_names(study: Study, trials: Iterable[Trial], *, imports: bool = True) -> list[str]:
    """Find out whether what a study names is there and takes its arguments.

    Args:
        study: the study.
        trials: those of its trials that are to be trained.
        imports: import the user's own code; without that, only its source is looked at.

    Returns:
        Names of the user's own code that was not imported, so that nobody knows whether it runs.

    Raises:
        WorkloadError, OptimizerError: a workload or an optimizer cannot be made.
        SamplerError: a search's sampler cannot be made.
    """
    kinds = _one_per_kind(trials)
    for arm in study.arms():
        samplers.ArmSampler(arm)
    unchecked = []
    for trial in {(trial.optimizer, str(trial.optimizer_args)): trial for trial in kinds}.values():
        module, _, name = trial.optimizer.rpartition(".")
        if not is_dotted(trial.optimizer):
            continue
        if imports or module in ("torch.optim", "hypergrad"):
            optimizers.check(trial)
        elif problem := source_check.missing(module, name):
            raise optimizers.OptimizerError(f"optimizer {trial.optimizer}: {problem}")
        else:
            unchecked.append(trial.optimizer)
    for trial in kinds:
        module, own, name = trial.workload.partition(":")
        if imports or not own:
            registry.resolve(trial.workload, trial.workload_args)
        elif problem := source_check.missing(module, name):
            raise registry.WorkloadError(f"workload {trial.workload!r}: {problem}")
        else:
            unchecked.append(trial.workload)
    return list(dict.fromkeys(unchecked))


def check_data(study: Study, trials: Iterable[Trial], data_folder: Path | None) -> None:
    """Read the data sets once, so that they are downloaded and decoded once and not by every worker.

    What a user's own ``load`` raises is not reported here: ``try_one_batch`` does.

    Args:
        study: whose trials they are.
        trials: trials that are to be trained on this machine.
        data_folder: of the data sets; None for the default.

    Raises:
        DataError: data are missing and cannot be downloaded.
        WorkloadError: a search is for the accuracy of a regression, which has none.
    """
    for trial in _one_per_kind(trials):
        workload = registry.resolve(trial.workload, trial.workload_args)
        try:
            data = datasets.load(workload, data_folder, "cpu")
        except datasets.DataError:
            raise
        except Exception:
            continue
        if study.search and study.search.objective == "best_val_accuracy" and not data.has_classes:
            raise registry.WorkloadError(
                f"workload {trial.workload!r}: its targets are no classes, so it has no accuracy to search "
                "for; write search.objective: best_val_loss"
            )


def try_one_batch(
    records: Iterable[TrialRecord],
    data_folder: Path | None,
    *,
    gpus: float,
    is_local: bool,
    on_message: Callable[[str], None],
) -> dict[str, Failure]:
    """Train one batch of every combination of workload and optimizer in this process.

    A combination that has trained an epoch before is not tried, nor is a built-in workload of which the data
    may lie on other machines only.

    Args:
        records: of the trials that are to be trained.
        data_folder: of the data sets; None for the default.
        gpus: what a trial takes of a GPU.
        is_local: whether the trials run on this machine.
        on_message: called with one line per combination that is not tried and would have to be.

    Returns:
        Why combinations fail, by ``Trial.kind``.
    """
    records = list(records)
    known_good = {record.trial.kind for record in records if record.iterations}
    trials = [
        trial
        for trial in _one_per_kind(record.trial for record in records)
        if trial.kind not in known_good and (is_local or trial.workload not in CATALOGUE)
    ]
    found: dict[str, Failure] = {}
    begun = time.monotonic()
    for tried, trial in enumerate(_workloads_first(trials)):
        if time.monotonic() - begun > PREFLIGHT_SECONDS:
            left = len(trials) - tried
            on_message(
                f"{left} combinations are not tried before the start, because that would take too long"
            )
            break
        if failure := preflight(trial, data_folder, gpus=gpus, on_message=on_message):
            found[trial.kind] = failure
    return found


def _one_per_kind(trials: Iterable[Trial]) -> list[Trial]:
    """Return one trial of each combination of workload and optimizer, with their arguments."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(trial.kind, trial)
    return list(found.values())


def _workloads_first(trials: list[Trial]) -> list[Trial]:
    """Return the trials with one of every workload in front."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(f"{trial.workload} {trial.workload_args}", trial)
    front = list(first.values())
    return [*front, *(trial for trial in trials if trial not in front)]
