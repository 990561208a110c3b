"""The live view in a terminal while a study runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from study.analysis.formatting import format_number
from study.analysis.progress_text import describe
from study.cli.columns import Column, fitting
from study.storage.progress import OnProgress, Progress, ProgressRow

LINE_SECONDS = 10.0
OTHER_LINES = 6
"""Lines of a terminal beside the rows: the bar, the counts, the headings, the number of rows left out."""
LEAST_ROWS = 3


@contextmanager
def watching(console: Console, *, live: bool = True) -> Iterator[OnProgress]:
    """Yield a function that shows progress: on a terminal a live bar and table, elsewhere a line at times.

    Args:
        console: The console.
        live: Whether a bar may move; it would overwrite the output of a debugger.
    """
    if not (live and console.is_terminal):
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        yield lambda progress: display.update(panel(console, progress))


class _Lines:
    """Prints a line if it has changed, but at most every ``LINE_SECONDS``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._last = ""

    def __call__(self, progress: Progress) -> None:
        line = describe(progress)
        if progress.tracking_error:
            line += f"; {progress.tracking_error}"
        if line != self._last and (time.monotonic() >= self._next or progress.done == progress.total):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            self._next = time.monotonic() + LINE_SECONDS
            self._last = line


def panel(console: Console, progress: Progress) -> Group:
    """Return a bar, a line of counts, and a row per workload and optimizer, fitted to the terminal."""
    bar = Table.grid()  # a bar alone does not end its line
    bar.add_row(ProgressBar(total=1.0, completed=progress.share, width=min(60, console.width)))
    counts = describe(replace(progress, best=None) if progress.rows else progress)  # rows show losses
    lines: list[RenderableType] = [bar, Text(counts)]
    if progress.tracking_error:
        lines.append(Text(f"{progress.tracking_error}; the journals keep everything, trying again", "yellow"))
    if progress.rows:
        shown, left_out = _chosen(progress.rows, max(LEAST_ROWS, console.height - OTHER_LINES))
        lines.append(rows_table(console, shown, several_workloads=progress.workloads > 1))
        if left_out:
            lines.append(Text(_left_out(left_out)))
    return Group(*lines)


def rows_table(console: Console, rows: Sequence[ProgressRow], *, several_workloads: bool) -> RenderableType:
    """Return a table with a line per row, fitted to the console.

    Args:
        console: The console to print it on.
        rows: The rows.
        several_workloads: Whether the rows are of several workloads.
    """
    columns = [
        Column("workload", [row.workload for row in rows], left=True, least=12),
        Column("optimizer", [row.optimizer for row in rows], left=True, least=16),
        Column("done", [f"{row.done}/{row.total}" for row in rows]),
        Column("running", [_count(row.running) for row in rows], drop=5),
        Column("diverged", [_count(row.diverged) for row in rows], drop=2),
        Column("failed", [_count(row.failed) for row in rows], drop=2),
        Column("val loss", [format_number(row.loss) for row in rows], drop=1),
        Column("last α", [format_number(row.alpha) for row in rows], drop=3),
        Column("reached", [_reached(row) for row in rows], drop=4),
        Column("iterations", [_iterations(row) for row in rows], drop=1),
    ]
    if not several_workloads:
        columns = columns[1:]
    optional = ("running", "diverged", "failed", "reached", "iterations")
    kept = [c for c in columns if c.heading not in optional or any(cell != "–" for cell in c.cells)]
    return fitting(console, kept)


def _chosen(rows: Sequence[ProgressRow], most: int) -> tuple[list[ProgressRow], list[ProgressRow]]:
    """Return the rows to show, in their order, and the others. Rows with running trials take precedence."""
    if len(rows) <= most:
        return list(rows), []
    by_interest = sorted(range(len(rows)), key=lambda index: _place(rows[index]))
    shown = set(by_interest[:most])
    return (
        [row for index, row in enumerate(rows) if index in shown],
        [row for index, row in enumerate(rows) if index not in shown],
    )


def _place(row: ProgressRow) -> int:
    if row.running:
        return 0
    if row.done + row.failed == 0:
        return 3
    return 2 if row.done + row.failed == row.total else 1


def _left_out(rows: Sequence[ProgressRow]) -> str:
    ended = sum(row.done + row.failed == row.total for row in rows)
    waiting = sum(row.done + row.failed + row.running == 0 for row in rows)
    begun = len(rows) - ended - waiting
    parts = ((ended, "ended"), (begun, "under way"), (waiting, "not begun"))
    return f"… {len(rows)} more: " + ", ".join(f"{count} {what}" for count, what in parts if count)


def _count(value: int) -> str:
    return str(value) if value else "–"


def _reached(row: ProgressRow) -> str:
    return f"{row.reached}/{row.done}" if row.reached is not None and row.done else "–"


def _iterations(row: ProgressRow) -> str:
    """Return the median of the iterations to the threshold; a dash too if most did not reach it."""
    return "–" if row.iterations is None or math.isinf(row.iterations) else f"{row.iterations:g}"
