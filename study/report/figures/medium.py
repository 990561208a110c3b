"""The medium of the figures, a page or a paper, and the optimizers that are in colour."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

PAPER: Any = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "axes.linewidth": 0.5,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "grid.linewidth": 0.4,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
}
"""Settings that a figure for a paper has in place of those of ``style.STYLE``."""

COLUMN_WIDTH, TEXT_WIDTH = 3.25, 6.75
"""Widths of a column and of the text of a paper in two columns, in inches."""

_for_paper: ContextVar[bool] = ContextVar("for_paper", default=False)
_highlighted: ContextVar[frozenset[str]] = ContextVar("highlighted", default=frozenset())


@contextmanager
def for_paper() -> Iterator[None]:
    """Draw figures as wide as a paper's column or text, with small letters, thin lines and no title."""
    token = _for_paper.set(True)
    try:
        yield
    finally:
        _for_paper.reset(token)


@contextmanager
def highlighting(optimizers: Collection[str]) -> Iterator[None]:
    """Draw these optimizers in their colours and all others thin and grey; if empty, draw all in colour."""
    token = _highlighted.set(frozenset(optimizers))
    try:
        yield
    finally:
        _highlighted.reset(token)


def is_for_paper() -> bool:
    """Return whether figures are drawn for a paper."""
    return _for_paper.get()


def is_highlighting() -> bool:
    """Return whether some optimizers are drawn in grey."""
    return bool(_highlighted.get())


def is_muted(optimizer: str) -> bool:
    """Return whether an optimizer is drawn in grey."""
    return is_highlighting() and optimizer not in _highlighted.get()


def shrink() -> float:
    """Return the medium's factor for widths of lines and sizes of markers."""
    return 0.7 if _for_paper.get() else 1.0
