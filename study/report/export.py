"""Writes a study's tables and curves as files for other programs: CSV, Parquet, LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from study.analysis.curves import CURVES, curve_rows
from study.analysis.formatting import (
    format_iterations,
    format_median_iterations,
    format_number,
    format_range,
    method_label,
    paper_name,
    workload_label,
)
from study.analysis.pairing import METHOD
from study.storage.records import TrialRecord

_label = partial(method_label, in_prose=True)

WHATS = ("summary", "trials", "curves", "claims", "untuned_claims")
"""The tables that can be exported."""
SUFFIXES: dict[str, str] = {"csv": "csv", "parquet": "parquet", "latex": "tex"}
"""The formats, with the suffixes of their files."""


def write_table(table: pd.DataFrame, what: str, form: str, path: Path) -> None:
    """Write the table of a study's summary, trials or claims, completely or not at all.

    Args:
        table: From ``tables.summary_table``, ``tables.trial_table``, ``claim_table.claim_table`` or
            ``untuned_claims.untuned_claim_table``.
        what: The kind of the table, one of ``WHATS``.
        form: The format, one of ``SUFFIXES``. CSV and Parquet contain every column, LaTeX the columns that a
            paper prints.
        path: The file; one that exists is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    with _replacing(path) as draft:
        if form == "csv":
            table.to_csv(draft, index=False)
        elif form == "parquet":
            table.to_parquet(draft, index=False)
        else:
            draft.write_text(latex(table, what), encoding="utf-8")


def write_curves(records: Iterable[TrialRecord], form: str, path: Path) -> int:
    """Write every iteration of every trial, one trial at a time; return the number of rows.

    Args:
        records: Records; may be a generator, so that only one trial is in memory.
        form: The format, ``csv`` or ``parquet``.
        path: The file; one that exists is replaced once everything is written.

    Raises:
        ValueError: ``form`` is LaTeX.
        OSError: The file cannot be written.
    """
    if form == "latex":
        raise ValueError("curves are too long for LaTeX; choose csv or parquet")
    rows = 0
    with _replacing(path) as draft:
        writer = pq.ParquetWriter(draft, CURVES) if form == "parquet" else pa_csv.CSVWriter(draft, CURVES)
        with writer:
            for record in records:
                if record.iterations:
                    table = curve_rows(record)
                    writer.write_table(table)
                    rows += table.num_rows
    return rows


def latex(table: pd.DataFrame, what: str) -> str:
    """Return a table as LaTeX, for the package booktabs, and longtable for the trials.

    Optimizers have the names that papers use, ``Adam--Adam``. pandas escapes every name. Greek letters and
    signs become mathematics, so that any LaTeX can compile the table.

    Args:
        table: See ``write_table``.
        what: See ``write_table``.
    """
    columns = _LATEX[what]
    shown = pd.DataFrame(
        [{heading: say(row) for heading, say in columns.items()} for row in table.to_dict("records")],
        columns=list(columns),
    )
    is_long = what == "trials"
    text = (
        shown.style.hide(axis="index")
        .format(_scientific, subset=[name for name in _NUMBERS if name in columns])
        .format(escape="latex", subset=[name for name in columns if name not in _NUMBERS])
        .to_latex(
            column_format="".join("l" if name in _LEFT else "r" for name in columns),
            environment="longtable" if is_long else None,
            hrules=True,
        )
    )
    packages = "booktabs, longtable" if is_long else "booktabs"
    return f"% needs \\usepackage{{{packages}}}\n{text.translate(_MATHEMATICS)}"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    if path.is_dir() or not path.parent.is_dir():
        wrong = "is a folder" if path.is_dir() else f"there is no folder {path.parent}"
        raise OSError(f"{path}: {wrong}; name a file to write with --output")
    draft = path.with_name(f".{path.name}.new")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _scientific(value: object) -> str:
    """Return a number as LaTeX, with 1.2e-07 as a power of ten."""
    number = float(str(value))
    mantissa, e, exponent = ("–" if math.isnan(number) else f"{number:g}").partition("e")
    times = "" if mantissa == "1" else rf"{mantissa} \times "
    return f"${times}10^{{{int(exponent)}}}$" if e else mantissa


