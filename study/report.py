"""A study's report: figures, tables as CSV, and one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from study import figures, measures, style
from study.records import TrialRecord
from study.spec import Study

ENOUGH_SEEDS = 6
"""From six seeds on, [min, max] covers the median with more than 95 %: 1 − 2^(1−6) = 96.9 %."""

_OUTCOMES = {
    "reached": "reached",
    "not_reached": "not reached",
    "completed": "completed",
    "diverged": "diverged",
    "failed": "failed",
    "running": "running",
    "pending": "not started",
    "pruned": "pruned",
}


@dataclass(frozen=True)
class ReportFiles:
    """What :func:`write_report` wrote."""

    page: Path
    trials: Path
    summary: Path
    comparisons: Path
    figures: tuple[Path, ...]


def write_report(
    records: Sequence[TrialRecord], study: Study, folder: Path, links: Mapping[str, str] | None = None
) -> ReportFiles:
    """Write a study's report into ``folder``, made if absent; files of an earlier report are replaced.

    Figures ``figure1`` and, if the study has thresholds, ``thresholds`` as PNG and SVG; ``trials.csv``,
    ``summary.csv`` and ``comparisons.csv``; and ``index.html``, which holds its figures itself.

    Args:
        records: of the study's trials, in any order; trials without a record count as not started.
        study: what was to be run.
        folder: where to write.
        links: trial key → http(s) address of its MLflow run.

    Raises:
        ValueError: no trial has finished an epoch, so there is nothing to report.
        OSError: the folder cannot be written.
    """
    trials = measures.trial_table(records, study)
    known = {record.trial.key: record for record in records}
    own = [known[key] for key in trials["key"] if key in known]
    if not any(record.epochs for record in own):
        raise ValueError(f"study {study.name}: no trial has finished an epoch yet; nothing to report")
    summary, comparisons = measures.summary_table(trials), measures.comparisons(trials)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = _draw(own, study, trials, folder)
    files = ReportFiles(
        page=folder / "index.html",
        trials=folder / "trials.csv",
        summary=folder / "summary.csv",
        comparisons=folder / "comparisons.csv",
        figures=tuple(path for picture in pictures for path in (picture.png, picture.svg)),
    )
    for table, path in ((trials, files.trials), (summary, files.summary), (comparisons, files.comparisons)):
        table.to_csv(path, index=False)
    page = _environment().get_template("report.html")
    files.page.write_text(
        page.render(
            study=study,
            facts=_facts(study, trials),
            figures=pictures,
            workloads=_workloads(trials, summary, comparisons, links or {}),
            machine=_machine(own),
            limits=_limits(trials, summary, own),
            failures=_failures(own),
            yaml=study.to_yaml(),
        ),
        encoding="utf-8",
    )
    return files


class Picture(NamedTuple):
    """A figure on disk and on the page."""

    title: str
    caption: str
    png: Path
    svg: Path

    @property
    def data(self) -> str:
        """The SVG as a data address."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.read_bytes()).decode()


def _draw(records: Sequence[TrialRecord], study: Study, trials: pd.DataFrame, folder: Path) -> list[Picture]:
    seeds = trials["seed"].nunique()
    over = f"median over {seeds} seeds, band from the smallest to the largest" if seeds > 1 else "one seed"
    diverged = trials["outcome"].eq("diverged").any()
    cross = " A cross ends the line of an optimizer most of whose trials diverged." if diverged else ""
    caption = (
        "Learning rate and training loss, as means over each epoch's iterations, and validation loss after "
        f"the epoch; {over}. Colour is the optimizer of the weights, line style that of the learning rate: "
        f"dotted none, dashed SGD (hypergradient descent), solid and dash-dotted the new ones.{cross}"
    )
    drawable = [record for record in records if record.epochs and record.status != "failed"]
    pictures = []
    if drawable:
        paths = style.save(figures.figure1(records, study), folder / "figure1")
        pictures.append(Picture("Learning rate and losses", caption, *paths))
    if any(record.epochs and figures.has_threshold_point(record, study) for record in records):
        paths = style.save(figures.threshold_figure(records, study), folder / "thresholds")
        caption = (
            "First iteration whose minibatch training loss is at or below the threshold, over the initial "
            f"learning rate{'; bars from the smallest to the largest seed' if seeds > 1 else ''}. An open "
            "triangle: at least half of the trials did not get there within the budget. Steps are not "
            "seconds; the tables give both."
        )
        pictures.append(Picture("Iterations to the threshold", caption, *paths))
    return pictures


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "setting": setting, "whole": whole}
    return environment


