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
"""After this time the preflight tries no further combination of workload and optimizer."""


def check_names(study: Study, trials: Iterable[Trial], *, imports: bool = True) -> list[str]:
    """Check that everything that a study names exists and takes its arguments.

    Args:
        study: The study.
        trials: The trials of the study that are to be trained.
        imports: Whether to import the user's own code. Otherwise only its source is searched.

    Returns:
        Names of the user's own code that was not imported, so that nobody knows whether it runs.

    Raises:
        WorkloadError, OptimizerError: A workload or an optimizer cannot be created.
        SamplerError: A search's sampler cannot be created.
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
    """Read the data sets once, so that workers need not download and decode them again.

    Errors of a user's own ``load`` are ignored here: ``try_one_batch`` reports them.

    Args:
        study: The study.
        trials: Trials of the study that are to be trained on this machine.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.

    Raises:
        DataError: Data are missing and cannot be downloaded.
        WorkloadError: A search maximizes the accuracy of a regression, which has none.
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

    A combination that has trained an epoch before is not tried, nor is a built-in workload if the trials run
    on other machines, which may have its data while this one lacks them.

    Args:
        records: Records of the trials that are to be trained.
        data_folder: Folder of the data sets. Default: see ``study.workloads.datasets.data_dir``.
        gpus: GPUs per trial; may be a fraction.
        is_local: Whether the trials run on this machine.
        on_message: Called with one line for each combination that cannot be tried, and if time runs out.

    Returns:
        The failure of each combination that fails, by ``Trial.kind``.
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
    """Return the trials, reordered so that one of every workload comes first."""
    first: dict[str, Trial] = {}
    for trial in trials:
        first.setdefault(f"{trial.workload} {trial.workload_args}", trial)
    front = list(first.values())
    return [*front, *(trial for trial in trials if trial not in front)]
