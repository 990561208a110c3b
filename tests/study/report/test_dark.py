"""The colours of a dark page: what was told apart still is, and everything stands out from the page."""

from __future__ import annotations

import re

import pytest

from study.config.loader import OPTIMIZERS
from study.report import dark
from study.report.figures import style

COLOURS = sorted(
    {style.look(name).color for name in (*OPTIMIZERS, "torch.optim.AdamW", "prodigyopt.Prodigy")}
)


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (low + 0.05)


def test_white_becomes_the_page_and_black_its_letters():
    assert dark.dark("#ffffff") == dark.PAPER
    assert dark.dark("#000000") == dark.INK
    assert contrast(dark.INK, dark.PAPER) > 7
    assert contrast(dark.dark("#555555"), dark.PAPER) > 4.5  # words in figures
    assert contrast(dark.dark("#e4e4e4"), dark.PAPER) < 2  # the grid stays faint


@pytest.mark.parametrize("colour", COLOURS)
def test_lines_stand_out_from_the_page(colour):
    assert contrast(dark.dark(colour), dark.PAPER) > 3  # WCAG 1.4.11


def test_different_colours_stay_different():
    assert len({dark.dark(colour) for colour in COLOURS}) == len(COLOURS)


def test_a_figure_has_both_sets_of_colours_and_says_no_other():
    svg = '<svg xmlns="x"><defs><style>*{}</style></defs><g style="fill: #ffffff; stroke: #0072b2"/></svg>'
    both = dark.adaptive(svg)
    assert 'style="fill: var(--cffffff); stroke: var(--c0072b2)"' in both
    assert f"--cffffff:{dark.PAPER};" in both.partition("prefers-color-scheme:dark")[2]
    light = both.partition("@media")[0]
    assert "--cffffff:#ffffff;" in light
    assert re.sub(r"<style>:root.*?</style>", "", both).count("#") == 0
