"""Lists the report's figures, draws them and removes those of an earlier report."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, get_args

from study.report.figures import (
    alpha0,
    best_of_k,
    contour,
    importance,
    loss_over_alpha0,
    performance,
    runtime,
    step_size,
    style,
    training_curves,
    untuned_profile,
)
from study.report.figures.base import Evidence, FigureModule, Section

FIGURES: tuple[FigureModule, ...] = (
    untuned_profile,
    loss_over_alpha0,
    training_curves,
    alpha0,
    step_size,
    importance,
    contour,
    best_of_k,
    runtime,
    performance,
)
"""The modules that draw a figure, in the order of the page."""

SECTIONS: tuple[Section, ...] = get_args(Section)


class Picture(NamedTuple):
    """A figure on disk and on the page."""

    section: Section
    title: str
    caption: str
    png: Path
    svg: Path

    @property
    def data(self) -> str:
        """The SVG as a data address."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.read_bytes()).decode()


def draw(evidence: Evidence, folder: Path) -> list[Picture]:
    """Draw every figure that has something to show, and save each into ``folder``."""
    return [
        Picture(
            module.SECTION,
            drawn.title,
            drawn.caption,
            *style.save(drawn.figure, folder / f"{module.STEM}{drawn.suffix}"),
        )
        for module in FIGURES
        for drawn in module.draw(evidence)
    ]


def by_section(pictures: Iterable[Picture]) -> dict[Section, list[Picture]]:
    """Return the pictures of every section, in the order of the page."""
    sections: dict[Section, list[Picture]] = {section: [] for section in SECTIONS}
    for picture in pictures:
        sections[picture.section].append(picture)
    return sections


def remove_others(folder: Path, kept: Iterable[Picture]) -> None:
    """Remove the figures of an earlier report from ``folder``; other files stay."""
    files = {path for picture in kept for path in (picture.png, picture.svg)}
    for module in FIGURES:
        for path in folder.glob(f"{module.STEM}*"):
            if path.suffix in (".png", ".svg") and path not in files:
                path.unlink(missing_ok=True)