def number(value: float | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits or more, and a true minus; ``–`` for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1000:  # 9.9999e-5 is 0.000100, and nobody rounds 1234 to 1230
        value = float(f"{value:.{digits - 1}e}")
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits}g}".replace("-", "−")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    return f"{value:.{decimals}f}".replace("-", "−")


def setting(value: float) -> str:
    """Return a number as a person writes it, ``0.001``; ``–`` for nothing."""
    return "–" if math.isnan(value) else f"{value:g}".replace("-", "−")


def whole(value: float) -> str:
    """Return a count that may be unknown; ``–`` for nothing."""
    return "–" if math.isnan(value) else f"{value:.0f}"


def several(count: int, noun: str) -> str:
    """Return ``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _span(row: Mapping[str, Any], name: str, digits: int = 3) -> str:
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    text = number(low, digits), number(high, digits)
    return "" if math.isnan(low) or text[0] == text[1] else f"{text[0]} – {text[1]}"


def _facts(study: Study, trials: pd.DataFrame) -> list[tuple[str, list[str]]]:
    def distinct(name: str) -> list[str]:
        return [setting(value) for value in dict.fromkeys(trials[name].dropna())]

    counts = Counter(trials["outcome"])
    ended = sum(counts[name] for name in measures.MEASURED)
    states = [f"{counts[name]} {words}" for name, words in _OUTCOMES.items() if counts[name]]
    iterations = f"{', '.join(distinct('budget')) or 'unknown number of'} iterations"
    epochs = [several(int(value), "epoch") for value in dict.fromkeys(trials["epochs"].dropna())]
    return [
        ("Workloads", list(dict.fromkeys(measures.workload_label(trial) for trial in study.trials()))),
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


def _betas(trials: pd.DataFrame) -> list[str]:
    by_optimizer = {
        str(name): " or ".join(setting(beta) for beta in dict.fromkeys(group))
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


def _workloads(
    trials: pd.DataFrame, summary: pd.DataFrame, comparisons: pd.DataFrame, links: Mapping[str, str]
) -> list[dict[str, Any]]:
    """What the page says of each workload, as text."""
    pages = []
    for key in dict.fromkeys(zip(trials["workload"], trials["workload_args"], strict=True)):
        rows, pairs, singles = (_rows(table, key) for table in (summary, comparisons, trials))
        for row in rows:
            row["method"] = _method(row)
            row["iterations_text"], _, span = row["iterations_text"].partition(" (")
            row["iterations_span"] = span.removesuffix(")")
            for name in ("final_train_loss", "best_val_loss", "alpha_final"):
                row[f"{name}_span"] = _span(row, name)
        for row in pairs:
            baseline = {name: row[f"baseline_{name}"] for name in measures.METHOD[1:]}
            row["new"] = _method(row, with_beta=True)
            row["base"] = _method({**baseline, "optimizer": row["baseline"]}, with_beta=True)
            row["sentences"] = row["verdict"].split("; ")
        for row in singles:
            row |= {"method": _method(row), "link": _web_address(links.get(row["key"]))}
            row["outcome_text"] = _OUTCOMES[row["outcome"]]
        pages.append(
            {
                "name": f"{key[0]} ({key[1]})" if key[1] else key[0],
                "summary": rows,
                "comparisons": pairs,
                "trials": singles,
                "thresholds": any(not math.isnan(row["threshold"]) for row in rows),
                "linked": any(row["link"] for row in singles),
            }
        )
    return pages


def _method(row: Mapping[str, Any], *, with_beta: bool = False) -> str:
    """``adam-adam``, and what else makes it what it is: ``adam-adam β 1e-07, released, lop_eps=1e-06``."""
    beta = f" β {row['beta']:g}" if with_beta and not math.isnan(row["beta"]) else ""
    granularity = row["granularity"] if row["granularity"] != "group" else ""
    return ", ".join(filter(None, (f"{row['optimizer']}{beta}", granularity, row["optimizer_args"])))


def _rows(table: pd.DataFrame, workload: tuple[str, str]) -> list[dict[str, Any]]:
    if table.empty:
        return []
    chosen = table[(table["workload"] == workload[0]) & (table["workload_args"] == workload[1])]
    return [{str(name): value for name, value in row.items()} for row in chosen.to_dict("records")]


def _web_address(link: str | None) -> str | None:
    return link if link and urlsplit(link).scheme in ("http", "https") else None


def _machine(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    values: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.machine.items():
            values.setdefault(name, {})[value] = None
    return [(name, ", ".join(different)) for name, different in values.items()]


def _failures(records: Sequence[TrialRecord]) -> list[tuple[str, str]]:
    """Name and last line of the traceback of every failed trial."""
    return [
        (
            f"{record.trial.workload} {record.trial.name}",
            (record.error or "no error kept").strip().splitlines()[-1],
        )
        for record in records
        if record.status == "failed"
    ]


def _limits(trials: pd.DataFrame, summary: pd.DataFrame, records: Sequence[TrialRecord]) -> list[str]:
    """What the reader should not conclude, in plain words."""
    limits = []
    seeds = int(summary["seeds"].min()) if (summary["missing"] == 0).all() else trials["seed"].nunique()
    if seeds < ENOUGH_SEEDS:
        covers = f"covers the median with {100 * (1 - 2 ** (1 - seeds)):.4g} %" if seeds > 1 else "is a point"
        limits.append(
            f"{several(seeds, 'seed')} per cell: the range over seeds {covers}. Six seeds are the fewest "
            "with more than 95 %. Differences between optimizers here are indications, not findings."
        )
    missing = summary[summary["missing"] > 0]
    if len(missing):
        cells = [
            f"{row['workload']} {row['optimizer']} α₀={row['alpha0']:g}"
            + ("" if math.isnan(row["beta"]) else f" β={row['beta']:g}")
            + f" ({row['missing']} of {row['missing'] + row['seeds']})"
            for row in missing.to_dict("records")
        ]
        shown = ", ".join(cells[:12]) + (f" and {len(cells) - 12} more" if len(cells) > 12 else "")
        limits.append(f"Trials missing, because they failed or have not ended: {shown}.")
    if trials["threshold"].notna().any():
        limits.append(
            "A minibatch loss crosses a threshold early by luck; iterations to the threshold say when it "
            "first did, not that it stayed there. Trials that did not get there are censored, not numbers."
        )
    if any(not record.machine.get("device", "cpu").startswith("cpu") for record in records):
        limits.append(
            "Some trials ran on a GPU, whose libraries do not promise the same bits twice: running a trial "
            "again gives a curve close to this one, not this one."
        )
    adam = trials[trials["optimizer"] == "adam-adam"]
    if (adam["granularity"] == "group").any():
        limits.append(
            "adam-adam follows the report's equations (granularity “group”). The curves that the report "
            "published come from its code, which runs the rate rule once per tensor (granularity “released”)."
        )
    if (released := trials[trials["granularity"] == "released"]["optimizer"]).size:
        limits.append(
            f"Granularity “released” ({', '.join(dict.fromkeys(released))}): the rate rule runs once per "
            "tensor, as in the report's code, and not once per group, as in its equations."
        )
    if trials.groupby(["workload", "optimizer"])[["alpha0", "beta"]].nunique().gt(1).any(axis=None):
        limits.append(
            "Several α₀ or β ran on the same seeds. To pick the best of them here and report it from the "
            "same trials flatters it: choose on some seeds, report on others."
        )
    return limits
