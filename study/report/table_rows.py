"""Arranges a study's tables for the report's page: what the rows of each show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from study.analysis.formatting import (
    format_iterations,
    format_median_iterations,
    format_number,
    format_range,
    method_label,
    paper_name,
    workload_label,
)
from study.analysis.ranking import best_rows
from study.analysis.tables import CELL, METHOD, SETUP
from study.report.links import Links, web_address

_label = partial(method_label, in_prose=True)

OUTCOMES = {
    "reached": "reached",
    "not_reached": "not reached",
    "completed": "completed",
    "diverged": "diverged",
    "pruned": "pruned",
    "failed": "failed",
    "running": "running",
    "pending": "not started",
}
"""The outcomes of trials as the page says them, in its order."""

MOST_CELLS, BEST_CELLS = 200, 5
"""Of a workload with more rows of medians, the page shows the best ones of each optimizer."""
MOST_TRIALS = 1_000
"""Of a workload with more trials, the page lists none."""


class Tables(NamedTuple):
    """A study in tables, each as its function returns it."""

    trials: pd.DataFrame
    summary: pd.DataFrame
    claims: pd.DataFrame
    alpha0_widths: pd.DataFrame
    losses: pd.DataFrame
    untuned: pd.DataFrame
    untuned_claims: pd.DataFrame


def widths(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of α₀ widths.

    Args:
        table: From ``sensitivity.alpha0_widths``.
    """
    rows = _rows(table)
    for row in rows:
        row |= {"where": workload_label(row), "method": _label(row, with_beta=True)}
    return rows


def untuned(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of what optimizers do without tuning.

    Args:
        table: From ``untuned.summary``.
    """
    rows = _rows(table)
    called = _short_names(rows)
    for row in rows:
        row |= {"method": called[_label(row, with_beta=True)]}
    return rows


def _short_names(methods: Iterable[Mapping[Any, Any]]) -> dict[str, str]:
    """Return each method's label, without β and options where no other method has the same optimizer."""
    optimizers = {_label(row, with_beta=True): paper_name(row["optimizer"]) for row in methods}
    times = Counter(optimizers.values())
    return {label: name if times[name] == 1 else label for label, name in optimizers.items()}


def workloads(tables: Tables, links: Links) -> list[dict[str, Any]]:
    """Return the section of each workload: its medians over seeds and its trials.

    Args:
        tables: The study's.
        links: Web pages of the trials.
    """
    sections = []
    trials = tables.trials
    for key in dict.fromkeys(zip(trials["workload"], trials["workload_args"], strict=True)):
        cells, singles = (_of_workload(table, key) for table in (tables.summary, trials))
        shown = cells if len(cells) <= MOST_CELLS else best_rows(cells, BEST_CELLS)
        rows, trial_count = _rows(shown), len(singles)
        if trial_count > MOST_TRIALS:
            singles = singles.merge(shown[[*CELL]], on=[*CELL])
        listed = _rows(singles)
        runs: dict[tuple[str, ...], list[tuple[int, str]]] = {}
        for row in listed:
            row |= {"method": _label(row), "outcome_text": OUTCOMES[row["outcome"]]}
            row["link"] = web_address(links.trial_link(row["key"]))
            row["curve"] = web_address(links.curve_link(row["key"]))
            if row["link"]:
                runs.setdefault(_cell(row), []).append((row["seed"], row["link"]))
        for row in rows:
            row |= _summary_cells(row)
            row["runs"] = runs.get(_cell(row), [])
        sections.append(
            {
                "name": workload_label({"workload": key[0], "workload_args": key[1]}),
                "summary": rows,
                "trials": listed if trial_count <= MOST_TRIALS else [],
                "trial_count": trial_count,
                "cell_count": len(cells),
                "thresholds": any(not math.isnan(row["threshold"]) for row in rows),
                "linked": any(row["link"] for row in listed),
            }
        )
    return sections


def _summary_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the cells of a summary's row."""
    cells = {"method": _label(row)}
    for name in ("iterations", "smoothed_iterations"):
        low, high = (format_iterations(row[f"{name}_{end}"], row["budget"]) for end in ("low", "high"))
        cells |= {
            f"{name}_text": format_median_iterations(row, name),
            f"{name}_span": format_range(low, high),
        }
    for name in ("final_train_loss", "best_val_loss", "alpha_final"):
        cells[f"{name}_span"] = format_range(*(format_number(row[f"{name}_{end}"]) for end in ("min", "max")))
    return cells


def _of_workload(table: pd.DataFrame, workload: tuple[str, str]) -> pd.DataFrame:
    if table.empty:
        return table
    return table[(table["workload"] == workload[0]) & (table["workload_args"] == workload[1])]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    if table.empty:
        return []
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _cell(row: Mapping[str, Any]) -> tuple[str, ...]:
    # As text, since NaN does not equal itself.
    return tuple(str(row[name]) for name in (*SETUP, *METHOD, "alpha0"))
