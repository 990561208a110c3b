"""The arms and points of a search, the alternative to a grid.

An *arm* is one optimizer on one workload. Each arm is searched by itself, with the same number of *points*:
values of α₀ and β that a sampler proposes one after the other. A point is trained on each of the search's
seeds, and its score is the median of the objective over them. The best point of each arm is then trained on
the study's own seeds. Only those trials are reported: a point looks better than it is on the seeds on which
it was chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from study.config.search_section import Search
from study.config.sections import Range
from study.config.trial import Trial


@dataclass(frozen=True)
class Point:
    """Values of α₀ and β that a sampler proposed for one arm."""

    arm: str
    """The arm's key."""
    number: int
    """Its place in the arm, from 0, in the order of asking."""
    alpha0: float
    beta: float | None


@dataclass(frozen=True)
class SearchState:
    """The state of a search: its points in the order of asking, and the best one of each arm."""

    points: tuple[Point, ...] = ()
    chosen: tuple[tuple[str, int], ...] = ()
    """Pairs of an arm's key and the number of its best point, for the arms whose search has finished."""


NOTHING_FOUND = SearchState()
"""The state of a search that has not begun, and of every grid."""


@dataclass(frozen=True)
class Arm:
    """One optimizer on one workload, which is searched by itself.

    Its key is a hash of everything besides results that the sampler's proposals depend on: the settings of
    its trials, the ranges, the sampler and its seed, the objective. So a study whose number of points, seeds
    or pruning changes keeps the points that it has.
    """

    template: Trial
    """A trial of the arm with made-up α₀, β and seed."""
    alpha0: float | Range
    beta: float | Range | None
    search: Search

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that identify the arm."""
        settings = {k: v for k, v in self.template.settings().items() if k not in ("alpha0", "beta", "seed")}
        values = [v.model_dump() if isinstance(v, Range) else v for v in self._values.values()]
        search = [self.search.sampler, self.search.args, self.search.seed, self.search.objective]
        return sha256(json.dumps([1, settings, values, search], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _values(self) -> dict[str, float | Range | None]:
        return {"alpha0": self.alpha0, "beta": self.beta}

    @property
    def space(self) -> dict[str, Range]:
        """The ranges that are searched, by name: ``alpha0``, ``beta``, or both."""
        return {name: value for name, value in self._values.items() if isinstance(value, Range)}

    def point(self, number: int, drawn: dict[str, float]) -> Point:
        """Return the point with the ``drawn`` values, and the fixed ones."""
        values: dict[str, Any] = {
            name: drawn[name] if isinstance(value, Range) else value for name, value in self._values.items()
        }
        return Point(self.key, number, **values)

    @property
    def middle(self) -> Point:
        """A stand-in for a point that is not known yet: the middle of every range."""
        return self.point(0, {name: rate.middle for name, rate in self.space.items()})

    def trials(self, point: Point, seeds: Iterable[int]) -> list[Trial]:
        """Return the trials of ``point``, one per seed."""
        return [replace(self.template, alpha0=point.alpha0, beta=point.beta, seed=seed) for seed in seeds]

    def points(self, state: SearchState) -> list[Point]:
        """Return the arm's points that count: the first ``search.points``."""
        return [p for p in state.points if p.arm == self.key and p.number < self.search.points]

    def best(self, state: SearchState) -> Point | None:
        """Return the arm's best point; None before its search has finished."""
        chosen = dict(state.chosen).get(self.key)
        return next((p for p in self.points(state) if p.number == chosen), None)
