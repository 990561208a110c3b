"""The interface of the modules that draw the report's figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import pandas as pd
from matplotlib.figure import Figure

from study.config.loader import Study
from study.config.search_space import NOTHING_FOUND, SearchState
from study.storage.records import TrialRecord

Section = Literal["untuned", "curves", "alpha0", "budget"]
"""A section of the page."""


class Evidence(NamedTuple):
    """The data that figures are drawn from."""

    study: Study
    records: Sequence[TrialRecord]
    """Records of the study's own trials, in its order."""
    trials: pd.DataFrame
    """The table from ``tables.trial_table``."""
    search_state: SearchState = NOTHING_FOUND
    """The state of the study's search; nothing found for a grid."""
    search_records: Sequence[TrialRecord] = ()
    """Records of all trials, those of a search included."""


class Drawn(NamedTuple):
    """One figure, with its title and caption for the page."""

    figure: Figure
    title: str
    caption: str
    suffix: str = ""
    """Suffix of the file's name, if a module draws several figures."""


class FigureModule(Protocol):
    """A module of this package that draws a figure of the report; ``registry`` lists it."""

    STEM: str
    """Beginning of the names of its files."""
    SECTION: Section
    """The section of the page that shows it."""

    def draw(self, evidence: Evidence) -> Iterator[Drawn]:
        """Yield the figure, or several; nothing if there is nothing to show."""
