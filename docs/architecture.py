"""Draw architecture.svg, beside this file: the rooms, a row per layer of imports, and the way of the data.

python docs/architecture.py
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

INK, FAINT, DATA = "#1f2933", "#9aa5b1", "#c2410c"
ROOM, PACKAGE, OUTSIDE = "#e8eef7", "#e6f4ea", "#ffffff"
HEIGHT, GAP = 0.8, 0.5

# Name, left and right end, row (the layers of the import contract, the lowest is 0), what it does.
ROOMS = (
    ("cli", 3.4, 11.4, 6, "commands, terminal output"),
    ("api", 3.4, 11.4, 5, "study.run and study.load, for Python and notebooks"),
    ("execution", 3.4, 11.4, 4, "plans and runs a study: driver, executors, search"),
    ("report", 3.4, 6.2, 3, "figures, page, exports"),
    ("tracking", 8.9, 11.4, 3, "sends records on"),
    ("analysis", 3.4, 6.2, 2, "metrics, tables, claims"),
    ("training", 7.7, 11.4, 2, "trains trials and packs"),
    ("storage", 3.4, 6.2, 1, "journals, records, lock"),
    ("workloads", 7.7, 11.4, 1, "data, model, loss"),
    ("config", 3.4, 11.4, 0, "what a study file says, expanded into trials"),
)
OUTSIDES = (
    ("terminal", 0.0, 2.6, 6, "progress, tables"),
    ("notebook", 0.0, 2.6, 5, "DataFrames, figures"),
    ("NAME/report/", 0.0, 2.6, 3, "index.html, figures, CSV"),
    ("runs/NAME/", 0.0, 2.6, 1, "journals, checkpoints"),
    ("STUDY.yaml", 0.0, 2.6, 0, "or a preset"),
    ("Ray, Optuna", 12.2, 14.6, 4, "workers, samplers"),
    ("MLflow", 12.2, 14.6, 3, "runs, curves"),
    ("hypergrad", 12.2, 14.6, 2, "the optimizers"),
    ("data sets", 12.2, 14.6, 1, "MNIST, CIFAR-10, …"),
)


def middle(row: int) -> float:
    """Return the height of a row's middle."""
    return row * (HEIGHT + GAP)


def top(row: int) -> float:
    """Return the height of the upper edge of a row's boxes."""
    return middle(row) + HEIGHT / 2


def bottom(row: int) -> float:
    """Return the height of the lower edge of a row's boxes."""
    return middle(row) - HEIGHT / 2


def box(axes: Axes, name: str, left: float, right: float, row: int, text: str, colour: str) -> None:
    """Draw a box with a name in bold and what it does below."""
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom(row)),
            right - left,
            HEIGHT,
            "round,pad=0,rounding_size=0.08",
            facecolor=colour,
            edgecolor=FAINT if colour == OUTSIDE else INK,
        )
    )
    centre = (left + right) / 2
    axes.text(centre, middle(row) + 0.15, name, ha="center", va="center", weight="bold", size=11, color=INK)
    axes.text(centre, middle(row) - 0.19, text, ha="center", va="center", size=8.5, color=INK)


def flow(axes: Axes, label: str, at: tuple[float, float], *points: tuple[float, float]) -> None:
    """Draw an arrow through ``points``, and beside it its label, which begins ``at``."""
    for start, end in pairwise(points[:-1]):
        axes.plot(*zip(start, end, strict=True), color=DATA, linewidth=1.6, solid_capstyle="projecting")
    arrow = {"arrowstyle": "-|>", "color": DATA, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=arrow)
    axes.text(*at, label, color=DATA, size=9, va="center")


def main() -> None:
    """Draw and save the picture."""
    plt.rcParams["svg.hashsalt"] = "architecture"  # so that drawing it again changes nothing
    figure, axes = plt.subplots(figsize=(11.5, 6.8))
    for room in ROOMS:
        box(axes, *room, ROOM)
    for outside in OUTSIDES:
        box(axes, *outside, PACKAGE if outside[0] == "hypergrad" else OUTSIDE)

    def above(row: int) -> float:
        return (top(row) + bottom(row + 1)) / 2

    flow(axes, "1", (2.95, middle(0) + 0.18), (2.6, middle(0)), (3.4, middle(0)))
    flow(axes, "2 trials", (6.6, above(0)), (6.5, top(0)), (6.5, bottom(4)))
    flow(axes, "3 bundles", (8.2, above(3)), (8.1, bottom(4)), (8.1, top(2)))
    flow(axes, "3", (11.75, middle(4) + 0.18), (12.2, middle(4)), (11.4, middle(4)))
    flow(axes, "4", (11.75, middle(2) + 0.18), (12.2, middle(2)), (11.4, middle(2)))
    flow(axes, "4", (11.75, middle(1) + 0.18), (12.2, middle(1)), (11.4, middle(1)))
    flow(axes, "4 model, batches", (9.7, above(1)), (9.6, top(1)), (9.6, bottom(2)))
    step = [(7.7, middle(2)), (7.3, middle(2)), (7.3, middle(1) - 0.15), (6.2, middle(1) - 0.15)]
    flow(axes, "5 epochs", (6.6, middle(1) - 0.33), *step)
    flow(axes, "5", (2.95, middle(1) + 0.18), (3.4, middle(1)), (2.6, middle(1)))
    flow(
        axes,
        "6 records",
        (6.95, middle(3)),
        (6.2, middle(1) + 0.15),
        (6.9, middle(1) + 0.15),
        (6.9, bottom(4)),
    )
    flow(axes, "6", (10.25, above(3)), (10.15, bottom(4)), (10.15, top(3)))
    flow(axes, "6", (11.75, middle(3) + 0.18), (11.4, middle(3)), (12.2, middle(3)))
    flow(axes, "7 records", (4.9, above(1)), (4.8, top(1)), (4.8, bottom(2)))
    flow(axes, "7 tables", (4.9, above(2)), (4.8, top(2)), (4.8, bottom(3)))
    flow(axes, "7", (2.95, middle(3) + 0.18), (3.4, middle(3)), (2.6, middle(3)))
    for row in (5, 6):
        flow(axes, "", (0, 0), (3.4, middle(row)), (2.6, middle(row)))

    down = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.2}
    axes.annotate("", (15.0, bottom(0)), (15.0, top(6)), arrowprops=down)
    words = "imports go down, never to the same row"
    axes.text(15.3, middle(2) + 0.6, words, rotation=270, ha="center", va="center", size=9.5, color=INK)
    axes.set_xlim(-0.1, 15.5)
    axes.set_ylim(bottom(0) - 0.1, top(6) + 0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(Path(__file__).with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    main()
