"""Selects trials by their settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

TEXT = ("workload", "optimizer")


def select(trials: pd.DataFrame, wanted: Mapping[str, object]) -> pd.DataFrame:
    """Return the rows of a table of trials that have the wanted settings.

    Args:
        trials: From ``tables.trial_table``.
        wanted: A value or several by column; None for any value. Numbers match up to rounding.

    Raises:
        ValueError: No row has one of the values; the message lists the known ones.
    """
    matches = np.ones(len(trials), dtype=bool)
    for name, value in wanted.items():
        if value is not None:
            matches &= _matches(trials[name], name, value)
    return trials[matches].reset_index(drop=True)


def _matches(column: pd.Series, name: str, wanted: object) -> np.ndarray[tuple[int], np.dtype[np.bool]]:
    values = list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
    matches = np.zeros(len(column), dtype=bool)
    for value in values:
        if name in TEXT:
            found = (column == value).to_numpy(dtype=bool)
        else:
            found = np.isclose(column.to_numpy(dtype=float), float(str(value)), rtol=1e-9, atol=0)
        if not found.any():
            known = [str(v) for v in column.dropna().unique()]
            raise ValueError(f"no trial has {name}={value!r}; there are {', '.join(known)}")
        matches |= found
    return matches
