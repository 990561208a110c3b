"""Lists the report's figures, draws and describes them, and removes those of an earlier report."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, get_args

from matplotlib.figure import Figure

from study.analysis.ranking import best_optimizers
from study.report import dark
from study.report.figures import (
    alpha0,
    best_of_k,
    contour,
    importance,
    loss_over_alpha0,
    medium,
    performance,
    runtime,
    step_size,
    style,
    training_curves,
    untuned_profile,
)
from study.report.figures.base import Drawn, Evidence, FigureModule, Section

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
    description: str
    """The figure in words, for readers who do not see it."""
    png: Path
    svg: Path
    pdf: Path

    @property
    def data(self) -> str:
        """The SVG as a data address, with colours for a light and a dark page."""
        svg = dark.adaptive(self.svg.read_text(encoding="utf-8"))
        return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """The files of the figure."""
        return self.png, self.svg, self.pdf


MANY, BEST = 10, 5
"""With ``MANY`` optimizers or more, the ``BEST`` ones are in colour and the others grey."""

PAPER_FOLDER = "paper"
"""Folder of the figures for a paper, in a report's folder."""


def draw(evidence: Evidence, folder: Path) -> list[Picture]:
    """Draw every figure that has something to show, and save each into ``folder``."""
    return [
        Picture(
            module.SECTION,
            drawn.title,
            drawn.caption,
            describe(drawn.figure),
            *style.save(drawn.figure, folder / f"{module.STEM}{drawn.suffix}"),
        )
        for module, drawn in figures(evidence)
    ]


def draw_for_paper(evidence: Evidence, folder: Path) -> list[Path]:
    """Draw every figure as a PDF as wide as a column or the text of a paper; return the files.

    ``captions.txt`` beside them has their captions, and the choices among several α₀ and β. Files of earlier
    figures are removed.

    Args:
        evidence: The study's evidence.
        folder: The folder to write; created if absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, captions = [], []
    with medium.for_paper():
        for module, drawn in figures(evidence):
            files += style.save(drawn.figure, folder / f"{module.STEM}{drawn.suffix}", ["pdf"])
            note = " ".join(drawn.figure.get_suptitle().split("\n")[1:])
            said = " ".join(filter(None, (f"{drawn.title}.", drawn.caption, note and f"Shown: {note}.")))
            captions.append(f"{files[-1].name}: {said}\n")
    for path in folder.glob("*.pdf"):
        if path not in files:
            path.unlink()
    captions_file = folder / "captions.txt"
    captions_file.write_text("\n".join(captions), encoding="utf-8")
    return [*files, captions_file]


def figures(evidence: Evidence) -> Iterator[tuple[FigureModule, Drawn]]:
    """Yield every figure that has something to show, with its module, in the order of the page."""
    names = evidence.trials["optimizer"]
    best = best_optimizers(evidence.trials, BEST) if names.nunique() >= MANY else []
    grey = (
        f" In colour are the {len(best)} optimizers with the lowest validation loss at their best α₀ and β "
        "(mean rank over workloads), all others in grey."
        if best
        else ""
    )
    for module in FIGURES:
        with medium.highlighting(best):
            found = list(module.draw(evidence))
        for drawn in found:
            yield module, drawn._replace(caption=drawn.caption + grey)


def describe(figure: Figure) -> str:
    """Describe a figure in words: its axes, panels and lines."""
    panels = [panel for panel in figure.axes if panel.get_visible()]
    ups, acrosses, titles = (
        list(dict.fromkeys(filter(None, (" ".join(text.split()) for text in texts))))
        for texts in (
            [panel.get_ylabel() for panel in panels],
            [panel.get_xlabel() for panel in panels],
            [panel.get_title() for panel in panels],
        )
    )
    lines = [
        text.get_text().replace(r"\$", "$")
        for legend in figure.legends
        for text in legend.get_texts()
        if text.get_text().strip()
    ]
    said = [f"{', '.join(ups)} over {', '.join(acrosses)}"] if ups and acrosses else []
    said += [f"panels: {', '.join(titles)}"] if titles else []
    said += [f"lines: {', '.join(lines)}"] if lines else []
    return "; ".join(said)


def by_section(pictures: Iterable[Picture]) -> dict[Section, list[Picture]]:
    """Return the pictures of every section, in the order of the page."""
    sections: dict[Section, list[Picture]] = {section: [] for section in SECTIONS}
    for picture in pictures:
        sections[picture.section].append(picture)
    return sections


def remove_others(folder: Path, kept: Iterable[Picture]) -> None:
    """Remove the figures of an earlier report from ``folder``; other files stay."""
    files = {path for picture in kept for path in picture.files}
    for module in FIGURES:
        for path in folder.glob(f"{module.STEM}*"):
            if path.suffix[1:] in style.FORMATS and path not in files:
                path.unlink(missing_ok=True)
