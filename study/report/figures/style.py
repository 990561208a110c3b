"""The style of all figures: colours and lines of optimizers, legends, sizes, and reproducible files.

Colours are Okabe and Ito's, which colour-blind readers can distinguish. For an optimizer of ours the colour
stands for the op and the line style for the lop. Any other optimizer gets colour, line and marker from its
name alone, so that it looks the same in every figure of every study.
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
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter
from numpy.typing import NDArray

from study.analysis.formatting import paper_name, pluralize
from study.config.optimizer_name import ADDITIVE, OPS, OPTIMIZERS, RULES, OptimizerName
from study.report.figures.medium import (
    COLUMN_WIDTH,
    PAPER,
    TEXT_WIDTH,
    is_for_paper,
    is_muted,
    shrink,
)
from study.report.figures.scales import log_ticks

DPI = 150
TALLEST_COLUMN = 6
"""Lines of a legend's column; a longer one would leave too little room for the panels."""
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
_SHADES = {  # the brightness of a grey, from black to white, and its share
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
    "pdf.fonttype": 42,  # text stays text: it can be searched, and publishers take it
    "svg.hashsalt": "hypergrad-study",
    "figure.facecolor": "white",
}


GREY = "#B4B4B4"
"""The colour of optimizers that are not highlighted."""


class Look(NamedTuple):
    """The colour, line and marker of an optimizer."""

    color: str
    linestyle: Any
    linewidth: float
    marker: str


def look(optimizer: str) -> Look:
    """Return the look of an optimizer, a function of its name alone; grey if others are highlighted.

    Our plain optimizers are dotted, those with lop SGD dashed, and the paper's new ones solid; other lops are
    dash-dotted. Rules other than the additive one have a darker or lighter shade of the op's colour. Other
    optimizers, such as ``torch.optim.AdamW``, and those with their own label have further colours.
    """
    if is_muted(optimizer):
        return Look(GREY, "solid", 0.8 * shrink(), "")
    own = _own_look(optimizer)
    return own._replace(linewidth=own.linewidth * shrink())


def _own_look(optimizer: str) -> Look:
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
    """Return ``color`` mixed with a grey, given by its brightness and its share."""
    grey, share = towards
    mixed = [(1 - share) * part + share * grey for part in to_rgb(color)]
    return to_hex((mixed[0], mixed[1], mixed[2])).upper()


def family(optimizer: str) -> str:
    """Return the op of an optimizer of ours, and ``"others"`` for any other."""
    op = OptimizerName.parse(optimizer).op
    return op if op in COLOURS else "others"


def labels(optimizers: Iterable[str]) -> dict[str, str]:
    """Return the optimizers' names in legends: ``SGD-HD``, a dotted path by its last part.

    Names that would be the same, such as those of ``adamw`` and ``torch.optim.AdamW``, stay in full.
    """
    names = list(dict.fromkeys(optimizers))
    short = {name: paper_name(name.rpartition(".")[2] or name) for name in names}
    times = Counter(short.values())
    return {name: short[name] if times[short[name]] == 1 else name for name in names}


def in_order(optimizers: Iterable[str]) -> list[str]:
    """Return optimizers in the order of drawing: grey ones, ours by op and lop, then the others."""
    names = list(dict.fromkeys(optimizers))
    ours = [f"{name} {rule}".removesuffix(f" {ADDITIVE}") for rule in RULES for name in OPTIMIZERS]
    known = [name for name in ours if name in names]
    rest = [name for name in names if name not in known]
    by_family = sorted([*known, *rest], key=lambda name: FAMILIES.index(family(name)))
    return sorted(by_family, key=is_muted, reverse=True)


