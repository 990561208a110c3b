"""Tables that shorten names and drop columns when a terminal is too narrow for their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        heading: Heading of the column.
        cells: Text of each row.
        left: Whether to align it to the left, as names are; numbers are aligned to the right.
        least: Width to which names may be shortened; 0 for a column that is always shown in full.
        drop: Order of removal if the table is too wide: the largest number goes first; 0 for a column that
            stays.
    """

    heading: str
    cells: Sequence[str]
    left: bool = False
    least: int = 0
    drop: int = 0


def fitting(console: Console, columns: Sequence[Column]) -> Table:
    """Return a table of as many columns as fit into a terminal; of all columns for other output.

    Args:
        console: The console to print it on.
        columns: Columns, at least one, with the same number of cells.
    """
    kept = list(columns)
    while True:
        table = whole(kept)
        excess = natural_width(console, table) - console.width
        if not console.is_terminal or excess <= 0:
            return table
        if (shorter := _shortened(kept, excess)) is not None:
            return whole(shorter)
        droppable = [column for column in kept if column.drop]
        if not droppable:
            return table
        kept.remove(max(droppable, key=lambda column: column.drop))


def _shortened(columns: Sequence[Column], excess: int) -> list[Column] | None:
    """Return the columns with names shortened by ``excess`` in all, the longest first; None if impossible."""
    widths = {i: max(map(cell_len, column.cells), default=0) for i, column in enumerate(columns)}
    spare = {i: widths[i] - column.least for i, column in enumerate(columns) if column.least}
    if sum(max(0, room) for room in spare.values()) < excess:
        return None
    for _ in range(excess):
        widest = max((i for i in spare if spare[i] > 0), key=widths.__getitem__)
        widths[widest] -= 1
        spare[widest] -= 1
    return [
        replace(column, cells=[_cut(cell, widths[i]) for cell in column.cells]) if column.least else column
        for i, column in enumerate(columns)
    ]


def _cut(text: str, width: int) -> str:
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def natural_width(console: Console, table: Table) -> int:
    """Return the width of a table if nothing is cut or broken."""
    return console.measure(table, options=console.options.update(max_width=1000)).maximum


def whole(columns: Sequence[Column]) -> Table:
    """Return a table of all columns, with nothing cut.

    Args:
        columns: Columns, at least one, with the same number of cells.
    """
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.heading, justify="left" if column.left else "right", no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, cells))
    return table
