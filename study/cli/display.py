"""Tables and lists that commands print. It only formats; it computes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from study.analysis.formatting import (
    format_iterations,
    format_median_iterations,
    format_range,
    join_names,
    method_label,
    pluralize,
    workload_label,
)
from study.cli.columns import Column, fitting, natural_width, whole
from study.config.loader import Study
from study.storage.failures import Failure

if TYPE_CHECKING:
    import pandas as pd

    from study.analysis.comparison import Comparison
    from study.analysis.objective import ArmStanding

_SHOWN = {
    "final_train_loss": "train loss",
    "best_val_loss": "best val loss",
    "alpha_final": "last α",
    "alpha_range": "α range",
    "iterations": "iterations",
}


MOST_ROWS = 200
"""Largest number of rows to print; nobody reads more on a terminal."""

_DROPPED = (4, 0, 3, 5, 1)
"""When a narrow terminal drops these columns: those with larger numbers first, those with 0 never."""
_TITLES = {
    "train loss": "mean training loss of the last epoch",
    "best val loss": "best validation loss",
    "last α": "α",
    "iterations": "iterations to the threshold",
}


def show_summary(console: Console, summary: pd.DataFrame) -> None:
    """Print the table over seeds: medians, with their ranges if the terminal is wide enough for them.

    A terminal that is too narrow for all medians gets fewer columns. If there are more than ``MOST_ROWS``
    rows, only the best one of each optimizer on each workload is printed.
    """
    note = ""
    if (every := len(summary)) > MOST_ROWS:
        from study.analysis.ranking import best_rows

        summary = best_rows(summary, 1)
        note = f" at the α₀ and β of {every} in all with the lowest best val loss"
    table = whole(_summary_columns(summary, _spread))
    title = f"Medians over seeds (range){note}: "
    if console.is_terminal and natural_width(console, table) > console.width:
        table, title = fitting(console, _summary_columns(summary, _middle)), f"Medians over seeds{note}: "
    headings = [str(column.header) for column in table.columns]
    title += ", ".join(long for short, long in _TITLES.items() if short in headings)
    console.print(Text(title, "italic"), soft_wrap=not console.is_terminal)
    print_whole(console, table)


def print_whole(console: Console, table: Table) -> None:
    """Print a table with nothing cut off; a narrower terminal breaks its lines."""
    width = console.width
    console.width = max(width, natural_width(console, table))
    console.print(table)
    console.width = width


def _summary_columns(summary: pd.DataFrame, show: Callable[[Mapping[Any, Any], str], str]) -> list[Column]:
    rows = summary.to_dict("records")
    columns = [
        Column("optimizer", [row["optimizer"] for row in rows], left=True, least=16),
        Column("α₀", [_number(row["alpha0"]) for row in rows]),
        Column("β", [_number(row["beta"]) for row in rows], drop=1),
    ]
    if summary["workload"].nunique() > 1:
        columns.insert(0, Column("workload", [row["workload"] for row in rows], left=True, least=12))
    for place, (name, heading) in enumerate(_SHOWN.items()):
        if name != "iterations" or summary["threshold"].notna().any():
            columns.append(Column(heading, [show(row, name) for row in rows], drop=_DROPPED[place]))
    trials = []
    for row in rows:
        notes = [f"{row[name]} {name}" for name in ("diverged", "missing") if row[name]]
        trials.append(", ".join([str(row["seeds"]), *notes]))
    return [*columns, Column("trials", trials, drop=2)]


def show_search(console: Console, study: Study, arms: Sequence[ArmStanding]) -> None:
    """Print the best point of each arm of a search, judged on the search's own seeds."""
    if study.search is None:
        return
    searched = study.search
    seeds = ", ".join(map(str, searched.seeds))
    heading = f"Best points of the search so far, by {searched.objective}: median over its seeds {seeds}"
    table = Table(box=None, pad_edge=False)
    several_workloads = len(study.workloads) > 1
    for name in ["workload"] * several_workloads + ["optimizer"]:
        table.add_column(name, no_wrap=True)
    for name in ("α₀", "β", searched.objective, "points"):
        table.add_column(name, justify="right", no_wrap=True)
    for standing in arms:
        template, best = standing.arm.template, standing.best
        cells = [template.workload] * several_workloads + [template.label]
        cells += ["–"] * 3 if best is None else [_number(best.point.alpha0), _number(best.point.beta)]
        if best is not None:
            cells.append("none" if _is_infinite(best.measured) else _number(best.measured, digits=5))
        points = [f"{len(standing.scores) - standing.count('open')}"]
        points += [f"{count} {s}" for s in ("pruned", "failed", "open") if (count := standing.count(s))]
        table.add_row(*cells, ", ".join(points))
    console.print(Text(heading, "italic"), soft_wrap=True)
    print_whole(console, table)


