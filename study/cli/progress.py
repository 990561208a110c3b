"""What the terminal shows while a study runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from study.analysis.progress_text import describe
from study.storage.progress import OnProgress, Progress

LINE_SECONDS = 10.0


@contextmanager
def watching(console: Console, *, live: bool = True) -> Iterator[OnProgress]:
    """Yield what shows progress: a bar that moves on a terminal, else a line now and then.

    Args:
        console: where to show it.
        live: whether a bar may move; it would overwrite what a debugger prints.
    """
    if not (live and console.is_terminal):
        yield _Lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as display:
        yield lambda progress: display.update(_panel(progress))


class _Lines:
    """Prints a line when something changed, but not more often than every ``LINE_SECONDS``."""

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


def _panel(progress: Progress) -> Group:
    bar = ProgressBar(total=1.0, completed=progress.share, width=60)
    lines: list[ProgressBar | Text] = [bar, Text(describe(progress))]
    if progress.tracking_error:
        lines.append(Text(f"{progress.tracking_error}; the journals keep everything, trying again", "yellow"))
    return Group(*lines)
