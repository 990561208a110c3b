"""Gives an SVG figure a second set of colours, for dark mode."""

from __future__ import annotations

import math
import re

PAPER, INK = "#16181c", "#e8eaed"
"""Background and letters of the dark page."""

_COLOUR = re.compile(r"(?<=: )#([0-9a-f]{6})\b")
_NEUTRAL = 0.02  # chroma below which a colour is a grey
_Vector = tuple[float, float, float]

# Ottosson 2020, https://bottosson.github.io/posts/oklab/
_TO_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_FROM_LAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_LMS = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def adaptive(svg: str) -> str:
    """Return a figure that has the colours of ``dark`` if the reader prefers a dark scheme.

    The figure stays one file: its colours become variables, which a media query sets.

    Args:
        svg: The figure as matplotlib writes it, with colours ``#rrggbb`` in attributes ``style``.
    """
    colours = sorted(set(_COLOUR.findall(svg)))
    light = "".join(f"--c{colour}:#{colour};" for colour in colours)
    night = "".join(f"--c{colour}:{dark(f'#{colour}')};" for colour in colours)
    style = (
        f"<style>:root{{{light}fill:#000000}}"
        f"@media (prefers-color-scheme:dark){{:root{{{night}fill:{INK}}}}}</style>"
    )
    head, end, rest = svg.partition("<defs>")
    return head + style + end + _COLOUR.sub(r"var(--c\1)", rest) if end else svg


def dark(colour: str) -> str:
    """Return the colour that replaces ``colour`` on a dark page.

    Greys are reversed: white becomes ``PAPER``, black becomes ``INK``. Other colours keep their hue and
    become lighter, so that they stand out from ``PAPER`` and from each other.

    Args:
        colour: The colour, as ``#rrggbb``.
    """
    lightness, a, b = _lab(colour)
    if math.hypot(a, b) < _NEUTRAL:
        black, white = _lab(INK), _lab(PAPER)
        one, other, third = (ink + (paper - ink) * lightness for ink, paper in zip(black, white, strict=True))
        return _hex((one, other, third))
    lightness = 0.58 + 0.36 * lightness
    for _ in range(40):  # until a screen can show it
        rgb = _linear((lightness, a, b))
        if all(-1e-4 <= part <= 1 + 1e-4 for part in rgb):
            break
        a, b = 0.95 * a, 0.95 * b
    return _hex((lightness, a, b))


def _lab(colour: str) -> _Vector:
    rgb = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    one, two, three = (math.cbrt(part) for part in _times(_TO_LMS, (linear[0], linear[1], linear[2])))
    return _times(_TO_LAB, (one, two, three))


def _linear(lab: _Vector) -> _Vector:
    one, two, three = (part**3 for part in _times(_FROM_LAB, lab))
    return _times(_FROM_LMS, (one, two, three))


def _hex(lab: _Vector) -> str:
    parts = (min(max(part, 0.0), 1.0) for part in _linear(lab))
    shown = (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in parts)
    return "#" + "".join(f"{round(255 * part):02x}" for part in shown)


def _times(matrix: tuple[_Vector, _Vector, _Vector], vector: _Vector) -> _Vector:
    x, y, z = (sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)
    return x, y, z
