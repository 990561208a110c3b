"""What the terminal shows while a study runs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

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


def describe(progress: Progress) -> str:
    """Return one line that says how a study stands."""
    parts = [f"{progress.done}/{progress.total} trials done"]
    parts += [
        f"{count} {what}"
        for count, what in (
            (progress.running, "running"),
            (progress.diverged, "diverged"),
            (progress.pruned, "pruned"),
            (progress.failed, "failed"),
        )
        if count
    ]
    if progress.best is not None:
        best = progress.best
        loss = min(epoch.val_loss for epoch in best.epochs if math.isfinite(epoch.val_loss))
        parts.append(f"best validation loss {loss:.4g} ({best.trial.workload} {best.trial.name})")
    if progress.seconds_left is not None and progress.done + progress.failed < progress.total:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 3 min, 2.5 h, 4 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


class _Lines:
    """Prints a line when something changed, but not more often than every :data:`LINE_SECONDS`."""

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
