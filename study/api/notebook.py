"""Shows progress bars and figures in a notebook."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from study.analysis.formatting import format_number, format_setting
from study.analysis.progress_text import describe
from study.storage.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

    from study.config.loader import Study

LINE_SECONDS = 10.0
SHOWN_ROWS = 40
_COLUMNS = {
    "workload": "workload",
    "optimizer": "optimizer",
    "alpha0": "α₀",
    "beta": "β",
    "seeds": "seeds",
    "diverged": "diverged",
    "iterations_text": "iterations to threshold",
    "final_train_loss": "training loss",
    "best_val_loss": "best validation loss",
    "alpha_final": "last α",
}
_SETTINGS = ("alpha0", "beta")


class Display(Protocol):
    """Shows the progress of a run."""

    def progress(self, progress: Progress) -> None:
        """Show the current progress."""

    def say(self, line: str) -> None:
        """Show a line."""


def display() -> Display:
    """Return a display that moves in a notebook; elsewhere one that prints a line to stderr at times."""
    return _Lines() if _notebook() is None else _Html()


def show_figures() -> None:
    """Make the notebook show matplotlib's figures as pictures, even if pyplot was never imported."""
    if (shell := _notebook()) is None:
        return
    from IPython.core.pylabtools import select_figure_formats
    from matplotlib.figure import Figure

    if Figure not in shell.display_formatter.formatters["image/png"].type_printers:
        select_figure_formats(shell, {"png"})


def study_html(study: Study, progress: Progress, summary: pd.DataFrame) -> str:
    """Return HTML with a study's progress, and its summary with the best points first.

    Args:
        study: The study.
        progress: The progress of the study.
        summary: From ``tables.summary_table``.
    """
    import pandas as pd  # takes half a second, which counts when a study starts

    head = f"<b>{escape(study.name)}</b> {escape(study.description)}<br>{escape(describe(progress))}"
    table = summary.sort_values(["workload", "best_val_loss"])
    empty = [name for name in _COLUMNS if table[name].isna().all() or table[name].isin(["", 0]).all()]
    table = table[[name for name in _COLUMNS if name not in empty]]
    texts = {}
    for name in table:
        text = format_setting if name in _SETTINGS else format_number
        numeric = pd.api.types.is_float_dtype(table[name])
        texts[_COLUMNS[str(name)]] = [text(value) for value in table[name]] if numeric else table[name]
    html: str = pd.DataFrame(texts).to_html(index=False, max_rows=SHOWN_ROWS, border=0)
    return f"<p>{head}</p>{html}"


class Silent:
    """Shows nothing."""

    def progress(self, progress: Progress) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Show nothing."""


class Calls(Silent):
    """Passes the progress to a function of the user's."""

    def __init__(self, function: Callable[[Progress], None]) -> None:
        self._function = function

    def progress(self, progress: Progress) -> None:
        """Call the function."""
        self._function(progress)


class _Lines:
    def __init__(self) -> None:
        self._next, self._last = 0.0, ""

    def progress(self, progress: Progress) -> None:
        line = describe(progress)
        is_last = progress.done == progress.total
        if line != self._last and (is_last or time.monotonic() >= self._next):
            self.say(line)
            self._next, self._last = time.monotonic() + LINE_SECONDS, line

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Html:
    """A moving bar, with the last lines above it."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        # tqdm, which MLflow imports, warns in every notebook about a package that nothing here uses.
        warnings.filterwarnings("ignore", message="IProgress not found")
        self._html = HTML
        self._lines: list[str] = []
        self._bar = ""
        self._handle = display(HTML(""), display_id=True)

    def progress(self, progress: Progress) -> None:
        line = describe(progress)
        if progress.tracking_error:
            line += f"; {progress.tracking_error}"
        self._bar = (
            f'<progress style="width: 24em" max="1" value="{progress.share:.4f}"></progress> {escape(line)}'
        )
        self._update()

    def say(self, line: str) -> None:
        self._lines = [*self._lines[-9:], line]
        self._update()

    def _update(self) -> None:
        lines = "<br>".join(map(escape, self._lines))
        self._handle.update(self._html(f"{lines}<br>{self._bar}" if lines else self._bar))


def _notebook() -> Any:
    """Return the IPython shell of the notebook that runs this; None elsewhere, as in a terminal's IPython."""
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    shell = get_ipython()
    return shell if shell is not None and hasattr(shell, "kernel") else None
