"""Says on the report's page what was run, on which machines, and which trials failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from study.analysis.formatting import format_setting, paper_name, pluralize, workload_label
from study.analysis.metrics import MEASURED
from study.config.loader import Study
from study.report.table_rows import OUTCOMES
from study.storage.records import TrialRecord

MOST_NAMED = 3
"""The most workloads that the sentence at the top names."""
MOST_FAILURES = 50
"""The most failed trials that are listed."""


def what_ran(study: Study, trials: pd.DataFrame) -> str:
    """Return one sentence about the settings of a study.

    Args:
        study: The study.
        trials: From ``tables.trial_table``, at least one row.
    """
    names = _workload_labels(trials)
    where = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    steps = sorted(set(trials["alpha0"]))
    start = f"α₀ = {format_setting(steps[0])}"
    if study.search is not None:
        start = "the α₀ and β that a search found"
    elif len(steps) > 1:
        ends = f"{format_setting(steps[0])} to {format_setting(steps[-1])}"
        each = trials.groupby("optimizer")["alpha0"].nunique()
        several = f"{each.min()} to {each.max()}" if each.min() < each.max() else str(each.max())
        start = f"{several} initial learning rates ({ends})"
    budget = " or ".join(f"{value:.0f}" for value in dict.fromkeys(trials["budget"].dropna()))
    ended = int(trials["outcome"].isin(MEASURED).sum())
    all_of = "all of which have ended" if ended == len(trials) else f"of which {ended} have ended"
    return (
        f"{pluralize(trials['optimizer'].nunique(), 'optimizer')} on "
        f"{where if len(names) <= MOST_NAMED else pluralize(len(names), 'workload')}, from {start}, with "
        f"{pluralize(trials['seed'].nunique(), 'seed')}: {pluralize(len(trials), 'trial')} of "
        f"{budget or 'an unknown number of'} iterations, {all_of}."
    )


def facts(trials: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return the facts about a study's trials, each as a label and its values.

    Args:
        trials: From ``tables.trial_table``.
    """

    def distinct(name: str) -> list[str]:
        return [format_setting(value) for value in dict.fromkeys(trials[name].dropna())]

    dropped = ["last one dropped if smaller"] if trials["drop_last"].any() else []
    counts = Counter(trials["outcome"])
    ended = sum(counts[name] for name in MEASURED)
    states = [f"{counts[name]} {words}" for name, words in OUTCOMES.items() if counts[name]]
    iterations = f"{', '.join(distinct('budget')) or 'unknown number of'} iterations"
    epochs = [pluralize(int(value), "epoch") for value in dict.fromkeys(trials["epochs"].dropna())]
    return [
        ("Workloads", _workload_labels(trials)),
        ("Optimizers", [_both_names(name) for name in dict.fromkeys(trials["optimizer"])]),
        ("α₀", distinct("alpha0")),
        ("β", _betas(trials) or ["none"]),
        ("Seeds", distinct("seed")),
        ("Budget", [*epochs, iterations]),
        ("Batch size", [*distinct("batch_size"), *dropped]),
        ("Precision", list(dict.fromkeys(trials["precision"]))),
        ("Weight decay", distinct("weight_decay")),
        ("Threshold", _thresholds(trials) or ["none"]),
        ("Trials", [f"{ended} of {len(trials)} ended", *states]),
    ]


def machine(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return the facts about the trials' machines, each with its different values.

    Args:
        records: Of the trials.
    """
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.machine.items():
            values.setdefault(name, {})[value] = None
    return [(name, ", ".join(different)) for name, different in values.items()]


def failures(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return the name of every failed trial and the last line of its traceback; of many only the first.

    Args:
        records: Of the trials.
    """
    failed = [record for record in records if record.status == "failed"]
    found = [
        (
            f"{record.trial.workload} {record.trial.name}",
            (record.error or "no error kept").strip().splitlines()[-1],
        )
        for record in failed[:MOST_FAILURES]
    ]
    if len(failed) > MOST_FAILURES:
        found.append((f"{len(failed) - MOST_FAILURES} more", "hypergrad-study status says why"))
    return found


def _workload_labels(trials: pd.DataFrame) -> list[str]:
    rows = trials[["workload", "workload_args"]].drop_duplicates().to_dict("records")
    return [workload_label(row) for row in rows]


def _both_names(optimizer: str) -> str:
    """Return an optimizer's name in papers, and the one in the study file if that is another."""
    name = paper_name(optimizer)
    return name if name == optimizer else f"{name} ({optimizer})"


def _betas(trials: pd.DataFrame) -> list[str]:
    by_optimizer = {
        str(name): " or ".join(format_setting(beta) for beta in dict.fromkeys(group))
        for name, group in trials[trials["beta"].notna()].groupby("optimizer", sort=False)["beta"]
    }
    if len(set(by_optimizer.values())) == 1:
        return list(by_optimizer.values())[:1]
    return [f"{paper_name(name)} {betas}" for name, betas in by_optimizer.items()]


def _thresholds(trials: pd.DataFrame) -> list[str]:
    given = trials[trials["threshold"].notna()]
    if given["threshold"].nunique() == 1:
        return [f"training loss ≤ {given['threshold'].iloc[0]:g}"]
    if given.groupby("workload")["threshold"].nunique().max() == 1:
        of_workload = dict.fromkeys(zip(given["workload"], given["threshold"], strict=True))
        return [f"{workload}: training loss ≤ {threshold:g}" for workload, threshold in of_workload]
    pairs = dict.fromkeys(zip(given["workload"], given["op"], given["threshold"], strict=True))
    return [f"{workload}, {paper_name(op)}: ≤ {threshold:g}" for workload, op, threshold in pairs]
