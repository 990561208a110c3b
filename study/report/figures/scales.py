"""Chooses the scales of axes and the numbers on them, so that differences show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from study.report.figures.median_curves import Curve, Floats

LOWEST = 1e4
"""An α below the largest by more than this factor is drawn only if α₀ is as small."""


_STEPS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
"""Labels per decade: the fewest that give three labels in all."""
_MOST_LABELS = 7


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers from ``low`` to ``high`` for the labels of a logarithmic axis."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        found = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
        found = [tick for tick in found if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(found) >= 3:
            break
    else:  # less than half a decade
        found = [
            float(tick)
            for tick in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
            if low <= tick <= high
        ]
    return found[:: -(-len(found) // _MOST_LABELS)]


def scale_alpha(panel: Axes, curves: Sequence[Curve], alpha0: float) -> None:
    """Fit the axis of α: logarithmic if the medians span a decade, linear around 0 if they cross it."""
    middle = _finite(curve.middle for curve in curves)
    if not middle.size:
        return
    low, high = float(middle.min()), float(middle.max())
    top = max(float(np.nanmax(curve.high)) for curve in curves)
    bottom = min(float(np.nanmin(curve.low)) for curve in curves)
    largest = max(abs(low), abs(high))
    if low > 0 and high / low >= 10:
        panel.set_yscale("log")
        low = min(max(low, high / LOWEST), alpha0)  # the line of a schedule that ends at 0 leaves the panel
        panel.set_ylim(max(bottom, low / 2) / 1.25, min(top, high * 2) * 1.25)
        _label_log(panel)
    elif low <= 0 and largest > 10 * alpha0 > 0:
        panel.set_yscale("symlog", linthresh=alpha0, linscale=0.4)
        panel.set_ylim(min(1.2 * low, -0.1 * alpha0), min(top, high * 2) * 1.25)
        above = log_ticks(alpha0, max(largest, 10 * alpha0))
        below = [-tick for tick in above if tick <= -low]
        _label(panel, [*below, 0.0, *above])
    else:
        bottom, top = max(bottom, low - (high - low)), min(top, high + (high - low))
        margin = 0.06 * (top - bottom) or 0.06 * largest or 1.0
        panel.set_ylim(min(bottom, low) - margin, max(top, high) + margin)
        _label_plainly(panel)


def _finite(parts: Iterable[Floats]) -> Floats:
    values = np.concatenate([*parts, np.empty(0)])
    return np.asarray(values[np.isfinite(values)])


def _label_log(panel: Axes) -> None:
    _label(panel, log_ticks(*panel.get_ylim()))


def _label(panel: Axes, ticks: Sequence[float]) -> None:
    panel.yaxis.set_major_locator(FixedLocator(ticks))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _label_plainly(panel: Axes) -> None:
    panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def scale_loss(panel: Axes, curves: Sequence[Curve], settled: float) -> None:
    """Fit the axis of a loss to the medians after iteration ``settled``; logarithmic if they span 3 : 1."""
    middle = _finite(curve.middle[curve.iteration >= settled] for curve in curves)
    if not middle.size:
        middle = _finite(curve.middle for curve in curves)
    if not middle.size:
        return
    low, high = float(middle.min()), float(middle.max())
    if low > 0 and high / low > 3:
        panel.set_yscale("log")
        room = (high / low) ** 0.06
        panel.set_ylim(low / room, high * room)
        _label_log(panel)
        return
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    panel.set_ylim(low - margin, high + margin)
    _label_plainly(panel)
