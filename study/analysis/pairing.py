"""Groups trials into cells, and pairs each method with its baseline. pandas only."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from study.analysis.metrics import MEASURED
from study.config.loader import LOPS, OPS

BASELINES: dict[str, str] = {
    f"{op}-{lop}": op if lop == "sgd" else f"{op}-sgd" for op in OPS for lop in LOPS
}  # sgd-sgd: sgd, sgd-sgdn: sgd-sgd, …
"""The baseline of each optimizer: the plain optimizer for hypergradient descent (lop SGD), and hypergradient
descent for the other learned ones."""


class Setup(NamedTuple):
    """Settings that paired trials have in common, besides α₀ and the seed."""

    workload: str
    workload_args: str
    batch_size: int
    drop_last: bool
    weight_decay: float
    epochs: float
    budget: float


class Method(NamedTuple):
    """Settings of the method itself."""

    optimizer: str
    beta: float
    """NaN of an optimizer that has none."""
    granularity: str
    optimizer_args: str


SETUP, METHOD = Setup._fields, Method._fields
CELL = (*SETUP, *METHOD, "alpha0")
"""Everything but the seed: the columns that a row of a summary table is for."""


def cells(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield groups of rows equal in ``by`` (NaN equals NaN) in the study's order, whatever theirs."""
    if len(trials):
        for values, cell in trials.sort_index().groupby(list(by), sort=False, dropna=False):
            yield dict(zip(by, values, strict=True)), cell


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ended, in the study's order; a hit after the budget becomes NaN.

    Trials that failed, were pruned, or are still to run have no rows here.
    """
    rows = trials[trials["outcome"].isin(MEASURED)].sort_index()
    censored = {
        name: rows[name].mask(rows[hit] > rows["budget"]) for hit, names in _HITS.items() for name in names
    }
    return rows.assign(**censored)


class MethodPair(NamedTuple):
    """A method and its baseline under one setup, with all their trials."""

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


def method_pairs(trials: pd.DataFrame, against: Mapping[str, str] = BASELINES) -> Iterator[MethodPair]:
    """Yield every method that has a baseline in the same setup, with it, in the study's order.

    Where both optimizers have β, and any values of it in common, only equal ones are paired; if they have
    none, every combination is. The same goes for granularity and further options, method by method.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
        against: Optimizer → baseline.
    """
    for setup, group in cells(trials, SETUP):
        for optimizer, baseline in against.items():
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
    """Return the baseline's methods to pair ``method`` with."""
    if on_beta:
        bases = [base for base in bases if base[0].beta == method.beta]
    bases = [base for base in bases if base[0].granularity == method.granularity] or bases
    return [base for base in bases if base[0].optimizer_args == method.optimizer_args] or bases


# Which columns are censored by which hit.
_HITS = {
    "iterations_to_threshold": ("iterations_to_threshold", "seconds_to_threshold"),
    "smoothed_iterations_to_threshold": ("smoothed_iterations_to_threshold",),
}
