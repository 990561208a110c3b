"""Figure 1 of the paper (Mittal, 2019): α_t, training and validation loss over epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from study.analysis.tables import trial_workload_label
from study.config.loader import Study, Trial
from study.config.search_space import NOTHING_FOUND, SearchState
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.style import STYLE, finish, look, subplots
from study.storage.records import EpochRecord, TrialRecord

STEM = "figure1"
SECTION: Section = "curves"

Floats = NDArray[np.float64]
_Groups = dict[tuple[str, str], list[TrialRecord]]  # by workload and optimizer


class Choice(NamedTuple):
    """One α₀ and β of each optimizer on each workload, and a line that names them."""

    cells: _Groups
    note: str


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if a trial that did not fail has finished an epoch."""
    if any(record.epochs and record.status not in ("failed", "pruned") for record in evidence.records):
        figure = figure1(evidence.records, evidence.study, state=evidence.search_state)
        yield Drawn(figure, "Learning rate and losses", _caption(evidence.trials))


def _caption(trials: pd.DataFrame) -> str:
    seeds = trials["seed"].nunique()
    over = f"median over {seeds} seeds, band from the smallest to the largest" if seeds > 1 else "one seed"
    diverged = trials["outcome"].eq("diverged").any()
    cross = " A cross ends the line of an optimizer most of whose trials diverged." if diverged else ""
    return (
        "Learning rate and training loss, as means over each epoch's iterations, and validation loss after "
        f"the epoch; {over}. Colour is the optimizer of the weights, line style that of the learning rate: "
        f"dotted none, dashed SGD (hypergradient descent), solid and dash-dotted the new ones.{cross}"
    )


def figure1(
    records: Sequence[TrialRecord],
    study: Study,
    alpha0: float | None = None,
    *,
    state: SearchState = NOTHING_FOUND,
) -> Figure:
    """Draw the paper's Figure 1 for a study: α_t, training and validation loss over epochs.

    One column per workload. Lines are medians over seeds, bands go from the smallest to the largest. A line
    continues while more than half of the seeds have a value; a diverged trial's loss counts as above all
    others, and a cross ends the line of an optimizer most of whose trials diverged. Axes fit the trials that
    did not diverge.

    Args:
        records: Of the study's trials, in any order; those without an epoch are left out.
        study: Gives the order of workloads and optimizers.
        alpha0: The α₀ to show. Default: 0.001, or else the middle one of each optimizer. Of several β the
            first is shown; the title names what was chosen.
        state: what the study's search has found; a grid needs none.

    Raises:
        ValueError: No record has an epoch, or the study has no such α₀.
    """
    chosen = _choose(records, study, state, alpha0)
    workloads = list(dict.fromkeys(workload for workload, _ in chosen.cells))
    with mpl.rc_context(STYLE):
        figure, axes = subplots(3, len(workloads), height=2.05)
        for column, workload in enumerate(workloads):
            cells = {name: cell for (of, name), cell in chosen.cells.items() if of == workload}
            for row, (label, value, is_loss) in enumerate(_ROWS):
                panel = axes[row, column]
                _draw_curves(panel, cells, value, is_loss)
                panel.tick_params(labelbottom=row == len(_ROWS) - 1)
                if column == 0:
                    panel.set_ylabel(label)
            axes[0, column].set_title(workload, parse_math=False)
            axes[-1, column].set_xlabel("epoch")
        finish(figure, (name for _, name in chosen.cells), study.name, chosen.note)
    return figure


_ROWS: tuple[tuple[str, Callable[[EpochRecord], float], bool], ...] = (
    ("learning rate α", lambda epoch: epoch.alpha_epoch, False),
    ("training loss", lambda epoch: epoch.train_loss_epoch, True),
    ("validation loss", lambda epoch: epoch.val_loss, True),
)


def _ordered(records: Sequence[TrialRecord], study: Study, state: SearchState) -> list[TrialRecord]:
    """Return the study's own records that have an epoch, in the study's order."""
    by_key = {record.trial.key: record for record in records if record.epochs}
    return [by_key[trial.key] for trial in study.trials(state) if trial.key in by_key]


