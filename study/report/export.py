"""A study's tables and curves as files for other programs: CSV, Parquet, LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from study.analysis.curves import CURVES, curve_rows
from study.analysis.formatting import iterations, label, method, number, span
from study.storage.records import TrialRecord

WHATS = ("summary", "trials", "curves", "claims")
"""What can be exported."""
SUFFIXES: dict[str, str] = {"csv": "csv", "parquet": "parquet", "latex": "tex"}
"""The formats, and how their files end."""


def write_table(table: pd.DataFrame, what: str, form: str, path: Path) -> None:
    """Write the table of a study's summary, trials or claims, whole or not at all.

    Args:
        table: from ``tables.summary_table``, ``tables.trial_table`` or ``claims.claims``.
        what: which of them it is.
        form: CSV and Parquet hold every column as it is, LaTeX what one prints of it.
        path: an existing file is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    with _replacing(path) as draft:
        if form == "csv":
            table.to_csv(draft, index=False)
        elif form == "parquet":
            table.to_parquet(draft, index=False)
        else:
            draft.write_text(latex(table, what), encoding="utf-8")


def write_curves(records: Iterable[TrialRecord], form: str, path: Path) -> int:
    """Write every iteration of every trial, one trial at a time; return how many rows there are.

    Args:
        records: may be a generator, so that only one trial is in memory.
        form: CSV or Parquet.
        path: an existing file is replaced, once all is written.

    Raises:
        ValueError: LaTeX is asked for.
        OSError: the file cannot be written.
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

    Names are escaped; Greek letters and signs become mathematics, so that any LaTeX compiles it.
    """
    shown = pd.DataFrame(
        [{head: say(row) for head, say in _LATEX[what].items()} for row in table.to_dict("records")],
        columns=list(_LATEX[what]),
    )
    text = str(
        shown.to_latex(
            index=False,
            escape=False,
            longtable=what == "trials",
            column_format="".join("l" if head in _LEFT else "r" for head in shown.columns),
        )
    )
    packages = "booktabs, longtable" if what == "trials" else "booktabs"
    return f"% needs \\usepackage{{{packages}}}\n{text}"


def tex(text: str) -> str:
    """Return text with what LaTeX would take for its own escaped."""
    return "".join(_TEX.get(letter, letter) for letter in text)


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


def _power(value: float, digits: int = 3) -> str:
    """A number as LaTeX, 1.2e-07 as a power of ten."""
    mantissa, e, exponent = number(value, digits).replace("−", "-").partition("e")
    if not e:
        return tex(number(value, digits))
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}\times {power}$"


def _rate(value: float) -> str:
    """A setting as LaTeX, with the digits that it was given with."""
    mantissa, e, _ = f"{value:g}".partition("e")
    digits = len(mantissa.replace(".", ""))
    return "--" if math.isnan(value) else _power(value, digits) if e else mantissa


def _spread(name: str) -> Callable[[Mapping[Any, Any]], str]:
    def say(row: Mapping[Any, Any]) -> str:
        inside = span(number(row[f"{name}_min"]), number(row[f"{name}_max"]))
        return number(row[name]) + (f" ({inside})" if inside else "")

    return say


def _median(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["threshold"]):
        return "–"
    low, high = (iterations(row[f"iterations_{end}"], row["budget"]) for end in ("low", "high"))
    inside = span(low, high)
    return str(row["iterations_text"]).partition(" (")[0] + (f" ({inside})" if inside else "")


def _hit(row: Mapping[Any, Any]) -> str:
    """N of one trial; "> budget" only of one that used its budget up."""
    hit = math.inf if row["outcome"] == "not_reached" else row["iterations_to_threshold"]
    return iterations(hit, row["budget"])


def _ratio(row: Mapping[Any, Any]) -> str:
    inside = span(number(row["ratio_low"]), number(row["ratio_high"]))
    return number(row["ratio"]) + (f" ({inside})" if inside else "")


def _against(row: Mapping[Any, Any]) -> str:
    names = ("beta", "granularity", "optimizer_args")
    other = {name: row.get(f"baseline_{name}", row[name]) for name in names}
    return method({**other, "optimizer": row["baseline"]})


_Say = Callable[[Mapping[Any, Any]], str]
_Columns = dict[str, _Say]


def _text(say: _Say) -> _Say:
    return lambda row: tex(say(row))


_POINT: _Columns = {
    "workload": _text(label),
    "optimizer": _text(method),
    r"$\alpha_0$": lambda row: _rate(row["alpha0"]),
    r"$\beta$": lambda row: _rate(row["beta"]),
}
_LATEX: dict[str, _Columns] = {
    "summary": {
        **_POINT,
        "seeds": lambda row: str(row["seeds"]),
        "iterations to threshold": _text(_median),
        "reached": lambda row: "--" if math.isnan(row["threshold"]) else f"{row['reached']}/{row['seeds']}",
        "final training loss": _text(_spread("final_train_loss")),
        "best validation loss": _text(_spread("best_val_loss")),
    },
    "trials": {
        **_POINT,
        "seed": lambda row: str(row["seed"]),
        "outcome": lambda row: tex(row["outcome"].replace("_", " ")),
        "iterations to threshold": lambda row: tex(_hit(row)),
        "final training loss": lambda row: tex(number(row["final_train_loss"])),
        "best validation loss": lambda row: tex(number(row["best_val_loss"])),
    },
    "claims": {
        "claim": lambda row: tex(row["claim"]),
        "workload": _text(label),
        "optimizer": _text(method),
        "against": _text(_against),
        "pairs": lambda row: str(row["pairs"]),
        "ratio": _text(_ratio),
        "$p$, corrected": lambda row: _power(row["p_adjusted"], 2),
        "verdict": lambda row: tex(row["verdict"]),
    },
}
_LEFT = ("workload", "optimizer", "outcome", "claim", "against", "verdict")
_TEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
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