def _is_infinite(value: float | None) -> bool:
    return value is not None and math.isinf(value)


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print studies or optimizers side by side, point by point, and notes about them.

    On a terminal that is too narrow for intervals, print only medians and ratios.
    """
    table = _comparison_table(comparison, intervals=True)
    if console.is_terminal and natural_width(console, table) > console.width:
        table = _comparison_table(comparison, intervals=False)
    print_whole(console, table)
    for note in comparison.notes:
        console.print(note, highlight=False, soft_wrap=True)


def _comparison_table(comparison: Comparison, *, intervals: bool) -> Table:
    rows = comparison.rows
    timed = bool(rows["threshold"].notna().any())
    many = rows[["workload", "workload_args"]].drop_duplicates().shape[0] > 1
    said = (" with its interval", " with its range") if intervals else ("", "")
    title = "Medians over seeds: " + (f"N{said[0]}, " if timed else "") + f"best validation loss{said[1]}\n"
    title += f"÷ first: paired by seed{said[0]}; below 1 is better"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    headings = ["workload"] * many + ["optimizer"] * comparison.of_studies + ["α₀", "who"]
    headings += ["N", "reached", "N ÷ first"] if timed else []
    for heading in [*headings, "best val loss", "÷ first", "seeds"]:
        left = heading in ("workload", "optimizer", "who")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for _, lines in rows.groupby("point", sort=False):
        for place, row in enumerate(lines.to_dict("records")):
            first = place == 0
            cells = [workload_label(row) if first else ""] * many
            cells += [method_label(row, with_beta=True) if first else ""] * comparison.of_studies
            cells += [_number(row["alpha0"]) if first else "", row["who"]]
            if timed:
                cells += [_hits(row, intervals), f"{row['reached']}/{row['seeds']}"]
                cells.append(_ratio(row, "iterations", intervals))
            cells.append(_spread(row, "best_val_loss") if intervals else _middle(row, "best_val_loss"))
            table.add_row(*cells, _ratio(row, "loss", intervals), str(row["seeds"]))
    return table


def failure_lines(failures: Iterable[Failure], *, tracebacks: bool = False) -> list[str]:
    """Return a block of lines for each cause of failures: the cause, its place, and the trials.

    Args:
        failures: The failures.
        tracebacks: Whether to add the whole traceback of one trial of each.
    """
    lines = []
    for failure in failures:
        lines.append(f"{pluralize(failure.trials, 'trial')} failed: {failure.cause}")
        if failure.place is not None:
            lines.append(f"  at {failure.place}")
        lines.append(f"  {join_names(list(failure.workloads))} with {join_names(list(failure.optimizers))}")
        if tracebacks:
            lines += [f"  {line}" for line in failure.traceback.rstrip().splitlines()]
    return lines


def show_next(console: Console, places: dict[str, str]) -> None:
    """Print paths and next commands, each on one unbroken line that can be copied."""
    width = max(map(len, places))
    for name, place in places.items():
        console.print(Text(f"{name:>{width}}  {place}"), soft_wrap=True)


def _spread(row: Mapping[Any, Any], name: str) -> str:
    if name == "iterations":
        return row["iterations_text"] or "–"
    if name in ("alpha_range", "alpha_final"):
        return _middle(row, name)
    low, high = row[f"{name}_min"], row[f"{name}_max"]
    return _middle(row, name) + (f" ({_number(low)} – {_number(high)})" if low < high else "")


def _hits(row: Mapping[Any, Any], interval: bool) -> str:
    """Return the median of N, with its interval if ``interval`` is set."""
    if math.isnan(row["threshold"]) or not row["seeds"]:
        return "–"
    inside = format_range(
        *(format_iterations(row[f"iterations_{end}"], row["budget"]) for end in ("low", "high"))
    )
    return _middle(row, "iterations") + (f" ({inside})" if inside and interval else "")


def _ratio(row: Mapping[Any, Any], name: str, interval: bool) -> str:
    """Return the ratio to the first, its interval, and the number of seeds if they are not all."""
    if row["is_base"]:
        return "1"
    value, low, high = (row[f"{name}_ratio{end}"] for end in ("", "_low", "_high"))
    pairs = f" [{pluralize(row[f'{name}_pairs'], 'pair')}]" if 0 < row[f"{name}_pairs"] < row["seeds"] else ""
    inside = "" if math.isnan(low) or not interval else f" ({_number(low)} – {_number(high)})"
    return _number(value) + inside + pairs


def _middle(row: Mapping[Any, Any], name: str) -> str:
    if name == "iterations":
        return format_median_iterations(row)
    if name == "alpha_range" and not math.isnan(row["alpha_min_min"]):
        return f"{_number(row['alpha_min_min'])} – {_number(row['alpha_max_max'])}"
    return _number(row.get(name))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}g}"
