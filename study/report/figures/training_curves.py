"""Figure 1 of the paper (Mittal, 2019): α_t, training and validation loss, from the first iteration on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.analysis.formatting import join_names, paper_name
from study.analysis.tables import trial_workload_label
from study.config.loader import Study, Trial
from study.config.search_space import NOTHING_FOUND, SearchState
from study.report.figures.base import Drawn, Evidence, Section
from study.report.figures.median_curves import Curve, Quantity, median_curve
from study.report.figures.medium import is_muted, shrink
from study.report.figures.panels import COLUMNS, family_name, has_panel_per_op
from study.report.figures.scales import scale_alpha, scale_loss
from study.report.figures.style import (
    FAMILIES,
    STYLE,
    family,
    finish,
    in_order,
    look,
    subplots,
)
from study.storage.records import TrialRecord

STEM = "figure1"
SECTION: Section = "curves"

_Cell = list[TrialRecord]
_Groups = dict[tuple[str, str], _Cell]  # by workload and optimizer
_ROWS: dict[Quantity, str] = {
    "alpha": "learning rate α",
    "train_loss": "training loss",
    "val_loss": "validation loss",
}
SETTLED = 0.1
"""Share of the budget after which all losses must be visible; before, they may fall too steeply."""


class Choice(NamedTuple):
    """One α₀ and β of each optimizer on each workload, and a line that names them."""

    cells: _Groups
    note: str


class Column(NamedTuple):
    """A column of panels: its title, and the trials of its optimizers."""

    title: str
    cells: Mapping[str, _Cell]


def draw(evidence: Evidence) -> Iterator[Drawn]:
    """Yield the figure, if a trial that did not fail has finished an epoch; several for many workloads."""
    shown = [r for r in evidence.records if r.iterations and r.status not in ("failed", "pruned")]
    if not shown:
        return
    chosen = _choose(evidence.records, evidence.study, evidence.search_state, None)
    workloads = list(dict.fromkeys(trial_workload_label(record.trial) for record in shown))
    crowded = has_panel_per_op(record.trial.label for record in shown)
    each = 1 if crowded else COLUMNS
    parts = [workloads[start : start + each] for start in range(0, len(workloads), each)]
    for number, part in enumerate(parts, start=1):
        figure = _draw(chosen, evidence.study, part)
        title = "Learning rate and losses" + (f", {join_names(part)}" if len(parts) > 1 else "")
        yield Drawn(figure, title, _caption(evidence.trials, crowded), f"-{number}" if number > 1 else "")


def _caption(trials: pd.DataFrame, crowded: bool) -> str:
    seeds = trials["seed"].nunique()
    over = f"median over {seeds} seeds, band from the smallest to the largest" if seeds > 1 else "one seed"
    diverged = trials["outcome"].eq("diverged").any()
    cross = " A cross ends the line of an optimizer most of whose trials diverged." if diverged else ""
    apart = " A column for each optimizer of the weights; each panel has its own axes." if crowded else ""
    below = (
        " Bands of α that reach the lower edge go to 0 or below." if (trials["alpha_min"] <= 0).any() else ""
    )
    return (
        f"Learning rate, training loss and validation loss from the first iteration on; {over}. The training "
        "loss is a mean over the iterations of the last epoch (at most 1/20 of the budget); there is no "
        f"validation before the first epoch ends.{apart}{below} Colour is the optimizer of the weights, "
        "line style that of the learning rate: dotted none, dashed hypergradient descent, solid and "
        f"dash-dotted the new ones.{cross}"
    )


def figure1(
    records: Sequence[TrialRecord],
    study: Study,
    alpha0: float | None = None,
    *,
    state: SearchState = NOTHING_FOUND,
) -> Figure:
    """Draw the paper's Figure 1 for a study: α_t, training and validation loss from the first iteration on.

    There is a column per workload, or one per workload and op if ``panels.has_panel_per_op`` says so. Lines
    are medians over seeds, bands go from the smallest to the largest: ``median_curves.median_curve``. A line
    continues while more than half of the seeds have a value. A cross ends the line of an optimizer if half or
    more of its trials diverged. Each panel has its own axes, which fit the trials that did not diverge, and
    the losses after the first tenth of the budget. They are logarithmic if the values span enough.

    Args:
        records: Records of the study's trials, in any order; those without an epoch are left out.
        study: The study, which gives the order of workloads and optimizers.
        alpha0: The α₀ to show. Default: 0.001, or if it is absent the middle one of each optimizer. Of
            several β the first is shown; the title names the choice.
        state: The state of the study's search. Default: nothing found, as for a grid.

    Raises:
        ValueError: No record has an epoch, or the study has no such α₀.
    """
    return _draw(_choose(records, study, state, alpha0), study)


def _draw(chosen: Choice, study: Study, workloads: Collection[str] | None = None) -> Figure:
    """Draw Figure 1 for the workloads with these labels; None for all."""
    cells = {key: cell for key, cell in chosen.cells.items() if workloads is None or key[0] in workloads}
    blocks = _blocks(cells)
    wide = max(map(len, blocks))
    with mpl.rc_context(STYLE):
        figure, axes = subplots(len(_ROWS) * len(blocks), wide, height=2.05)
        for number, block in enumerate(blocks):
            panels = axes[len(_ROWS) * number : len(_ROWS) * (number + 1)]
            for place in range(wide):
                if place < len(block):
                    _draw_column(list(panels[:, place]), block[place], first=place == 0)
                else:
                    for panel in panels[:, place]:
                        panel.set_visible(False)
        figure.align_ylabels(axes[:, 0])
        shown = list(dict.fromkeys(workload for workload, _ in cells))
        name = study.name if workloads is None else f"{study.name}, {join_names(shown)}"
        finish(figure, (optimizer for _, optimizer in cells), name, chosen.note)
    return figure


def _blocks(cells: _Groups) -> list[list[Column]]:
    """Return the columns of panels by block; the columns of a block are side by side."""
    by_workload: dict[str, dict[str, _Cell]] = {}
    for (workload, optimizer), cell in cells.items():
        by_workload.setdefault(workload, {})[optimizer] = cell
    several = len(by_workload) > 1
    if not has_panel_per_op(optimizer for _, optimizer in cells):
        columns = [Column(workload, of) for workload, of in by_workload.items()]
        return [columns[start : start + COLUMNS] for start in range(0, len(columns), COLUMNS)]
    return [
        [
            Column(
                f"{workload}: {family_name(op)}" if several else family_name(op),
                {name: cell for name, cell in of.items() if family(name) == op},
            )
            for op in FAMILIES
            if any(family(name) == op for name in of)
        ]
        for workload, of in by_workload.items()
    ]


def _ordered(records: Sequence[TrialRecord], study: Study, state: SearchState) -> list[TrialRecord]:
    """Return the study's own records that have an epoch, in the study's order."""
    by_key = {record.trial.key: record for record in records if record.iterations}
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
        near = (
            member for member in members if member.trial.alpha0 == step and member.trial.beta == first.beta
        )
        cells[group] = [member for member in near if _settings(member.trial) == _settings(first)]
    shown = {name: cell[0].trial for (_, name), cell in cells.items()}
    used = sorted({cell[0].trial.alpha0 for cell in cells.values()})
    parts = [f"α₀ = {used[0]:g}"] if len(used) == 1 else [_each("α₀", shown, "alpha0")]
    if len(known) > len(used):
        parts[0] += f" (of {', '.join(f'{a:g}' for a in known)})"
    parts += _left_out(groups, cells)
    return Choice(cells, "; ".join(parts))


def _left_out(groups: _Groups, cells: _Groups) -> list[str]:
    """Return the choices of β, granularity and options, for optimizers that have several."""
    parts = []
    several = [group for group in cells if len({r.trial.beta for r in groups[group]}) > 1]
    if several:
        parts.append(_each("β", {group[1]: cells[group][0].trial for group in several}, "beta"))
    for name, symbol in (("granularity", "granularity"), ("optimizer_args", "options")):
        shown = {
            paper_name(group[1]): members[0].trial.settings()[name] or "default"
            for group, members in cells.items()
            if any(getattr(r.trial, name) != getattr(members[0].trial, name) for r in groups[group])
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
    values = {o: getattr(trial, name) for o, trial in trials.items() if not is_muted(o)}
    return f"{symbol}: " + ", ".join(f"{paper_name(o)} {v:g}" for o, v in values.items() if v is not None)


def _draw_column(panels: Sequence[Axes], column: Column, *, first: bool) -> None:
    epoch, unit = _epoch(column)
    last = max(record.iterations for cell in column.cells.values() for record in cell)
    for panel, (quantity, label) in zip(panels, _ROWS.items(), strict=True):
        curves = {
            name: curve
            for name in in_order(column.cells)
            if (curve := median_curve(column.cells[name], quantity)) is not None
        }
        calm = [curve for curve in curves.values() if not curve.ends_in_cross]
        for name, curve in curves.items():
            _draw_curve(panel, name, curve, curve.iteration / epoch)
        if quantity == "alpha":
            alpha0 = max(record.trial.alpha0 for cell in column.cells.values() for record in cell)
            scale_alpha(panel, calm or list(curves.values()), alpha0)
        else:
            scale_loss(panel, calm or list(curves.values()), SETTLED * last)
        for name, curve in curves.items():
            if curve.ends_in_cross:
                iteration, value = curve.end
                at = np.clip(value, *panel.get_ylim())  # on the frame if the line has left it
                (cross,) = panel.plot(iteration / epoch, at, "x", color=look(name).color, clip_on=False)
                cross.set(markersize=6 * shrink(), markeredgewidth=1.6 * shrink(), in_layout=False)
        panel.set_xlim(0, last / epoch * 1.01)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.tick_params(labelbottom=panel is panels[-1])
        if first:
            panel.set_ylabel(label)
    panels[0].set_title(column.title, parse_math=False)
    panels[-1].set_xlabel(unit)


def _epoch(column: Column) -> tuple[int, str]:
    """Return the number of iterations per unit of a column's axis, and the unit's name."""
    records = [record for cell in column.cells.values() for record in cell]
    if all(record.trial.iterations is None for record in records):
        # A trial that diverged in its first epoch does not show how long an epoch is; others do.
        return max(record.epoch_length for record in records), "epoch"
    return 1, "iteration"


def _draw_curve(panel: Axes, name: str, curve: Curve, x: Any) -> None:
    style = look(name)
    order = 2 if is_muted(name) else 3
    single = np.isfinite(curve.middle).sum() == 1
    panel.plot(
        x,
        curve.middle,
        color=style.color,
        ls=style.linestyle,
        lw=style.linewidth,
        marker="o" if single else "",
        ms=3.5 * shrink(),
        zorder=order,
    )
    if not is_muted(name):
        panel.fill_between(x, curve.low, curve.high, color=style.color, alpha=0.13, lw=0)