def _choose(records: Sequence[TrialRecord], study: Study, state: SearchState, alpha0: float | None) -> Choice:
    ordered = [record for record in _ordered(records, study, state) if record.status != "failed"]
    if not ordered:
        raise ValueError(f"study {study.name}: no trial has finished an epoch; nothing to draw")
    known = sorted({record.trial.alpha0 for record in ordered})
    if alpha0 is not None and alpha0 not in known:
        there = ", ".join(f"{a:g}" for a in known)
        raise ValueError(f"study {study.name}: no trial with α₀ = {alpha0:g}; there are {there}")
    wanted = 0.001 if alpha0 is None else alpha0
    groups: _Groups = {}
    for record in ordered:
        groups.setdefault(_group(record), []).append(record)
    cells = {}
    for group, members in groups.items():
        steps = sorted({member.trial.alpha0 for member in members})
        if alpha0 is not None and alpha0 not in steps:
            continue
        step = wanted if wanted in steps else steps[(len(steps) - 1) // 2]
        first = next(member.trial for member in members if member.trial.alpha0 == step)
        cells[group] = [member for member in members if _settings(member.trial) == _settings(first)]
    shown = {name: cell[0].trial for (_, name), cell in cells.items()}
    used = sorted({cell[0].trial.alpha0 for cell in cells.values()})
    parts = [f"α₀ = {used[0]:g}"] if len(used) == 1 else [_each("α₀", shown, "alpha0")]
    if len(known) > len(used):
        parts[0] += f" (of {', '.join(f'{a:g}' for a in known)})"
    parts += _left_out(groups, cells)
    return Choice(cells, "; ".join(parts))


def _left_out(groups: _Groups, cells: _Groups) -> list[str]:
    """Return which β, granularity and options are shown where there are several."""
    parts = []
    several = [group for group in cells if len({r.trial.beta for r in groups[group]}) > 1]
    if several:
        parts.append(_each("β", {group[1]: cells[group][0].trial for group in several}, "beta"))
    for name, symbol in (("granularity", "granularity"), ("optimizer_args", "options")):
        shown = {
            group[1]: members[0].trial.settings()[name] or "default"
            for group, members in cells.items()
            if any(r.trial.settings()[name] != members[0].trial.settings()[name] for r in groups[group])
        }
        if shown:
            parts.append(
                f"{symbol}: " + ", ".join(f"{optimizer} {value}" for optimizer, value in shown.items())
            )
    return parts


def _group(record: TrialRecord) -> tuple[str, str]:
    return trial_workload_label(record.trial), record.trial.label


def _settings(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in trial.settings().items() if name != "seed"}


def _each(symbol: str, trials: Mapping[str, Trial], name: str) -> str:
    values = {optimizer: getattr(trial, name) for optimizer, trial in trials.items()}
    return f"{symbol}: " + ", ".join(f"{o} {v:g}" for o, v in values.items() if v is not None)


def _draw_curves(
    panel: Axes, cells: Mapping[str, list[TrialRecord]], value: Callable[[EpochRecord], float], is_loss: bool
) -> None:
    calm: list[Floats] = []
    wild: list[Floats] = []
    crosses: list[tuple[int, float, str]] = []
    for name, cell in cells.items():
        curves = _curves(cell, value, is_loss)
        present = ~np.isnan(curves)
        lasting = present.sum(axis=0) * 2 > len(cell)
        middle = np.full(curves.shape[1], np.nan)
        for epoch in np.flatnonzero(lasting):
            middle[epoch] = np.median(curves[present[:, epoch], epoch])
        middle[~np.isfinite(middle)] = np.nan
        epochs = np.arange(1, curves.shape[1] + 1)
        style = look(name)
        single = np.isfinite(middle).sum() == 1
        panel.plot(
            epochs,
            middle,
            color=style.color,
            ls=style.linestyle,
            lw=style.linewidth,
            marker="o" if single else "",
            ms=3.5,
        )
        bounded = np.where(np.isfinite(curves), curves, np.nan)
        if len(cell) > 1 and np.isfinite(middle).any():
            shown = np.isfinite(middle)
            low, high = np.nanmin(bounded[:, shown], axis=0), np.nanmax(bounded[:, shown], axis=0)
            panel.fill_between(epochs[shown], low, high, color=style.color, alpha=0.13, lw=0)
        diverged = [record.status == "diverged" for record in cell]
        if 2 * sum(diverged) >= len(cell) and np.isfinite(middle).any():
            end = int(np.flatnonzero(np.isfinite(middle))[-1])
            crosses.append((end + 1, float(middle[end]), style.color))
        for record, curve in zip(cell, bounded, strict=True):
            (wild if record.status == "diverged" else calm).append(curve)
    shown_values = np.concatenate(calm or wild)
    alpha0 = max(record.trial.alpha0 for cell in cells.values() for record in cell)
    _scale(panel, shown_values[np.isfinite(shown_values)], is_loss, alpha0)
    for last, value_there, color in crosses:
        at = np.clip(value_there, *panel.get_ylim())  # on the frame where the line has left it
        panel.plot(last, at, "x", color=color, ms=6, mew=1.6, clip_on=False)[0].set_in_layout(False)
    longest = max(record.epochs[-1].epoch for cell in cells.values() for record in cell)
    panel.set_xlim(1 - 0.02 * longest, longest * 1.02)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _curves(cell: Sequence[TrialRecord], value: Callable[[EpochRecord], float], is_loss: bool) -> Floats:
    """Return the curves, shape (seeds, epochs): NaN for no value, ∞ for the loss of a diverged trial.

    The α of the epoch in which a trial diverged says nothing, and is left out.
    """
    length = max(record.epochs[-1].epoch for record in cell)
    curves = np.full((len(cell), length), np.nan)
    for curve, record in zip(curves, cell, strict=True):
        for epoch in record.epochs:
            point = value(epoch)
            curve[epoch.epoch - 1] = point if math.isfinite(point) else np.nan
        if record.status == "diverged":
            if is_loss:
                curve[np.isnan(curve)] = np.inf
            else:
                curve[record.epochs[-1].epoch - 1] = np.nan
    return curves


def _scale(panel: Axes, values: Floats, is_loss: bool, alpha0: float) -> None:
    if not values.size:
        return
    low, high = float(values.min()), float(values.max())
    if is_loss and low > 0 and high / low > 10**1.5:
        panel.set_yscale("log")
        panel.set_ylim(low / 1.15, high * 1.15)
        return
    largest = max(abs(low), abs(high))
    if not is_loss and largest > 0 and (high / low > 100 if low > 0 else largest > 100 * alpha0 > 0):
        panel.set_yscale("symlog", linthresh=low if low > 0 else alpha0)
        panel.set_ylim(low * (1.2 if low < 0 else 0.8), high * 1.25)
        return
    margin = 0.05 * (high - low) or 0.05 * largest or 1.0
    panel.set_ylim(low - margin, high + margin)
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
