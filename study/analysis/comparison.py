"""Puts studies, or optimizers of studies, side by side, for the command ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.formatting import method_label
from study.analysis.pairing import METHOD, cells, ended
from study.analysis.stats import paired_log_ratio
from study.analysis.tables import summary_table
from study.config.loader import ConfigError

POINT = ("workload", "workload_args", "alpha0")
"""The columns that the rows of a point share, besides the method if studies are compared."""

_SETTINGS = {
    "threshold": "thresholds",
    "budget": "budgets in iterations",
    "batch_size": "batch sizes",
    "drop_last": "values of drop_last",
    "precision": "precisions",
    "weight_decay": "weight decays",
}


class Side(NamedTuple):
    """One side of a comparison: a study, or one optimizer of it."""

    study: str
    trials: pd.DataFrame
    optimizer: str | None = None


class Comparison(NamedTuple):
    """The result of ``compare``."""

    rows: pd.DataFrame
    """A ``summary_table`` row for each side, method and point. Further columns: ``point``, the point's
    number; ``who``, the side's name; ``iterations_ratio`` and ``loss_ratio`` to the first, each with
    ``…_low`` and ``…_high``; ``iterations_pairs`` and ``loss_pairs``."""
    of_studies: bool
    """Whether whole studies are compared, method by method; otherwise optimizers are."""
    notes: list[str]
    """Caveats that a reader of the rows must know."""


class _Line(NamedTuple):
    side: Side
    method: dict[str, Any]
    trials: pd.DataFrame


def parse(words: Sequence[str], optimizers: str | None) -> list[tuple[str, str | None]]:
    """Return the sides that the command line names, as study and optimizer.

    Args:
        words: Sides, each ``NAME`` or ``NAME:OPTIMIZER``.
        optimizers: Names with commas, for every study named without one. None: compare whole studies.

    Raises:
        ConfigError: Some words name an optimizer and others do not, or a side is named twice.
    """
    wanted = [name.strip() for name in (optimizers or "").split(",") if name.strip()]
    sides: list[tuple[str, str | None]] = []
    for word in words:
        study, _, optimizer = word.partition(":")
        names: list[str | None] = [optimizer] if optimizer else [*wanted] or [None]
        sides += [(study, name) for name in names]
    if len({optimizer is None for _, optimizer in sides}) > 1:
        raise ConfigError(["name an optimizer of every study (NAME:OPTIMIZER), or of none"])
    for side in sides:
        if sides.count(side) > 1:
            raise ConfigError([f"{':'.join(filter(None, side))}: named twice; name different ones"])
    return sides


def compare(sides: Sequence[Side]) -> Comparison:
    """Compare all sides with the first, point by point.

    Whole studies are compared method by method, at the same workload and α₀. Optimizers are compared at the
    same workload and α₀, each with all its β and options, against the first one with the same β, or, if there
    is none, its first β. One study alone is compared optimizer by optimizer.

    Ratios are ``stats.paired_log_ratio`` over the seeds on which both have a value; below 1 is better
    than the first. N is only compared at equal thresholds.

    Args:
        sides: The sides; the first is the baseline.

    Raises:
        ConfigError: A study has no such optimizer, or no point is on two sides.
    """
    sides = list(_expanded(sides))
    whole = sides[0].optimizer is None
    points: dict[tuple[str, ...], list[_Line]] = {}
    for side in sides:
        for of, cell in cells(side.trials, [*POINT, *METHOD]):
            # As text, since the β of a plain optimizer, NaN, does not equal itself.
            key = tuple(str(of[name]) for name in (*POINT, *METHOD) if whole or name in POINT)
            points.setdefault(key, []).append(_Line(side, {name: of[name] for name in METHOD}, cell))
    shared = [lines for lines in points.values() if len({line.side[::2] for line in lines}) > 1]
    if not shared:
        raise ConfigError(
            ["nothing to compare: no workload, α₀" + " and optimizer" * whole + " is on two sides"]
        )
    rows = [
        {"point": number, "who": _who(line, sides), **_summary(line), **_ratios(line, _base(line, lines))}
        for number, lines in enumerate(shared)
        for line in lines
    ]
    left = len(points) - len(shared)
    notes = [f"{left} more points are on one side only"] if left else []
    return Comparison(pd.DataFrame(rows), whole, [*_differences(shared, sides), *notes])


def _expanded(sides: Sequence[Side]) -> Iterator[Side]:
    for side in sides:
        known = list(dict.fromkeys(side.trials["optimizer"]))
        if side.optimizer is not None and side.optimizer not in known:
            raise ConfigError(
                [f"{side.study}: no optimizer {side.optimizer!r}; there are {', '.join(known)}"]
            )
        for optimizer in known if len(sides) == 1 and side.optimizer is None else [side.optimizer]:
            rows = side.trials if optimizer is None else side.trials[side.trials["optimizer"] == optimizer]
            yield Side(side.study, rows, optimizer)


def _who(line: _Line, sides: Sequence[Side]) -> str:
    called = method_label(line.method, with_beta=True)
    if line.side.optimizer is None:
        return line.side.study
    return called if len({side.study for side in sides}) == 1 else f"{line.side.study}: {called}"


def _summary(line: _Line) -> dict[str, Any]:
    return {str(name): value for name, value in summary_table(line.trials).iloc[0].to_dict().items()}


def _base(line: _Line, lines: Sequence[_Line]) -> _Line:
    firsts = [other for other in lines if other.side[::2] == lines[0].side[::2]]
    alike = [other for other in firsts if other.method["beta"] == line.method["beta"]]
    return (alike or firsts)[0] if line is not firsts[0] else line


def _ratios(line: _Line, base: _Line) -> dict[str, Any]:
    columns = ["seed", "threshold", "iterations_to_threshold", "best_val_loss"]
    pairs = ended(line.trials)[columns].merge(ended(base.trials)[columns], on="seed", suffixes=("", "_base"))
    row: dict[str, Any] = {"is_base": line is base}
    for short, name in (("iterations", "iterations_to_threshold"), ("loss", "best_val_loss")):
        both = pairs[(pairs[name] > 0) & (pairs[f"{name}_base"] > 0)]
        if short == "iterations":
            both = both[both["threshold"] == both["threshold_base"]]
        ratio = paired_log_ratio(both[name], both[f"{name}_base"])
        row |= dict(zip((f"{short}_ratio{end}" for end in ("", "_low", "_high")), ratio, strict=True))
        row[f"{short}_pairs"] = len(both)
    return row


def _differences(shared: Sequence[Sequence[_Line]], sides: Sequence[Side]) -> Iterator[str]:
    """Yield the settings, besides the optimizer, in which the sides of a point differ."""
    for name, what in _SETTINGS.items():
        found: dict[tuple[str, str], None] = {}
        for lines in shared:
            values = {_written(line.trials[name].iloc[0]): line for line in lines}
            if len(values) > 1:
                found |= dict.fromkeys((_who(line, sides), value) for value, line in values.items())
        if found:
            said = ", ".join(f"{who} {value}" for who, value in list(found)[:6])
            yield f"{what} differ: {said}" + (", …" if len(found) > 6 else "")


def _written(value: float | bool | str) -> str:
    """Return a setting as a study file writes it."""
    if isinstance(value, str):
        return value
    return str(bool(value)).lower() if isinstance(value, bool | np.bool) else f"{value:g}"
