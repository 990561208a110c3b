"""What the report's page says, worked out from the tables, and its HTML."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from study.analysis import formatting
from study.analysis.formatting import label
from study.analysis.metrics import MEASURED
from study.analysis.tables import METHOD, SETUP
from study.config.loader import Study
from study.storage.records import TrialRecord

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


class Links(Protocol):
    """Web pages that show what the report is about; a :class:`study.tracking.Tracker` is one.

    Each method returns None where there is no such page. The report leaves out addresses that are not http
    or https.
    """

    def trial_link(self, key: str) -> str | None:
        """Return the page of the trial with this key."""

    def curve_link(self, key: str) -> str | None:
        """Return the page of the file with every iteration of a trial."""

    def optimizer_link(self, workload: str, optimizer: str) -> str | None:
        """Return the page of an optimizer's trials on a workload."""


class NoLinks:
    """Links of a report that leads nowhere."""

    def trial_link(self, key: str) -> None:
        """Return None."""

    def curve_link(self, key: str) -> None:
        """Return None."""

    def optimizer_link(self, workload: str, optimizer: str) -> None:
        """Return None."""


class Tables(NamedTuple):
    """A study in tables, each as its function returns it."""

    trials: pd.DataFrame
    summary: pd.DataFrame
    comparisons: pd.DataFrame
    claims: pd.DataFrame
    widths: pd.DataFrame


