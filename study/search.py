"""A search: what a study file may ask for instead of a grid, and the points that come of it. Pure.

Every optimizer on every workload is searched by itself, an *arm*, with the same number of *points*: values of
α₀ and β, asked of a sampler one after the other. A point is trained on each of the search's seeds and worth
the median of the objective over them. The best point of each arm is then trained on the study's seeds, which
are others; only those trials are reported, so that what was chosen is not flattered by what it was chosen on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from study import fields
from study.trial import Trial

if TYPE_CHECKING:
    from study.grid import Study
    from study.uses import OptimizerUse

SAMPLERS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "random": "RandomSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
}
"""Samplers by the names that study files use, and their classes in ``optuna.samplers``."""

OBJECTIVES = (
    "best_val_loss",
    "best_val_accuracy",
    "final_val_loss",
    "final_train_loss",
    "iterations_to_threshold",
)
"""Measures that a search can be after; see ``study.objective`` for what a point is worth by each."""

FIRST_SEED = 1000
"""A count of n search seeds means the n from here on, away from a study's own 0, 1, …"""

DIGITS = 3
"""Significant digits of an α₀ or β that a sampler draws, so that names and tables can be read."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Range(_Model):
    """Values from ``low`` to ``high``, drawn evenly in their logarithm."""

    low: Annotated[float, BeforeValidator(fields.number(1e-12))]
    high: Annotated[float, BeforeValidator(fields.number(1e-12))]

    @field_validator("high", mode="after")
    @classmethod
    def _above(cls, high: float, info: ValidationInfo) -> float:
        if high <= info.data.get("low", 0.0):
            raise ValueError(f"{high:g} is not above low; write a larger number, or one value for both")
        return high

    @property
    def middle(self) -> float:
        """The geometric mean of the ends."""
        return math.sqrt(self.low * self.high)

    def round(self, value: float) -> float:
        """``value`` to :data:`DIGITS` significant digits, and not outside the range for it."""
        return min(max(float(f"{value:.{DIGITS - 1}e}"), self.low), self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Search(_Model):
    """How a study is searched: ``optuna``, a sampler's name, or a mapping with these keys."""

    sampler: Annotated[str, BeforeValidator(fields.one_of("a sampler", SAMPLERS))] = "tpe"
    args: dict[
        Annotated[str, BeforeValidator(fields.argument_name)], Annotated[Any, BeforeValidator(fields.scalar)]
    ] = {}
    """Further arguments of the sampler's class."""
    points: Annotated[int, BeforeValidator(fields.whole(1, 10_000))] = 20
    """Per optimizer and workload."""
    seed: Annotated[int, BeforeValidator(fields.whole(0, 2**31 - 1))] = 0
    """Of the sampler."""
    seeds: Annotated[
        tuple[Annotated[int, BeforeValidator(fields.whole(0, 2**32 - 1))], ...],
        BeforeValidator(fields.seeds_from(FIRST_SEED)),
        AfterValidator(fields.distinct),
    ] = Field(default=2, validate_default=True)
    """On which every point is trained; a count, or a list. None of them is one of the study's."""
    objective: Annotated[str, BeforeValidator(fields.one_of("an objective", OBJECTIVES))] = "best_val_loss"
    parallel: Annotated[int, BeforeValidator(fields.whole(1, 1_000))] = 1
    """Points of one arm that are asked before the results of any of them are in."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        known = fields.one_of("a search or a sampler", ("optuna", *SAMPLERS))(value)
        return {} if known == "optuna" else {"sampler": known}

    @field_validator("args", mode="after")
    @classmethod
    def _not_the_seed(cls, args: dict[str, Any]) -> dict[str, Any]:
        if "seed" in args:
            raise ValueError("the sampler's seed is not an argument here; set it by search.seed")
        return args


class Asha(_Model):
    """Successive halving without waiting (ASHA, Li et al. 2020): ``asha``, or a mapping with these keys.

    After ``grace`` epochs, and ``reduction`` times as many, and so on, a point that is not among the best
    1 / ``reduction`` of its own arm so far is stopped on all its seeds.
    """

    name: Annotated[str, BeforeValidator(fields.one_of("a scheduler", ("asha",)))] = "asha"
    grace: Annotated[int, BeforeValidator(fields.whole(1, 1_000_000))] = 1
    reduction: Annotated[int, BeforeValidator(fields.whole(2, 100))] = 3

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


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
class Found:
    """What a search has found so far: its points in the order asked, and the best one of each arm."""

    points: tuple[Point, ...] = ()
    chosen: tuple[tuple[str, int], ...] = ()
    """(arm's key, number of its best point), for the arms that have been searched to the end."""


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
        fixed = [value.model_dump() if isinstance(value, Range) else value for value in self._rates]
        search = [self.search.sampler, self.search.args, self.search.seed, self.search.objective]
        return sha256(json.dumps([1, settings, fixed, search], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _rates(self) -> tuple[float | Range | None, float | Range | None]:
        return self.alpha0, self.beta

    @property
    def space(self) -> dict[str, Range]:
        """What is searched, by name: ``alpha0``, ``beta``, or both."""
        rates = zip(("alpha0", "beta"), self._rates, strict=True)
        return {name: rate for name, rate in rates if isinstance(rate, Range)}

    def point(self, number: int, drawn: dict[str, float]) -> Point:
        """The point with the values that were ``drawn``, and the fixed ones."""
        alpha0, beta = (
            drawn[name] if isinstance(rate, Range) else rate
            for name, rate in zip(("alpha0", "beta"), self._rates, strict=True)
        )
        assert alpha0 is not None
        return Point(self.key, number, alpha0, beta)

    @property
    def middle(self) -> Point:
        """A stand-in for points that are not known yet."""
        return self.point(0, {name: rate.middle for name, rate in self.space.items()})

    def trials(self, point: Point, seeds: Iterable[int]) -> list[Trial]:
        """The trials of ``point``, one per seed."""
        return [replace(self.template, alpha0=point.alpha0, beta=point.beta, seed=seed) for seed in seeds]

    def points(self, found: Found) -> list[Point]:
        """Those of the arm that count: the first ``search.points`` that were asked."""
        return [p for p in found.points if p.arm == self.key and p.number < self.search.points]

    def best(self, found: Found) -> Point | None:
        """The arm's best point; None before it has been searched to the end."""
        chosen = dict(found.chosen).get(self.key)
        return next((p for p in self.points(found) if p.number == chosen), None)


def misfits(study: Study) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where a study's search, or its lack of one, does not fit the rest of the study, and why."""
    if study.search is None:
        if study.scheduler is not None:
            yield ("scheduler",), "only a search may stop trials early; write search: optuna as well"
        for place, rates in _rates(study):
            if isinstance(rates, Range):
                yield place, "a range needs a search; write search: optuna as well, or a list of values"
        return
    lists = [
        (place, f"{len(rates)} values; with a search write {{low: 1e-5, high: 1}}, or one value")
        for place, rates in _rates(study)
        if not isinstance(rates, Range) and len(rates) > 1
    ]
    yield from lists
    for i, use in enumerate(study.optimizers):
        if not lists and not any(isinstance(rate, Range) for rate in _searched(study, use)):
            yield ("optimizers", i), "nothing to search for; write a range for alpha0 or beta"
    if both := set(study.seeds) & set(study.search.seeds):
        reason = "the best points are reported on that seed, and chosen on others"
        yield ("search", "seeds"), f"{min(both)} is one of the study's seeds; {reason}"
    if study.search.objective == "iterations_to_threshold":
        for arm in study.arms():
            if study.threshold(arm.template) is None:
                where = f"{arm.template.optimizer} on {arm.template.workload}"
                yield ("search", "objective"), f"there is no threshold for {where}; write one under threshold"
                return


_Rates = tuple[float, ...] | Range


def _rates(study: Study) -> Iterator[tuple[tuple[str | int, ...], _Rates]]:
    """All α₀ and β of a study file, and their places."""
    yield ("alpha0",), study.alpha0
    for name, rates in study.beta.items():
        yield ("beta", name), rates
    for i, use in enumerate(study.optimizers):
        for name, own in (("alpha0", use.alpha0), ("beta", use.beta)):
            if own is not None:
                yield ("optimizers", i, name), own


def _searched(study: Study, use: OptimizerUse) -> Iterator[_Rates]:
    yield use.alpha0 or study.alpha0
    if use.learned:
        yield use.beta or fields.choose(study.beta, use.name)
