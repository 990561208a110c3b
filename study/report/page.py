"""Builds the report's HTML page from tables, claims and records."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from study.analysis.formatting import (
    format_count,
    format_iterations,
    format_median_iterations,
    format_number,
    format_percent,
    format_range,
    format_setting,
    method_label,
    paper_name,
    pluralize,
    workload_label,
)
from study.analysis.metrics import MEASURED
from study.analysis.ranking import best_rows
from study.analysis.tables import CELL, METHOD, SETUP
from study.config.loader import Study
from study.report import dark
from study.report.links import Links, web_address
from study.storage.records import TrialRecord

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


class Tables(NamedTuple):
    """A study in tables, each as its function returns it."""

    trials: pd.DataFrame
    summary: pd.DataFrame
    claims: pd.DataFrame
    alpha0_widths: pd.DataFrame
    losses: pd.DataFrame
    untuned: pd.DataFrame
    untuned_claims: pd.DataFrame


_UNIT = re.compile(r"(?<=[0-9]) (?=[%×]|seeds?|decades|comparisons)|(?<=%) (?=interval)")
MOST_NAMED = 3
"""The most workloads that the sentence at the top names."""
MOST_CELLS, BEST_CELLS = 200, 5
"""Of a workload with more rows of medians, the page shows the best ones of each optimizer."""
MOST_TRIALS = 1_000
"""Of a workload with more trials, the page lists none."""
MOST_FAILURES = 50
"""Failed trials that are listed."""


def render(**content: Any) -> str:
    """Return the page.

    Args:
        content: The names that ``templates/report.html`` uses. Every text in it is escaped.
    """
    environment = Environment(
        loader=PackageLoader("study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "setting": format_setting,
        "count": format_count,
        "percent": format_percent,
        "joined": _joined,
    }
    return environment.get_template("report.html").render(**content, contents=_contents(content), dark=dark)


def _joined(text: str) -> str:
    """Return a sentence whose numbers stay on one line with their units."""
    return _UNIT.sub("\u00a0", text)


def _contents(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of the page that there are, each with its anchor."""
    pictures = content["pictures"]
    parts: list[tuple[str, str, Any]] = [
        ("results", "Results", True),
        ("figure-1", "Figure 1", pictures["curves"]),
        ("claims", "What may be concluded", True),
        ("limits", "Limits", content["limits"]),
        ("untuned", "Without tuning", content["untuned"] or pictures["untuned"]),
        ("curves", "More curves", pictures["curves"][1:]),
        ("alpha0", "Sensitivity to α₀", True),
        ("budget", "What a budget buys", pictures["budget"]),
        *(
            (f"workload-{number}", workload["name"], True)
            for number, workload in enumerate(content["workloads"], start=1)
        ),
        ("failed", "Failed trials", content["failures"]),
        ("ran", "What was run", True),
        ("reproduce", "To reproduce", True),
    ]
    return [(anchor, title) for anchor, title, is_there in parts if is_there]


def facts(study: Study, trials: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return the facts about a study and its trials, each as a label and its values."""

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


def _workload_labels(trials: pd.DataFrame) -> list[str]:
    rows = trials[["workload", "workload_args"]].drop_duplicates().to_dict("records")
    return [workload_label(row) for row in rows]


def _both_names(optimizer: str) -> str:
    """Return an optimizer's name in papers, and the one in the study file if that is another."""
    name = paper_name(optimizer)
    return name if name == optimizer else f"{name} ({optimizer})"


def what_ran(study: Study, trials: pd.DataFrame) -> str:
    """Return one sentence about the settings of the study."""
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


def widths(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of α₀ widths."""
    rows = _rows(table)
    for row in rows:
        row |= {"where": workload_label(row), "method": _label(row, with_beta=True)}
    return rows


def untuned(tables: Tables) -> list[dict[str, Any]]:
    """Return the rows of the table of what optimizers do without tuning."""
    rows = _rows(tables.untuned)
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
    """Return the section of each workload: its medians over seeds and its trials."""
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


def machine(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return the facts about the trials' machines, each with its different values."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.machine.items():
            values.setdefault(name, {})[value] = None
    return [(name, ", ".join(different)) for name, different in values.items()]


def failures(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return the name of every failed trial, and the last line of its traceback; of many only the first."""
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
