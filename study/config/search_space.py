"""A search: what a study file may ask for instead of a grid, and the points that come of it. Pure.

Every optimizer on every workload is searched by itself, an *arm*, with the same number of *points*: values of
α₀ and β, asked of a sampler one after the other. A point is trained on each of the search's seeds and worth
the median of the objective over them. The best point of each arm is then trained on the study's seeds, which
are others; only those trials are reported, so that what was chosen is not flattered by what it was chosen on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

from study.config.sections import Range, Search
from study.config.trial import Trial


@dataclass(frozen=True)
class Point:
    """What a sampler was asked for: values of α₀ and β for one arm."""

    arm: str
    """The arm's key."""
    number: int
    """In the arm, from 0, in the order in which they were asked."""
    alpha0: float
    beta: float | None


@dataclass(frozen=True)
class SearchState:
    """What a search has found so far: its points in the order asked, and the best one of each arm."""

    points: tuple[Point, ...] = ()
    chosen: tuple[tuple[str, int], ...] = ()
    """(arm's key, number of its best point), for the arms that have been searched to the end."""


NOTHING_FOUND = SearchState()
"""The state of a search that has not begun; all that a grid ever needs."""


@dataclass(frozen=True)
class Arm:
    """One optimizer on one workload, which is searched by itself.

    Its key stands for all that the sampler's answers depend on besides the results: the settings of its
    trials, the ranges, the sampler and its seed, the objective. Asking for more points, for other
    seeds, or for pruning leaves the points that were asked before in place.
    """

    template: Trial
    """A trial of the arm with made-up α₀, β and seed."""
    alpha0: float | Range
    beta: float | Range | None
    search: Search

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits."""
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
        """Return the point with the values that were ``drawn``, and the fixed ones."""
        values: dict[str, Any] = {
            name: drawn[name] if isinstance(value, Range) else value for name, value in self._values.items()
        }
        return Point(self.key, number, **values)

    @property
    def middle(self) -> Point:
        """A stand-in for points that are not known yet."""
        return self.point(0, {name: rate.middle for name, rate in self.space.items()})

    def trials(self, point: Point, seeds: Iterable[int]) -> list[Trial]:
        """The trials of ``point``, one per seed."""
        return [replace(self.template, alpha0=point.alpha0, beta=point.beta, seed=seed) for seed in seeds]

    def points(self, state: SearchState) -> list[Point]:
        """Those of the arm that count: the first ``search.points`` that were asked."""
        return [p for p in state.points if p.arm == self.key and p.number < self.search.points]

    def best(self, state: SearchState) -> Point | None:
        """The arm's best point; None before it has been searched to the end."""
        chosen = dict(state.chosen).get(self.key)
        return next((p for p in self.points(state) if p.number == chosen), None)