def _with_range(value: str, low: str, high: str) -> str:
    inside = format_range(low, high)
    return f"{value} ({inside})" if inside else value


def _median(name: str) -> Callable[[Mapping[Any, Any]], str]:
    return lambda row: _with_range(*(format_number(row[f"{name}{end}"]) for end in ("", "_min", "_max")))


def _median_iterations(row: Mapping[Any, Any]) -> str:
    ends = (format_iterations(row[f"iterations_{end}"], row["budget"]) for end in ("low", "high"))
    return _with_range(format_median_iterations(row), *ends)


def _reached(row: Mapping[Any, Any]) -> str:
    return "–" if math.isnan(row["threshold"]) else f"{row['reached']}/{row['seeds']}"


def _iterations(row: Mapping[Any, Any]) -> str:
    """Return N of one trial; "> budget" only for a trial that used up its budget."""
    missed = row["outcome"] == "not_reached"
    return format_iterations(math.inf if missed else row["iterations_to_threshold"], row["budget"])


def _ratio(row: Mapping[Any, Any]) -> str:
    return _with_range(*(format_number(row[name]) for name in ("ratio", "ratio_low", "ratio_high")))


def _baseline(row: Mapping[Any, Any]) -> str:
    settings = {name: row[f"baseline_{name}"] for name in METHOD[1:]}
    return _label({**settings, "optimizer": row["baseline"]})


_Columns = dict[str, Callable[[Mapping[Any, Any]], Any]]

# Headings, with functions for their cells; numbers that may be powers of ten stay numbers.
_POINT: _Columns = {
    "workload": workload_label,
    "optimizer": _label,
    "α₀": lambda row: row["alpha0"],
    "β": lambda row: row["beta"],
}
_LATEX: dict[str, _Columns] = {
    "summary": {
        **_POINT,
        "seeds": lambda row: row["seeds"],
        "iterations to threshold": _median_iterations,
        "reached": _reached,
        "final training loss": _median("final_train_loss"),
        "best validation loss": _median("best_val_loss"),
    },
    "trials": {
        **_POINT,
        "seed": lambda row: row["seed"],
        "outcome": lambda row: row["outcome"].replace("_", " "),
        "iterations to threshold": _iterations,
        "final training loss": lambda row: format_number(row["final_train_loss"]),
        "best validation loss": lambda row: format_number(row["best_val_loss"]),
    },
    "claims": {
        "claim": lambda row: row["claim"],
        "workload": workload_label,
        "optimizer": _label,
        "against": _baseline,
        "pairs": lambda row: row["pairs"],
        "ratio": _ratio,
        "p, corrected": lambda row: float(f"{row['p_adjusted']:.2g}"),
        "verdict": lambda row: row["verdict"],
    },
    "untuned_claims": {
        "claim": lambda row: row["claim"],
        "workload": workload_label,
        "optimizer": _label,
        "against": lambda row: paper_name(row["against"]),
        "α₀": lambda row: row["alpha0"],
        "ratio": _ratio,
        "bar": lambda row: row["bar"],
        "below": lambda row: f"{row['below']}/{row['seeds']}" if row["seeds"] else "–",
        "p": lambda row: float(f"{row['p']:.2g}"),
        "verdict": lambda row: row["verdict"],
    },
}
_NUMBERS = ("α₀", "β", "bar", "p", "p, corrected")
_LEFT = ("workload", "optimizer", "outcome", "claim", "against", "verdict")
# Characters that LaTeX cannot print, beyond those that pandas escapes.
_MATHEMATICS = str.maketrans(
    {
        "<": "$<$",
        ">": "$>$",
        "−": "$-$",
        "–": "--",
        "α": r"$\alpha$",
        "β": r"$\beta$",
        "τ": r"$\tau$",
        "₀": "$_0$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "×": r"$\times$",
        "÷": r"$\div$",
        "“": "``",
        "”": "''",
    }
)
