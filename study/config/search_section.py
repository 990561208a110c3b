"""The parts of a study file that say how to search: the search, and the scheduler that stops points."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt, field_validator, model_validator

from study.config import validators
from study.config.sections import Model
from study.config.validators import Arguments, Seeds

SAMPLERS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "random": "RandomSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
}
"""Samplers: their names in study files, and their classes in ``optuna.samplers``."""


OBJECTIVES = (
    "best_val_loss",
    "best_val_accuracy",
    "final_val_loss",
    "final_train_loss",
    "iterations_to_threshold",
)
"""Measures that a search can optimise; ``study.analysis.objective`` says how each scores a point."""


FIRST_SEED = 1000
"""First of a search's seeds if only their number is given, far from a study's own 0, 1, …"""


class Search(Model):
    """The search of a study: ``optuna``, a sampler's name, or a mapping with these keys."""

    sampler: Annotated[str, BeforeValidator(validators.one_of("a sampler", SAMPLERS))] = "tpe"
    args: Arguments = Field({})
    """Further arguments of the sampler's constructor."""
    points: Annotated[StrictInt, Field(ge=1, le=10_000)] = 20
    """Points per arm: per optimizer and workload."""
    seed: Annotated[StrictInt, Field(ge=0, le=2**31 - 1)] = 0
    """The sampler's seed."""
    seeds: Annotated[Seeds, BeforeValidator(validators.seeds_from(FIRST_SEED))] = (
        FIRST_SEED,
        FIRST_SEED + 1,
    )
    """The seeds on which every point is trained: a count, or a list; none of them is one of the study's."""
    objective: Annotated[str, BeforeValidator(validators.one_of("an objective", OBJECTIVES))] = (
        "best_val_loss"
    )
    parallel: Annotated[StrictInt, Field(ge=1, le=1_000)] = 1
    """Number of an arm's points that are asked for together, before any of them has a result."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        known = validators.one_of("a search or a sampler", ("optuna", *SAMPLERS))(value)
        return {} if known == "optuna" else {"sampler": known}

    @field_validator("args", mode="after")
    @classmethod
    def _not_the_seed(cls, args: dict[str, Any]) -> dict[str, Any]:
        if "seed" in args:
            raise ValueError("the sampler's seed is not an argument here; set it by search.seed")
        return args


class Asha(Model):
    """Asynchronous successive halving (ASHA): ``asha``, or a mapping with these keys.

    After ``grace`` epochs, then ``reduction`` times as many, and so on, it stops a point on all its seeds
    unless the point is among the best 1 / ``reduction`` of its arm so far.

    Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning,
    https://arxiv.org/abs/1810.05934
    """

    name: Annotated[str, BeforeValidator(validators.one_of("a scheduler", ("asha",)))] = "asha"
    grace: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 1
    reduction: Annotated[StrictInt, Field(ge=2, le=100)] = 3

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value