def subplots(rows: int, columns: int, height: float) -> tuple[Figure, NDArray[Any]]:
    """Return an empty figure and its panels, shape (rows, columns); call it inside ``rc_context(STYLE)``.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        height: Height of a row, in inches, for a figure that is not for a paper.
    """
    if is_for_paper():
        mpl.rcParams.update(PAPER)  # until the caller's rc_context ends
        narrow = columns == 1
        size = (COLUMN_WIDTH if narrow else TEXT_WIDTH, (0.85 if narrow else 0.58) * height * rows + 0.85)
    else:
        size = (max((3.4 if columns < 4 else 2.7) * columns, 4.6) + 0.4, height * rows + 1.2)
    pads: dict[str, Any] = {"w_pad": 0.02, "h_pad": 0.02} if is_for_paper() else {}
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(**pads))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def finish(figure: Figure, optimizers: Iterable[str], name: str, note: str, *, markers: bool = False) -> None:
    """Add a title, and a legend below: one column per op, or rows if one is alone or long.

    If some optimizers are highlighted, the legend has one line for all others. A figure for a paper has no
    title, as its caption has it.
    """
    shown = in_order(optimizers)
    called = labels(shown)
    muted = [optimizer for optimizer in shown if is_muted(optimizer)]
    shown = shown[len(muted) :]
    columns = [of for op in FAMILIES if (of := [n for n in shown if family(n) == op])]
    if muted or max(map(len, columns)) > TALLEST_COLUMN:
        columns = [shown]
    handles = []
    for names in columns:
        handles += [_handle(look(optimizer), called[optimizer], markers) for optimizer in names]
        blanks = max(map(len, columns)) - len(names)
        handles += [Line2D([], [], ls="", label=" ") for _ in range(blanks)]
    if muted:
        handles.append(_handle(look(muted[0]), pluralize(len(muted), "other"), markers))
    width = figure.get_size_inches()[0]
    letter = 0.0075 * mpl.rcParams["legend.fontsize"]  # inches, on average
    longest = max(len(str(handle.get_label())) for handle in handles)
    each = longest * letter + (0.75 if is_for_paper() else 1.0)
    fitting = max(int(width / each), 1)
    per_row = len(columns) if 1 < len(columns) <= fitting else min(len(handles), fitting)
    if per_row < len(columns):
        handles = [handle for handle in handles if str(handle.get_label()).strip()]
    length, gap = (2.6, 1.2) if is_for_paper() else (3.4, 2.0)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=per_row,
        handlelength=length,
        columnspacing=gap,
        labelspacing=0.3,
    )
    lines = [name, *(textwrap.wrap(note, int(width * 15)) if note else [])]
    title = figure.suptitle("\n".join(lines), fontsize=10, parse_math=False)
    if is_for_paper():
        title.set_visible(False)
        title.set_in_layout(False)


def _handle(style: Look, label: str, markers: bool) -> Line2D:
    return Line2D(
        [],
        [],
        label=label.replace("$", r"\$"),
        color=style.color,
        ls=style.linestyle,
        lw=style.linewidth,
        marker=style.marker if markers else "",
        ms=4 * shrink(),
    )


def label_log(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis with plain numbers: at least three of them, and at most seven.

    Args:
        axis: Axis of a panel with a logarithmic scale.
        low: The smallest visible value, above 0.
        high: The largest visible value.
    """
    ticks = log_ticks(low, high)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


FORMATS = ("png", "svg", "pdf")
"""The files of a figure, by suffix."""


def save(figure: Figure, stem: Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write a figure as PNG (150 dpi), SVG and PDF; equal figures give equal bytes, on any day.

    Letters are shapes in the SVG, which therefore needs no font, and text in the PDF.

    Args:
        figure: The figure; its layout is fixed afterwards.
        stem: The files' path without the suffix.
        formats: Suffixes of the files to write.

    Returns:
        The paths, in the order of ``formats``.
    """
    nothing: dict[str, Any] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    paths = []
    with mpl.rc_context({**STYLE, **(PAPER if is_for_paper() else {})}):
        # Laid out and measured once: "tight" would draw the figure again for every file.
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
        tight = figure.get_tightbbox().padded(mpl.rcParams["savefig.pad_inches"])
        whole = figure.bbox_inches if is_for_paper() else tight  # a paper's figure keeps its exact width
        for suffix in formats:
            paths.append(stem.with_name(f"{stem.name}.{suffix}"))
            figure.savefig(paths[-1], dpi=DPI, bbox_inches=whole, metadata=nothing[suffix])
    return paths
