"""Draws a small picture of a trial's curves, for people who open its run in MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from study.storage.records import Array, TrialRecord
from study.tracking import downsample

_POINTS = 320
_SIZE, _DPI = (5.2, 3.4), 100


def draw(record: TrialRecord, path: Path) -> None:
    """Write the training loss and α over the iterations as a PNG of about 20 kB.

    Args:
        record: Record of a trial with at least one epoch.
        path: The file.
    """
    figure = Figure(figsize=_SIZE, dpi=_DPI)
    FigureCanvasAgg(figure)
    # A layout engine would draw everything twice.
    figure.subplots_adjust(left=0.17, right=0.97, top=0.9, bottom=0.13, hspace=0.12)
    panels: Iterable[Axes] = figure.subplots(2, 1, sharex=True)
    curves = {"training loss": record.train_loss, "α": record.alpha}
    for panel, (label, values), color in zip(panels, curves.items(), ("#0072B2", "#D55E00"), strict=True):
        _plot(panel, values, label, color)
    figure.suptitle(record.trial.name, fontsize=9, parse_math=False)
    panel.set_xlabel("iteration", fontsize=8)
    figure.savefig(path, format="png", metadata={"Software": None})


def _plot(panel: Axes, values: Array, label: str, color: str) -> None:
    kept = downsample.thin_indices(values, len(values), True, _POINTS)
    shown = values[kept]
    panel.plot(kept + 1, shown, color=color, lw=0.9)
    panel.set_ylabel(label, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="#e4e4e4", lw=0.5)
    # α of the additive rules may fall below zero.
    if len(shown) and shown.min() > 0 and shown.max() > 3 * shown.min():
        panel.set_yscale("log")
        # Fewer ticks, and labels without formulas, take half the time.
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 3) if shown.max() < 100 * shown.min() else (1,)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
