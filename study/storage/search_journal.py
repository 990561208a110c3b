"""The points that a search has asked for and chosen: an append-only file in the study's folder.

Lines are those of ``journal``. An ``asked`` event is a ``search_space.Point``; a ``chosen`` event names an
arm's best point, and the last one counts. This file and the trials' journals hold the whole state of a
search: the sampler's own storage can be created again from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from study.config.search_space import Point, SearchState
from study.storage import journal, journal_reader


def read(path: Path) -> SearchState:
    """Return the state that the file holds; an empty one if there is no file.

    Raises:
        OSError: The file exists and cannot be read.
    """
    return _read(path)[0]


def ask(path: Path, points: Iterable[Point]) -> None:
    """Append points, before anything else is done with them.

    Raises:
        OSError: The file cannot be written.
    """
    _append(path, [{"event": "asked", **asdict(point)} for point in points])


def choose(path: Path, best: Point) -> None:
    """Append that ``best`` is the best point of its arm.

    Raises:
        OSError: The file cannot be written.
    """
    _append(path, [{"event": "chosen", "arm": best.arm, "number": best.number}])


def _read(path: Path) -> tuple[SearchState, int]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SearchState(), 0
    taken = 0
    points: dict[tuple[str, int], Point] = {}
    chosen: dict[str, int] = {}
    for event, length in journal_reader.events_in(data):
        try:
            match event["event"] if event else None:
                case "asked" if event:
                    point = Point(event["arm"], event["number"], event["alpha0"], event["beta"])
                    points[point.arm, point.number] = point
                case "chosen" if event:
                    chosen[event["arm"]] = event["number"]
                case _:
                    break
        except (LookupError, TypeError, ValueError):
            break
        taken += length
    return SearchState(tuple(points.values()), tuple(chosen.items())), taken


def _append(path: Path, events: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = _read(path)[1]
    with path.open("ab") as file:
        file.truncate(whole)
        file.write(b"".join(map(journal.line_of, events)))
        file.flush()
        os.fsync(file.fileno())
