"""Types of the values in a study file, and checks that normalise a value or refuse it in one sentence.

pydantic checks numbers; ``loader`` words its errors. The checks here raise
``ValueError("what is wrong; what would be right")``, to which pydantic adds the place. A boolean never passes
as a number, nor a number as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StrictBool, StrictInt, Tag
from pydantic.types import Strict

from study.config.catalogue import CATALOGUE
from study.config.messages import show, suggest
from study.config.optimizer_name import OPS, OPTIMIZERS, OptimizerName, is_dotted
from study.config.trial import GRANULARITIES

DEFAULT = "default"
"""In a mapping by optimizer or workload, the key for all those that it does not name."""
TAGS = ("[key]", "[rates]", "[range]", "[bool]", "[text]", "[list]", "[number]")
"""Parts of pydantic's place of an error that are neither keys nor indices of the file."""
MAX_SEEDS = 10_000

SELECTORS = (*OPS, *(name for name in OPTIMIZERS if OptimizerName.parse(name).learned), DEFAULT)


def listed(value: object) -> object:
    """Return a list with one entry for a single value, and a list as it is."""
    return value if isinstance(value, list | tuple) else [value]


def at_most(limit: int) -> AfterValidator:
    """Return a check that a list has 1 to ``limit`` values."""

    def check(values: tuple[Any, ...]) -> tuple[Any, ...]:
        if not values:
            raise ValueError("an empty list; write at least one value")
        if len(values) > limit:
            raise ValueError(f"{len(values)} values; at most {limit} are allowed")
        return values

    return AfterValidator(check)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a value that is listed twice."""
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"{show(twice)} is listed twice; list every value once")
    return values


def seeds_from(first: int) -> Callable[[object], object]:
    """Return a function that turns a count n of seeds into first … first + n − 1, and accepts a list."""

    def seeds(value: object) -> object:
        if isinstance(value, list | tuple):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(
                f"{show(value)} is not a count of seeds; write one such as 3, or a list such as [0, 7]"
            )
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"{value} is out of range; write a whole number from 1 to {MAX_SEEDS}")
        return tuple(range(first, first + value))

    return seeds


def pack_size(value: object) -> object:
    """Return the largest number of trials per pack; ``None`` for ``auto``."""
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"{show(value)} is not a number of trials; write auto, a whole number, or 1 for none"
        )
    return value


def is_study_name(text: str) -> bool:
    """Return whether ``text`` can name a study and its folder."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text)) and ".." not in text


def study_name(value: str) -> str:
    """Check a study's name, which must be safe as the name of a folder."""
    if not is_study_name(value):
        raise ValueError(
            f"{show(value)} is not a name for a folder; "
            "use up to 100 letters, digits, '.', '_', '-', beginning with a letter or digit, without '..'"
        )
    return value


def sentence(value: str) -> str:
    """Check that text is one line."""
    if len(value) > 1000 or not value.isprintable():
        raise ValueError("longer than one line; write at most 1000 characters without line breaks")
    return value


def workload_name(value: object) -> str:
    """Check that a value is a name of the catalogue or ``module:function``; nothing is imported."""
    if isinstance(value, str) and value in CATALOGUE:
        return value
    if not isinstance(value, str) or ":" not in value:
        hint = f"{suggest(value, CATALOGUE)} (your own is module:function)"
        raise ValueError(f"{show(value)} is not a workload; {hint}")
    module, _, function = value.partition(":")
    if len(value) > 200 or not all(part.isidentifier() for part in [*module.split("."), function]):
        raise ValueError(f"{show(value)} is not of the form module:function; write e.g. mypkg.tasks:my_task")
    return value


def optimizer_name(value: object) -> str:
    """Check that a value is one of ``hypergrad``'s optimizers or a class's dotted path; imports nothing."""
    if isinstance(value, str) and (value in OPTIMIZERS or is_dotted(value)):
        return value
    hint = suggest(value.replace("_", "-") if isinstance(value, str) else value, OPTIMIZERS)
    raise ValueError(
        f"{show(value)} is not an optimizer; {hint} (any other class by its path, torch.optim.AdamW)"
    )