def render(**content: Any) -> str:
    """Return the page; ``content`` is what ``templates/report.html`` names. Every text in it is escaped."""
    environment = Environment(
        loader=PackageLoader("study.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (formatting.number, formatting.setting, formatting.whole, formatting.percent)
    environment.filters |= {filter.__name__: filter for filter in filters}
    return environment.get_template("report.html").render(**content)


def facts(study: Study, trials: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Return what was run, as a label and its values."""

    def distinct(name: str) -> list[str]:
        return [formatting.setting(value) for value in dict.fromkeys(trials[name].dropna())]

    counts = Counter(trials["outcome"])
    ended = sum(counts[name] for name in MEASURED)
    states = [f"{counts[name]} {words}" for name, words in OUTCOMES.items() if counts[name]]
    iterations = f"{', '.join(distinct('budget')) or 'unknown number of'} iterations"
    epochs = [formatting.several(int(value), "epoch") for value in dict.fromkeys(trials["epochs"].dropna())]
    return [
        ("Workloads", list(dict.fromkeys(label(row) for row in trials.to_dict("records")))),
        ("Optimizers", list(dict.fromkeys(trials["optimizer"]))),
        ("α₀", distinct("alpha0")),
        ("β", _betas(trials) or ["none"]),
        ("Seeds", distinct("seed")),
        ("Budget", [*epochs, iterations]),
        ("Batch size", distinct("batch_size")),
        ("Weight decay", distinct("weight_decay")),
        ("Threshold", _thresholds(trials) or ["none"]),
        ("Trials", [f"{ended} of {len(trials)} ended", *states]),
    ]


def claims(table: pd.DataFrame, links: Links) -> list[dict[str, Any]]:
    """Return the claims with their rows, those of new optimizers against hypergradient descent first."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _rows(table):
        baseline = {name: row.get(f"baseline_{name}", row.get(name)) for name in METHOD[1:]}
        row["new"] = formatting.method(row, with_beta=True)
        row["base"] = formatting.method({**row, **baseline, "optimizer": row["baseline"]}, with_beta=True)
        row["where"] = label(row)
        row["new_link"], row["base_link"] = (
            _web_address(links.optimizer_link(row["workload"], row[name]))
            for name in ("optimizer", "baseline")
        )
        groups.setdefault((row["claim"], row["family"]), []).append(row)
    families = sorted(dict.fromkeys(family for _, family in groups), key=lambda name: "descent" not in name)
    return [
        {"claim": claim, "family": family, "rows": groups[claim, family]}
        for family in families
        for claim in dict.fromkeys(claim for claim, _ in groups)
        if (claim, family) in groups
    ]


def glance(table: pd.DataFrame) -> dict[str, Any]:
    """Return the verdicts alone: a row per optimizer, baseline and workload, a column per claim."""
    columns = list(dict.fromkeys(table["claim"])) if len(table) else []
    rows: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
    for group in claims(table, NoLinks()):
        for row in group["rows"]:
            line = rows.setdefault(row["where"], {}).setdefault(
                (row["new"], row["base"]),
                {name: row[name] for name in ("where", "new", "base")} | {"verdicts": [""] * len(columns)},
            )
            line["verdicts"][columns.index(row["claim"])] = row["verdict"]
    lines = [line for where in rows.values() for line in where.values()]
    return {"claims": columns, "rows": lines, "several": len(rows) > 1}


def widths(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of α₀ widths."""
    rows = _rows(table)
    for row in rows:
        row |= {"where": label(row), "method": formatting.method(row, with_beta=True)}
    return rows


def workloads(tables: Tables, links: Links) -> list[dict[str, Any]]:
    """Return what the page says of each workload."""
    pages = []
    trials = tables.trials
    for key in dict.fromkeys(zip(trials["workload"], trials["workload_args"], strict=True)):
        rows, pairs, singles = (
            _rows(table, key) for table in (tables.summary, tables.comparisons, tables.trials)
        )
        runs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in singles:
            row |= {"method": formatting.method(row), "outcome_text": OUTCOMES[row["outcome"]]}
            row["link"] = _web_address(links.trial_link(row["key"]))
            row["curve"] = _web_address(links.curve_link(row["key"]))
            runs.setdefault(_cell(row), []).append(row)
        for row in rows:
            _say(row)
            row["runs"] = [(single["seed"], single["link"]) for single in runs[_cell(row)] if single["link"]]
        for row in pairs:
            baseline = {name: row[f"baseline_{name}"] for name in METHOD[1:]}
            row["new"] = formatting.method(row, with_beta=True)
            row["base"] = formatting.method({**baseline, "optimizer": row["baseline"]}, with_beta=True)
            row["sentences"] = row["verdict"].split("; ")
        pages.append(
            {
                "name": label({"workload": key[0], "workload_args": key[1]}),
                "summary": rows,
                "comparisons": pairs,
                "trials": singles,
                "thresholds": any(not math.isnan(row["threshold"]) for row in rows),
                "linked": any(row["link"] for row in singles),
            }
        )
    return pages


def machine(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return what the trials ran on and with, each fact with its different values."""
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.machine.items():
            values.setdefault(name, {})[value] = None
    return [(name, ", ".join(different)) for name, different in values.items()]


def failures(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Return name and last line of the traceback of every failed trial."""
    return [
        (
            f"{record.trial.workload} {record.trial.name}",
            (record.error or "no error kept").strip().splitlines()[-1],
        )
        for record in records
        if record.status == "failed"
    ]


def _say(row: dict[str, Any]) -> None:
    """Adds to a row of the summary what its cells say."""
    row["method"] = formatting.method(row)
    for name in ("iterations", "smoothed_iterations"):
        low, high = (formatting.iterations(row[f"{name}_{end}"], row["budget"]) for end in ("low", "high"))
        row[f"{name}_text"] = row[f"{name}_text"].partition(" (")[0]
        row[f"{name}_span"] = formatting.span(low, high)
    for name in ("final_train_loss", "best_val_loss", "alpha_final"):
        ends = (formatting.number(row[f"{name}_{end}"]) for end in ("min", "max"))
        row[f"{name}_span"] = formatting.span(*ends)


def _betas(trials: pd.DataFrame) -> list[str]:
    by_optimizer = {
        str(name): " or ".join(formatting.setting(beta) for beta in dict.fromkeys(group))
        for name, group in trials[trials["beta"].notna()].groupby("optimizer", sort=False)["beta"]
    }
    if len(set(by_optimizer.values())) == 1:
        return list(by_optimizer.values())[:1]
    return [f"{name} {betas}" for name, betas in by_optimizer.items()]


def _thresholds(trials: pd.DataFrame) -> list[str]:
    given = trials[trials["threshold"].notna()]
    if given["threshold"].nunique() == 1:
        return [f"training loss ≤ {given['threshold'].iloc[0]:g}"]
    pairs = dict.fromkeys(zip(given["workload"], given["op"], given["threshold"], strict=True))
    return [f"{workload}, {op}: ≤ {threshold:g}" for workload, op, threshold in pairs]


def _rows(table: pd.DataFrame, workload: tuple[str, str] | None = None) -> list[dict[str, Any]]:
    if table.empty:
        return []
    if workload is not None:
        table = table[(table["workload"] == workload[0]) & (table["workload_args"] == workload[1])]
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def _cell(row: Mapping[str, Any]) -> tuple[str, ...]:
    # As text, since NaN does not equal itself.
    return tuple(str(row[name]) for name in (*SETUP, *METHOD, "alpha0"))


def _web_address(link: str | None) -> str | None:
    return link if link and urlsplit(link).scheme in ("http", "https") else None
