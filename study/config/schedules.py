"""Learning-rate schedules: α_t = α · multiplier, where α is α₀ or the learned one. Standard library only.

A study file says ``schedule: cosine`` or ``schedule: {name: step, every: 10, factor: 0.1, warmup: 1}``.
Lengths are in the unit of the study's budget: epochs if it has ``epochs``, otherwise iterations; they may be
fractions of an epoch. α changes at every iteration, even if the unit is the epoch.

========  ==================================================================================  ==========
key       meaning                                                                             default
========  ==================================================================================  ==========
name      ``cosine``: from 1 down to ``floor`` along half a cosine, over the budget after
          the warm-up (Loshchilov and Hutter 2017, without restarts). ``step``: × ``factor``
          after every ``every``, counted from the first iteration.
warmup    a linear rise, 1/n at the first iteration to 1 at the n-th; multiplies the rest     0
floor     cosine: the multiplier at the end of the budget                                     0
hold      cosine: how long it stays at 1 after the warm-up, before it falls                   0
every     step: length of a step                                                              required
factor    step: the factor that multiplies α                                                  0.1
========  ==================================================================================  ==========
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from study.config.messages import show

__all__ = ["NAMES", "multiplier", "normalised", "text"]

NAMES = ("cosine", "step")
_DEFAULTS: dict[str, dict[str, float | None]] = {
    "cosine": {"floor": 0.0, "warmup": 0.0, "hold": 0.0},
    "step": {"every": None, "factor": 0.1, "warmup": 0.0},
}
"""The options of each schedule; one whose default is ``None`` is required."""


def normalised(schedule: object) -> dict[str, Any]:
    """Return a schedule as a mapping of its name and the options that differ from their defaults.

    Two ways to write the same schedule give equal mappings.

    Args:
        schedule: A name, or a mapping with ``name``.

    Raises:
        ValueError: The schedule is wrong; the message is one sentence that says what would be right.
    """
    given: dict[str, Any] = dict(schedule) if isinstance(schedule, Mapping) else {"name": schedule}
    name = given.pop("name", None)
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"{show(name)} is not a schedule; write {' or '.join(NAMES)}")
    defaults = _DEFAULTS[name]
    if unknown := [key for key in given if key not in defaults]:
        raise ValueError(f"{name} has no {show(unknown[0])}; it takes {', '.join(defaults)}")
    if missing := [key for key, default in defaults.items() if default is None and key not in given]:
        raise ValueError(f"{name} needs {missing[0]}; write e.g. {{name: {name}, {missing[0]}: 10}}")
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} is {show(value)}; write a number")
        if value < 0 or (key == "every" and value == 0):
            raise ValueError(
                f"{key} is {show(value)}; write {'more than 0' if key == 'every' else '0 or more'}"
            )
    return {"name": name} | {
        key: float(given[key]) + 0.0  # + 0.0 turns −0.0 into 0.0
        for key in defaults
        if key in given and given[key] != defaults[key]
    }


def text(schedule: Mapping[str, Any]) -> str:
    """Return a normalised schedule in a few words, ``step every=10``, which identify it."""
    options = (f"{key}={value:.12g}" for key, value in schedule.items() if key != "name")
    return " ".join([schedule["name"], *options])


def multiplier(schedule: Mapping[str, Any], done: int, total: int, unit: int) -> float:
    """Return the factor by which the schedule multiplies α at an iteration.

    Args:
        schedule: A normalised schedule.
        done: The number of iterations before this one.
        total: The number of iterations in the budget.
        unit: The number of iterations in the unit of the schedule's lengths: in an epoch, or 1.
    """
    options: dict[str, Any] = {**_DEFAULTS[schedule["name"]], **schedule}
    warmup = round(options["warmup"] * unit)
    rise = min(1.0, (done + 1) / warmup) if warmup else 1.0
    if schedule["name"] == "step":
        return float(rise * options["factor"] ** (done // max(1, round(options["every"] * unit))))
    start = warmup + round(options["hold"] * unit)
    share = min(1.0, max(0, done - start) / max(1, total - start))
    return float(rise * (options["floor"] + (1 - options["floor"]) * (1 + math.cos(math.pi * share)) / 2))
