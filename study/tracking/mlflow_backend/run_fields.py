"""The fields of every MLflow run: its name, its user, source and commit, its data set, its note."""

from __future__ import annotations

import getpass
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import sha256

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.credentials import read_mlflow_creds
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)

from study.analysis.formatting import format_number
from study.analysis.metrics import outcome
from study.analysis.tables import trial_workload_label
from study.config.catalogue import CATALOGUE
from study.config.loader import Study, Trial
from study.storage import provenance
from study.storage.failures import cause_of
from study.storage.records import TrialRecord
from study.tracking.mlflow_backend import metrics

SOURCE = "hypergrad-study"
_TAGGED = ("workload", "optimizer", "op", "lop", "rule", "alpha0", "beta", "seed")


class RunNames:
    """Names the runs of a study's trials: settings that differ come first, as lists cut names off.

    ::

        adam-adam α₀=0.001 β=1e-07 seed=0     optimizers, α₀, β and seeds differ
        α₀=0.001 seed=0 adam-adam β=1e-07     one optimizer, one β

    A workload is named if there are several; a granularity if an optimizer has several.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        self._differ = _differing(study.planned_trials())
        for arm in study.arms():
            self._differ |= arm.space.keys()

    def of(self, trial: Trial) -> str:
        """Return the name of a trial's run."""
        parts = _parts(trial)
        first = [text for name, text in parts.items() if text and name in self._differ]
        rest = [text for name, text in parts.items() if text and name not in (*self._differ, *_IF_DIFFERENT)]
        return " ".join([*first, *rest])


_IF_DIFFERENT = ("workload", "granularity")


def _parts(trial: Trial) -> dict[str, str]:
    beta = "" if trial.beta is None else f"β={_short(trial.beta)}"
    return {
        "workload": trial_workload_label(trial),
        "optimizer": trial.label,
        "alpha0": f"α₀={_short(trial.alpha0)}",
        "beta": beta,
        "granularity": f"granularity={trial.granularity}",
        "seed": f"seed={trial.seed}",
    }


def _differing(trials: Iterable[Trial]) -> set[str]:
    """Return the parts of names that differ; α₀, β, granularity and seed if they do for one optimizer."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for trial in trials:
        parts = _parts(trial)
        for name, text in parts.items():
            among = "" if name in ("workload", "optimizer") else f"{parts['workload']} {parts['optimizer']}"
            seen[name][among].add(text)
    return {name for name, groups in seen.items() if any(len(texts) > 1 for texts in groups.values())}


def standard_tags(machine: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the tags that the MLflow UI shows as a run's user, source and version.

    Args:
        machine: Machine of the trial's record, with the commit that trained it. Default: this checkout's
            commit.
    """
    known = {
        MLFLOW_USER: _user(),
        MLFLOW_SOURCE_NAME: SOURCE,
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_GIT_COMMIT: (machine or {}).get("commit") or provenance.commit(),
    }
    return {name: value for name, value in known.items() if value}


def trial_tags(study: Study, record: TrialRecord) -> dict[str, str]:
    """Return the tags of a trial's run at its start.

    Args:
        study: The study.
        record: The trial's record.
    """
    trial = record.trial
    params = metrics.params(trial)
    tags = {
        **standard_tags(record.machine),
        "study": study.name,
        "role": "trial",
        "trial_key": trial.key,
        "attempt": record.attempt,
        **{name: str(params[name]) for name in _TAGGED if name in params},
        "optimizer": trial.label,  # for grouping; the parameter of that name is exact
        **{f"machine.{name}": value for name, value in record.machine.items()},
    }
    if study.search is not None:
        tags["stage"] = "search" if study.is_search_trial(trial) else "report"
    return tags


def final_tags(study: Study, record: TrialRecord, summary: Mapping[str, float]) -> dict[str, str]:
    """Return the tags of a trial's run that are set when the trial has ended: outcome and note.

    Args:
        study: The study.
        record: The trial's record.
        summary: Metrics from ``study.analysis.metrics.summarise``; empty for a trial that failed.
    """
    threshold = study.threshold(record.trial)
    tags: dict[str, str] = {
        "outcome": outcome(record, threshold),
        MLFLOW_RUN_NOTE: note(record, threshold, summary),
    }
    if study.search is not None and record.status != "failed":
        tags["pruned"] = str(record.status == "pruned").lower()
    return tags


def dataset(workload: str, arguments: Mapping[str, object]) -> DatasetInput:
    """Return a workload's data set as an input of a run.

    Its digest identifies the workload and its arguments: the driver does not read the data.

    Args:
        workload: The workload's name.
        arguments: The workload's arguments.
    """
    built_in = CATALOGUE.get(workload)
    # The name of a built-in workload begins with its data set's.
    name = workload.partition("-")[0] if built_in else workload
    digest = sha256(json.dumps([workload, dict(arguments)], sort_keys=True).encode()).hexdigest()[:8]
    source = json.dumps({"function": built_in.function if built_in else workload} | {"args": dict(arguments)})
    profile = json.dumps({"num_rows": built_in.train_size}) if built_in and built_in.train_size else None
    return DatasetInput(
        Dataset(name, digest, "code", source, profile=profile),
        [InputTag(MLFLOW_DATASET_CONTEXT, "training")],
    )


def note(record: TrialRecord, threshold: float | None, summary: Mapping[str, float]) -> str:
    """Return a summary of a trial that has ended, a few lines of Markdown that the UI shows on top.

    Args:
        record: The trial's record.
        threshold: Threshold of the training loss; None if there is none.
        summary: Metrics from ``study.analysis.metrics.summarise``.
    """
    if record.status == "failed":
        return f"Failed: {cause_of(record.error)}" if record.error else "Failed."
    lines = [f"{_ended(record)} after {record.iterations} iterations."]
    if threshold is not None and record.status != "pruned":
        hit = summary.get("iterations_to_threshold")
        lines.append(
            f"Training loss {threshold:g}: "
            + ("not reached." if hit is None else f"reached in iteration {hit:.0f}.")
        )
    if "best_val_loss" in summary:
        lines.append(f"Best validation loss: {format_number(summary['best_val_loss'])}.")
    if "alpha_final" in summary and record.trial.lop is not None:
        learned = format_number(summary["alpha_final"])
        lines.append(f"α went from {_short(record.trial.alpha0)} to {learned}.")
    return "  \n".join([*lines, *record.notes])


def _ended(record: TrialRecord) -> str:
    return {"diverged": "Diverged", "pruned": "Stopped by the scheduler"}.get(record.status, "Finished")


def _user() -> str:
    """Return the user's name at the tracking server, otherwise on this machine; empty if there is none."""
    try:
        return read_mlflow_creds().username or getpass.getuser()
    except (OSError, KeyError):  # a container may run as a number without a name
        return ""


def _short(value: float) -> str:
    return repr(value).removesuffix(".0")
