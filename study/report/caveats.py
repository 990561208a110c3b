"""Describes in plain words which conclusions a study does not support."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd

from study.analysis.formatting import (
    format_percent,
    join_names,
    method_label,
    paper_name,
    pluralize,
    workload_label,
)
from study.storage.records import TrialRecord

_label = partial(method_label, in_prose=True)

ENOUGH_SEEDS = 6
"""With six seeds or more, [min, max] covers the median with more than 95 %: 1 − 2^(1−6) = 96.9 %."""

MOST_NOTES = 5
"""Largest number of journal notes to list, those of most trials first."""


def limits(
    trials: pd.DataFrame, summary: pd.DataFrame, widths: pd.DataFrame, records: Sequence[TrialRecord]
) -> list[str]:
    """Return the limits of a study, one sentence or two each.

    Args:
        trials: From ``tables.trial_table``.
        summary: From ``tables.summary_table``.
        widths: From ``sensitivity.alpha0_widths``; may be empty.
        records: Records of the study's trials.
    """
    found = [*_seeds(trials, summary), *_missing(summary), *_thresholds(trials, summary), *_edges(widths)]
    return [*found, *_machine(records), *_granularity(trials), *_tuning(trials)]


def _seeds(trials: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    complete = bool((summary["missing"] == 0).all())
    seeds = int(summary["seeds"].min()) if complete else trials["seed"].nunique()
    if 0 < seeds < ENOUGH_SEEDS:
        covers = (
            f"covers the median with {format_percent(1 - 2.0 ** (1 - seeds))}" if seeds > 1 else "is a point"
        )
        yield (
            f"{pluralize(seeds, 'seed')} per cell: the range over seeds {covers}. Six seeds are the fewest "
            "with more than 95 %. Differences between optimizers here are indications, not findings."
        )


def _missing(summary: pd.DataFrame) -> Iterator[str]:
    one = _single(summary)
    gaps = summary[summary["missing"] > 0].to_dict("records")
    if gaps:
        count = sum(row["missing"] for row in gaps)
        cells = [f"{_cell(row, one)} ({row['missing']} of {_size(row)})" for row in gaps]
        yield (
            f"{pluralize(count, 'trial')} missing: they failed, have not ended, or their records are gone. "
            f"They are in no median, pair or claim: {join_names(cells)}."
        )
    pruned = summary[summary["pruned"] > 0].to_dict("records")
    if pruned:
        count = sum(row["pruned"] for row in pruned)
        cells = [f"{_cell(row, one)} ({row['pruned']} of {_size(row)})" for row in pruned]
        yield (
            f"{pluralize(count, 'trial')} pruned: the search stopped them before their budget, so nobody "
            "knows whether they would have reached the threshold. They are in no table but the list of "
            f"trials: {join_names(cells)}."
        )


def _thresholds(trials: pd.DataFrame, summary: pd.DataFrame) -> Iterator[str]:
    if trials["threshold"].isna().all():
        return
    yield (
        "A minibatch loss crosses a threshold early by luck; iterations to the threshold say when it first "
        "did, not that it stayed there. The smoothed measure beside it averages over about 50 iterations."
    )
    one = _single(summary)
    timed = summary[summary["threshold"].notna() & (summary["seeds"] > 0)]
    short = int((timed["seeds"] - timed["reached"]).sum())
    if short:
        never = [_cell(row, one) for row in timed[timed["reached"] == 0].to_dict("records")]
        cells = f" In these cells none did: {join_names(never)}." if never else ""
        yield (
            f"{short} of {pluralize(int(timed['seeds'].sum()), 'trial')} that ended did not reach their "
            f"threshold within the budget. They are censored: they need an unknown number beyond it."
            f"{cells}"
        )


def _edges(widths: pd.DataFrame) -> Iterator[str]:
    if widths.empty:
        return
    at_edge = widths[widths["edge"].astype(bool)].to_dict("records")
    if at_edge:
        one = _single(widths)
        cells = (("" if one else f"{workload_label(row)} ") + _label(row, with_beta=True) for row in at_edge)
        names = list(dict.fromkeys(cells))
        yield (
            "The range of good α₀ ends where the α₀ that were tried end, so it may be wider than it looks, "
            f"for {join_names(names)}."
        )


def _machine(records: Sequence[TrialRecord]) -> Iterator[str]:
    if any(not record.machine.get("device", "cpu").startswith("cpu") for record in records):
        yield (
            "Some trials ran on a GPU, whose libraries do not repeat results to the bit: a trial that runs "
            "again gives a curve close to this one, but not the same."
        )
    if len({record.machine["kernels"] for record in records if "kernels" in record.machine}) > 1:
        yield (
            "Some trials ran with hypergrad's compiled kernels and some on machines without a C compiler: "
            "the same trial may differ there in its last digits."
        )
    names = ("commit", "commits of this project"), ("torch", "versions of torch"), ("precision", "precisions")
    for name, what in names:
        different = sorted({record.machine[name] for record in records if record.machine.get(name)})
        if len(different) > 1:
            yield f"Trials ran with {len(different)} {what}: {', '.join(different)}."
    notes = Counter(note for record in records for note in set(record.notes))
    for note, count in notes.most_common(MOST_NOTES):
        yield f"{pluralize(count, 'trial')}: {note}."
    if len(notes) > MOST_NOTES:
        yield f"The journals have {pluralize(len(notes) - MOST_NOTES, 'more note')} of this kind."


def _granularity(trials: pd.DataFrame) -> Iterator[str]:
    adam = trials[trials["optimizer"] == "adam-adam"]
    if (adam["granularity"] == "group").any():
        yield (
            "Adam–Adam follows the paper's equations (granularity “group”). The curves that the paper "
            "published come from its code, which runs the rate rule once per tensor (granularity “released”)."
        )
    released = list(dict.fromkeys(trials[trials["granularity"] == "released"]["optimizer"]))
    if released:
        yield (
            f"Granularity “released” ({', '.join(map(paper_name, released))}): the rate rule runs once per "
            "tensor, as in the paper's code, and not once per group, as in its equations."
        )


def _tuning(trials: pd.DataFrame) -> Iterator[str]:
    if trials.groupby(["workload", "optimizer"])[["alpha0", "beta"]].nunique().gt(1).any(axis=None):
        yield (
            "Several α₀ or β ran on the same seeds. To pick the best of them here and report it from the "
            "same trials flatters it: choose on some seeds, report on others."
        )


def _single(table: pd.DataFrame) -> bool:
    """Return whether there is only one workload, which then need not be named."""
    return len(table[["workload", "workload_args"]].drop_duplicates()) == 1


def _cell(row: dict[Any, Any], one: bool) -> str:
    beta = "" if math.isnan(row["beta"]) else f" β={row['beta']:g}"
    return f"{'' if one else workload_label(row) + ' '}{_label(row)} α₀={row['alpha0']:g}{beta}"


def _size(row: dict[Any, Any]) -> int:
    return int(row["seeds"] + row["missing"] + row["pruned"])
