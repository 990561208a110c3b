"""The style of all figures: colours and lines of optimizers, legends, sizes, and reproducible files.

Colours are Okabe and Ito's, which colour-blind readers tell apart. For an optimizer of ours the colour stands
for the op and the line style for the lop. Any other takes colour, line and marker from its name alone, so
that it looks the same in every figure of every study.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from study.config.optimizer_name import ADDITIVE, OPS, OPTIMIZERS, RULES, OptimizerName

DPI = 150
FAMILIES = (*OPS, "others")
COLOURS = {"sgd": "#0072B2", "sgdn": "#D55E00", "adam": "#009E73", "adamw": "#7A5195", "muon": "#8C510A"}
_PLAIN, _HD, _NEW, _OTHER = (0, (1, 1.6)), (0, (5, 1.8)), "solid", (0, (6, 1.5, 1, 1.5))
_STYLES = (_NEW, _HD, _OTHER)
_IN_PAPER = {
    "sgd": "sgdn",
    "sgdn": "sgdn",
    "adam": "adam",
    "adamw": "adam",
    "muon": "adam",
}  # the new lop that the paper pairs each op with
_SHADES = {  # a grey, from black to white, and how much of it
    "additive": (0.0, 0.0),
    "cosine": (0.0, 0.5),
    "multiplicative": (1.0, 0.4),
    "additive-cosine": (0.55, 0.55),
}
_MARKERS = {None: "o", "sgd": "s", "sgdn": "D", "adam": "^"}
# Okabe and Ito's other colours, for optimizers that are not ours; their yellow is too light for lines.
_FURTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FURTHER_LINES = ("solid", (0, (5, 1.8)), (0, (3, 1, 1, 1, 1, 1)))
_FURTHER_RULES = ((0, (3, 1, 1, 1, 1, 1)), (0, (8, 1.5, 3, 1.5)), (0, (2, 1, 6, 1)))
_VARIANT_LINES = ((0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (2, 2)))
_FURTHER_MARKERS = ("P", "X", "v", "<", ">", "*", "h", "p")
_SALT = (
    1608  # gives ten optimizers that are often compared with, torch's and others', different colours or lines
)

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
    """The colour, line and marker of an optimizer."""

    color: str
    linestyle: Any
    linewidth: float
    marker: str


def look(optimizer: str) -> Look:
    """Return the look of an optimizer, a function of its name alone.

    Of ours, plain ones are dotted, lop SGD is dashed, and the paper's new ones are solid; other lops are
    dash-dotted. Rules other than the additive one have a darker or lighter shade of the op's colour. Others,
    such as ``torch.optim.AdamW`` and what has a label of its own, have further colours.
    """
    name = OptimizerName.parse(optimizer)
    op, lop = name.op, name.lop
    if op not in COLOURS:
        chance = crc32(f"{_SALT}{optimizer}".encode())
        color, chance = _FURTHER_COLOURS[chance % 4], chance // 4
        line, chance = _FURTHER_LINES[chance % 3], chance // 3
        return Look(color, line, 1.5, _FURTHER_MARKERS[chance % 8])
    if lop is None:
        return Look(COLOURS[op], _PLAIN, 1.1, _MARKERS[None])
    color = _shade(COLOURS[op], _SHADES[name.rule])
    if name.variant:
        chance = crc32(optimizer.encode())
        return Look(color, _VARIANT_LINES[chance % 4], 1.5, _FURTHER_MARKERS[chance // 4 % 8])
    if lop not in _MARKERS:
        chance = crc32(lop.encode())
        return Look(color, _FURTHER_RULES[chance % 3], 1.7, _FURTHER_MARKERS[chance // 3 % 8])
    style = _HD if lop == "sgd" else _NEW if lop == _IN_PAPER[op] else _OTHER
    return Look(color, style, 1.3 if lop == "sgd" else 1.7, _MARKERS[lop])


def _shade(color: str, towards: tuple[float, float]) -> str:
    """Return ``color`` mixed with a grey: (its brightness, its share)."""
    grey, share = towards
    mixed = [(1 - share) * part + share * grey for part in to_rgb(color)]
    return to_hex((mixed[0], mixed[1], mixed[2])).upper()


def family(optimizer: str) -> str:
    """Return the op of an optimizer of ours, and ``"others"`` for any other."""
    op = OptimizerName.parse(optimizer).op
    return op if op in COLOURS else "others"


def labels(optimizers: Iterable[str]) -> dict[str, str]:
    """Return the optimizers' names in legends: a dotted path by its last part, unless that is ambiguous."""
    names = list(dict.fromkeys(optimizers))
    short = {name: name.rpartition(".")[2] or name for name in names}
    times = Counter(short.values())
    return {name: short[name] if times[short[name]] == 1 else name for name in names}


def in_order(optimizers: Iterable[str]) -> list[str]:
    """Return optimizers in the order of legends: ours by op and lop, then the others as they come."""
    names = list(dict.fromkeys(optimizers))
    ours = [f"{name} {rule}".removesuffix(f" {ADDITIVE}") for rule in RULES for name in OPTIMIZERS]
    known = [name for name in ours if name in names]
    rest = [name for name in names if name not in known]
    return sorted([*known, *rest], key=lambda name: FAMILIES.index(family(name)))


def subplots(rows: int, columns: int, height: float) -> tuple[Figure, NDArray[Any]]:
    """Return an empty figure and its panels, shape (rows, columns); ``height`` of a row in inches."""
    width = max(3.4 * columns, 4.6)
    figure = Figure(figsize=(width + 0.4, height * rows + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure: Figure, optimizers: Iterable[str], name: str, note: str, *, markers: bool = False) -> None:
    """Add a title, and a legend below: one column per op, or one row if there is a single op."""
    shown = in_order(optimizers)
    called = labels(shown)
    columns = [of for op in FAMILIES if (of := [n for n in shown if family(n) == op])]
    handles = []
    for names in columns:
        for optimizer in names:
            style = look(optimizer)
            handles.append(
                Line2D(
                    [],
                    [],
                    label=_plain(called[optimizer]),
                    color=style.color,
                    ls=style.linestyle,
                    lw=style.linewidth,
                    marker=style.marker if markers else "",
                    ms=4,
                )
            )
        blanks = max(map(len, columns)) - len(names)
        handles += [Line2D([], [], ls="", label=" ") for _ in range(blanks)]
    width = figure.get_size_inches()[0]
    per_row = len(columns) if len(columns) > 1 else min(len(handles), max(int(width / 1.6), 1))
    figure.legend(handles=handles, loc="outside lower center", ncols=per_row, handlelength=3.4)
    lines = [name, *(textwrap.wrap(note, int(width * 15)) if note else [])]
    figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)


def _plain(label: str) -> str:
    return label.replace("$", r"\$")


def label_log(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers, between the powers of ten as well if there are few."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
    if high / low < 200:
        axis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        axis.set_tick_params(which="minor", labelsize=STYLE["ytick.labelsize"])


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` (150 dpi) and ``stem.svg``; equal figures give equal bytes, on any day.

    Returns:
        The two paths, PNG first.
    """
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with mpl.rc_context(STYLE):
        # Laid out and measured once: "tight" would draw the figure again for every file.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        tight = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
        figure.savefig(png, dpi=DPI, bbox_inches=tight, metadata={"Software": None})
        figure.savefig(svg, bbox_inches=tight, metadata={"Date": None, "Creator": None})
    return [png, svg]