def label(value: object) -> str:
    """Check the name of an optimizer in tables and figures."""
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w .+()=/-]{0,39}", value):
        raise ValueError(
            f"{show(value)} is not a label; write up to 40 letters, digits, spaces and any of _ . + - ( ) = "
            "/, beginning with a letter or digit"
        )
    return value


def one_of(kind: str, known: Collection[str]) -> Callable[[object], str]:
    """Return a check for one of the ``known`` words; ``kind`` names one, with its article."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{show(value)} is not {kind}; {suggest(value, known)}")
        return value

    return check


def scalar(value: object) -> bool | int | float | str:
    """Check an argument of a workload or a sampler."""
    if not isinstance(value, bool | int | float | str) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError(f"{show(value)} cannot be an argument; write text, a finite number, true or false")
    return value


def _kind_of_option(value: object) -> str:
    if isinstance(value, str) and len(value) <= 200 and value.isprintable():
        return "[text]"
    return (
        "[bool]" if isinstance(value, bool) else "[list]" if isinstance(value, list | tuple) else "[number]"
    )


def argument_name(value: object) -> str:
    """Check the name of a function's argument."""
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError(f"{show(value)} is not the name of an argument; use letters, digits and '_'")
    return value


def by_default(value: object) -> dict[Any, Any]:
    """Return a mapping as it is, and one value for all (a range is one) as ``{default: value}``."""
    if isinstance(value, dict) and not is_range(value):
        return value
    return {DEFAULT: value}


def is_range(value: object) -> bool:
    """Return whether a value is written as a range ``{low: …, high: …}``."""
    return isinstance(value, dict) and bool(value.keys() & {"low", "high"})


def selector(value: object) -> str:
    """Check a key of a mapping per optimizer: an op, a learned optimizer, or ``default``."""
    if not isinstance(value, str) or value not in SELECTORS:
        raise ValueError(f"not an op or a learned optimizer; {suggest(value, SELECTORS)}")
    return value


def threshold_selector(value: object) -> str:
    """Check a key as ``selector`` does, but accept the dotted path of an optimizer as well."""
    return value if isinstance(value, str) and is_dotted(value) else selector(value)


def choose(values: dict[str, Any], optimizer: str) -> Any:
    """Return the most specific value for an optimizer: by its name, by its op, the default, or ``None``."""
    for name in (optimizer, OptimizerName.parse(optimizer).op, DEFAULT):
        if name in values:
            return values[name]
    return None


Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite number; a whole one becomes a float."""
_no_negative_zero = AfterValidator(lambda value: value + 0.0)
Rate = Annotated[Number, Field(ge=0, le=1e6), _no_negative_zero]
Seeds = Annotated[
    tuple[Annotated[StrictInt, Field(ge=0, le=2**32 - 1)], ...],
    at_most(MAX_SEEDS),
    AfterValidator(distinct),
]
Arguments = dict[Annotated[str, BeforeValidator(argument_name)], Annotated[Any, BeforeValidator(scalar)]]
Granularity = Annotated[str, BeforeValidator(one_of("a granularity", GRANULARITIES))]
_Bounded = Annotated[Number, Field(ge=-1e6, le=1e6), _no_negative_zero]
Option = Annotated[
    Annotated[StrictBool, Tag("[bool]")]
    | Annotated[str, Tag("[text]")]
    | Annotated[tuple[_Bounded, ...], at_most(10), Tag("[list]")]
    | Annotated[_Bounded, Tag("[number]")],
    Discriminator(_kind_of_option),
]
"""An optimizer's argument: a number, text, true or false, or a short list of numbers."""
Selector = Annotated[str, BeforeValidator(selector)]
ThresholdSelector = Annotated[str, BeforeValidator(threshold_selector)]

T = TypeVar("T")
Several = Annotated[tuple[T, ...], BeforeValidator(listed), at_most(1_000)]
"""One value or a list of them."""
PerOptimizer = Annotated[dict[Selector, T], BeforeValidator(by_default)]
"""One value for all optimizers, or a mapping."""
