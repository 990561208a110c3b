"""Groups trials into cells, and pairs each method with its baseline. Needs only numpy and pandas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.analysis.metrics import MEASURED
from study.config.loader import LOPS, OPS
from study.config.optimizer_name import OptimizerName


class Setup(NamedTuple):
    """Settings that paired trials share, besides α₀ and the seed."""

    workload: str
    workload_args: str
    batch_size: int
    drop_last: bool
    precision: str
    weight_decay: float
    epochs: float
    budget: float


class Method(NamedTuple):
    """Settings of the method itself."""

    optimizer: str
    beta: float
    """β; NaN if the optimizer has none."""
    granularity: str
    optimizer_args: str


SETUP, METHOD = Setup._fields, Method._fields
CELL = (*SETUP, *METHOD, "alpha0")
"""All settings but the seed: the columns that identify a row of a summary table."""


def cells(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield groups of rows equal in ``by`` (NaN equals NaN), in the study's order, for rows in any order."""
    if len(trials):
        for values, cell in trials.sort_index().groupby(list(by), sort=False, dropna=False):
            yield dict(zip(by, values, strict=True)), cell


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ended, in the study's order; a hit after the budget becomes NaN.

    Trials that failed, were pruned, or have yet to run have no rows here.
    """
    rows = trials[trials["outcome"].isin(MEASURED)].sort_index()
    return rows.assign(**{name: censored(rows, name) for names in HITS.values() for name in names})


def censored(trials: pd.DataFrame, measure: str) -> NDArray[np.float64]:
    """Return a measure of every trial; a hit after the budget becomes NaN."""
    values = trials[measure].to_numpy(dtype=np.float64)
    for hit, names in HITS.items():
        if measure in names:
            return np.where(trials[hit].to_numpy() > trials["budget"].to_numpy(), math.nan, values)
    return values


class MethodPair(NamedTuple):
    """A method and its baseline in one setup, with all their trials."""

    setup: Setup
    method: Method
    baseline: Method
    new: pd.DataFrame
    """The method's trials."""
    base: pd.DataFrame
    """The baseline's trials."""

    @property
    def same_threshold(self) -> bool:
        """Whether both have a threshold, and it is the same one."""
        thresholds = {*self.new["threshold"], *self.base["threshold"]}
        return len(thresholds) == 1 and not any(map(math.isnan, thresholds))


def baselines(trials: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the baselines of the optimizers of a table, by op, lop and rule.

    Hypergradient descent (lop SGD) has the plain optimizer: ``adam-sgd`` has ``adam``. The other learned
    optimizers have hypergradient descent: by the same rule if the table has it, otherwise by the additive
    rule; and the plain optimizer if it has neither. If variants have their own labels, all of them are
    baselines, unless one has no label.

    Args:
        trials: From ``tables.trial_table``.
    """
    columns = ["optimizer", "op", "lop", "rule"]
    shown = {
        row["optimizer"]: OptimizerName(row["op"], None if pd.isna(row["lop"]) else row["lop"], row["rule"])
        for row in trials.sort_index()[columns].drop_duplicates("optimizer").to_dict("records")
        if row["op"] in OPS
    }

    def called(name: OptimizerName) -> tuple[str, ...]:
        of_name = tuple(label for label, other in shown.items() if other == name)
        return (str(name),) if str(name) in of_name else of_name

    found = {}
    for op in OPS:
        for lop in LOPS:
            for label, name in shown.items():
                if (name.op, name.lop) == (op, lop):
                    plain = tuple(base for base in called(OptimizerName(op)) if base == op)
                    descent = called(OptimizerName(op, "sgd", name.rule)) or called(OptimizerName(op, "sgd"))
                    found[label] = plain if lop == "sgd" else descent or plain
    return {label: bases for label, bases in found.items() if bases}


def method_pairs(
    trials: pd.DataFrame, against: Mapping[str, Sequence[str]] | None = None
) -> Iterator[MethodPair]:
    """Yield every method with each of its baselines in the same setup, in the study's order.

    If both optimizers have β, and share any values of it, only equal ones are paired; if they share none,
    every combination is. The same holds for granularity and further options, method by method.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
        against: The baselines of each optimizer. Default: ``baselines``.
    """
    against = baselines(trials) if against is None else against
    for setup, group in cells(trials, SETUP):
        for optimizer, baseline in ((o, base) for o, bases in against.items() for base in bases):
            new, base = group[group["optimizer"] == optimizer], group[group["optimizer"] == baseline]
            alike = set(new["beta"].dropna()) & set(base["beta"].dropna())
            bases = [(Method(**settings), rows) for settings, rows in cells(base, METHOD)]
            for settings, rows in cells(new, METHOD):
                method = Method(**settings)
                for base_method, base_rows in _matching(method, bases, bool(alike)):
                    yield MethodPair(Setup(**setup), method, base_method, rows, base_rows)


def _matching(
    method: Method, bases: list[tuple[Method, pd.DataFrame]], on_beta: bool
) -> list[tuple[Method, pd.DataFrame]]:
    """Return the baseline's methods to pair with ``method``."""
    if on_beta:
        bases = [base for base in bases if base[0].beta == method.beta]
    bases = [base for base in bases if base[0].granularity == method.granularity] or bases
    return [base for base in bases if base[0].optimizer_args == method.optimizer_args] or bases


HITS = {
    "iterations_to_threshold": ("iterations_to_threshold", "seconds_to_threshold"),
    "smoothed_iterations_to_threshold": ("smoothed_iterations_to_threshold",),
}
"""The columns that are censored if a hit, by its column, comes after the budget."""
