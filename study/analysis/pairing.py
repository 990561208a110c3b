"""What is compared with what: a table's cells, and methods with their baselines. pandas only."""

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
"""What each optimizer is compared with: hypergradient descent (lop SGD) with the plain optimizer, and the
other learned ones with hypergradient descent."""

SETUP = ("workload", "workload_args", "batch_size", "weight_decay", "epochs", "budget")
"""Settings that paired trials have in common, besides α₀ and the seed."""
METHOD = ("optimizer", "beta", "granularity", "optimizer_args")
"""Settings of the method itself."""
CELL = (*SETUP, *METHOD, "alpha0")
"""Everything but the seed: rows of a summary table."""

Cells = list[tuple[dict[str, Any], pd.DataFrame]]


def cells(trials: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield groups of rows equal in ``by`` (NaN equals NaN) in the study's order, whatever theirs."""
    if len(trials):
        for values, cell in trials.sort_index().groupby(list(by), sort=False, dropna=False):
            yield dict(zip(by, values, strict=True)), cell


def ended(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that ended, in the study's order; a hit after the budget is none, NaN.

    Trials that failed, were pruned, or are still to run have no rows here.
    """
    rows = trials[trials["outcome"].isin(MEASURED)].sort_index()
    censored = {
        name: rows[name].mask(rows[hit] > rows["budget"]) for hit, names in _HITS.items() for name in names
    }
    return rows.assign(**censored)


class MethodPair(NamedTuple):
    """A method and the baseline method to hold it against, under one setup, with all their trials."""

    setup: dict[str, Any]
    method: dict[str, Any]
    baseline: str
    base_method: dict[str, Any]
    new: pd.DataFrame
    base: pd.DataFrame

    @property
    def identity(self) -> dict[str, Any]:
        """The columns that say which comparison it is; the baseline's are ``baseline_beta`` and so on."""
        details = {f"baseline_{name}": self.base_method[name] for name in METHOD[1:]}
        return {**self.setup, **self.method, "baseline": self.baseline, **details}

    @property
    def same_threshold(self) -> bool:
        """Whether both have a threshold, and the same one."""
        thresholds = {*self.new["threshold"], *self.base["threshold"]}
        return len(thresholds) == 1 and not any(map(math.isnan, thresholds))


def method_pairs(trials: pd.DataFrame, against: Mapping[str, str] = BASELINES) -> Iterator[MethodPair]:
    """Yield every method that has a baseline in the same setup, with it, in the study's order.

    Where both optimizers have β, and any values of it in common, only equal ones are paired; if they have
    none, every combination is. The same goes for granularity and further options, method by method.

    Args:
        trials: from ``tables.trial_table``, rows in any order.
        against: optimizer → baseline.
    """
    for setup, group in cells(trials, SETUP):
        for optimizer, baseline in against.items():
            new, base = group[group["optimizer"] == optimizer], group[group["optimizer"] == baseline]
            alike = set(new["beta"].dropna()) & set(base["beta"].dropna())
            bases = list(cells(base, METHOD))
            for method, these in cells(new, METHOD):
                for base_method, those in _fitting(method, bases, bool(alike)):
                    yield MethodPair(setup, method, baseline, base_method, these, those)


def _fitting(method: Mapping[str, Any], bases: Cells, on_beta: bool) -> Cells:
    """The baseline's cells to pair a method with."""
    if on_beta:
        bases = [cell for cell in bases if cell[0]["beta"] == method["beta"]]
    for name in ("granularity", "optimizer_args"):
        bases = [cell for cell in bases if cell[0][name] == method[name]] or bases
    return bases


_HITS = {
    "iterations_to_threshold": (
        "iterations_to_threshold",
        "gradient_evaluations_to_threshold",
        "seconds_to_threshold",
    ),
    "smoothed_iterations_to_threshold": ("smoothed_iterations_to_threshold",),
}
