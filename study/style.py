"""How every figure looks: an optimizer's colour and line, legends, sizes, and files that repeat to the byte.

Colour says the op, line style the lop. Colours are Okabe and Ito's, which colour-blind readers tell apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple
from zlib import crc32

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from study.spec import OPS, OPTIMIZERS

DPI = 150
COLOURS = {"sgd": "#0072B2", "sgdn": "#D55E00", "adam": "#009E73"}
_PLAIN, _HD, _NEW, _OTHER = (0, (1, 1.6)), (0, (5, 1.8)), "solid", (0, (6, 1.5, 1, 1.5))
_STYLES = (_NEW, _HD, _OTHER)
_REPORTED = {"sgd": "sgdn", "sgdn": "sgdn", "adam": "adam"}  # the new lop that the report pairs each op with
_RIVALS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F")  # optimizers that are not ours
_FURTHER = {"adagrad": (0, (6, 1.5, 1, 1.5, 1, 1.5)), "lion": (0, (3, 1, 3, 1, 1, 1))}
_MARKERS = {None: "o", "sgd": "s", "sgdn": "D", "adam": "^", "adagrad": "v", "lion": "P"}

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.grid.which": "major",
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "hypergrad-study",
    "figure.facecolor": "white",
}


class Look(NamedTuple):
    """How an optimizer is drawn."""

    color: str
    linestyle: Any
    linewidth: float
    marker: str


def look(optimizer: str) -> Look:
    """Return the look of an optimizer: plain dotted, lop SGD dashed, the new ones solid or dash-dotted."""
    if optimizer not in OPTIMIZERS:
        place = crc32(optimizer.encode())
        return Look(_RIVALS[place % len(_RIVALS)], _STYLES[place // 7 % len(_STYLES)], 1.3, "v")
    op, _, lop = optimizer.partition("-")
    if not lop:
        return Look(COLOURS[op], _PLAIN, 1.1, _MARKERS[None])
    style = _HD if lop == "sgd" else _NEW if lop == _REPORTED[op] else _FURTHER.get(lop, _OTHER)
    return Look(COLOURS[op], style, 1.3 if lop == "sgd" else 1.7, _MARKERS[lop])


def subplots(rows: int, columns: int, height: float) -> tuple[Figure, NDArray[Any]]:
    """Return an empty figure and its panels, shape (rows, columns); ``height`` of a row in inches."""
    width = max(3.4 * columns, 4.6)
    figure = Figure(figsize=(width + 0.4, height * rows + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure: Figure, optimizers: Iterable[str], name: str, note: str, *, markers: bool = False) -> None:
    """Title, and a legend below: one column per op, or one row if there is a single op."""
    shown = dict.fromkeys(optimizers)
    columns = [names for op in OPS if (names := [n for n in OPTIMIZERS if n in shown and _op(n) == op])]
    others = [name for name in shown if name not in OPTIMIZERS]
    columns += [others[i : i + 4] for i in range(0, len(others), 4)]
    handles = []
    for names in columns:
        for optimizer in names:
            style = look(optimizer)
            handles.append(
                Line2D(
                    [],
                    [],
                    label=optimizer,
                    color=style.color,
                    ls=style.linestyle,
                    lw=style.linewidth,
                    marker=style.marker if markers else "",
                    ms=4,
                )
            )
        blanks = max(map(len, columns)) - len(names)
        handles += [Line2D([], [], ls="", label=" ") for _ in range(blanks)]
    per_row = len(columns) if len(columns) > 1 else len(handles)
    figure.legend(handles=handles, loc="outside lower center", ncols=per_row, handlelength=3.4)
    title = [name, *wrap(note, int(14 * figure.get_figwidth()))]
    figure.suptitle("\n".join(title), fontsize=10, parse_math=False)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (150 dpi) and ``stem.svg``; equal figures give equal bytes, on any day.

    Returns:
        The two paths, PNG first.
    """
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with mpl.rc_context(STYLE):
        figure.savefig(png, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
        figure.savefig(svg, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return [png, svg]


def _op(optimizer: str) -> str:
    return optimizer.partition("-")[0]
