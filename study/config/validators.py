"""The kinds of values in a study file: each normalised, checked, and refused in one plain sentence.

Every check raises ``ValueError("what is wrong; what would be right")``, which pydantic carries to its place.
Booleans never pass as numbers, nor text as anything but text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from typing import Annotated, Any

from pydantic import BeforeValidator

from study.config import schedules
from study.config.catalogue import CATALOGUE
from study.config.messages import show, suggest
from study.config.optimizer_name import OPS, OPTIMIZERS, OptimizerName, is_dotted
from study.config.trial import GRANULARITIES

DEFAULT = "default"
"""The key of a mapping per optimizer or per workload that stands for all that it does not name."""
MAX_ENTRIES = 1_000
MAX_SEEDS = 10_000

LEARNED = tuple(name for name in OPTIMIZERS if OptimizerName.parse(name).learned)

SELECTORS = (*OPS, *LEARNED, DEFAULT)


def number(low: float = 0.0, high: float = 1e6) -> Callable[[object], float]:
    """A check for a finite number in [low, high]."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{show(value)} is not a number; write one such as 0.001 or 1e-7")
        if not math.isfinite(value):
            raise ValueError(f"{show(value)} is not finite; write a number such as 0.001 or 1e-7")
        if low == 0 > value:
            raise ValueError(f"{show(value)} is negative; write 0 or more")
        if not low <= value <= high:
            raise ValueError(f"{show(value)} is out of range; write a number from {low:g} to {high:g}")
        return float(value) + 0.0  # + 0.0 turns −0.0 into 0.0

    return check


def whole(low: int, high: int) -> Callable[[object], int]:
    """A check for a whole number in [low, high]; 1.0 is none."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{show(value)} is not a whole number; write one from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"{show(value)} is out of range; write a whole number from {low} to {high}")
        return value

    return check


def optional(check: Callable[[object], Any]) -> Callable[[object], Any]:
    """The check, but for ``None``, which passes."""
    return lambda value: None if value is None else check(value)


def yes_or_no(value: object) -> bool:
    """True or false, and nothing that is only taken for it."""
    if not isinstance(value, bool):
        raise ValueError(f"{show(value)} is neither true nor false; write one of the two")
    return value


def pack_size(value: object) -> int | None:
    """How many trials train together at most; ``None`` for ``auto``."""
    if value is None or value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{show(value)} is no number of trials; write auto, a whole number, or 1 for none")
    return whole(1, 100_000)(value)


def listed(value: object) -> list[Any] | tuple[Any, ...]:
    """One or several: a scalar or mapping becomes a list of one. An empty list is refused."""
    if value is None:
        raise ValueError("nothing is given; write a value or a list")
    if value in ([], ()):
        raise ValueError("an empty list leaves nothing to run; write at least one value")
    if not isinstance(value, list | tuple):
        return [value]
    if len(value) > MAX_ENTRIES:
        raise ValueError(f"{len(value)} entries; at most {MAX_ENTRIES} fit")
    return value


def seeds_from(first: int) -> Callable[[object], list[Any] | tuple[Any, ...]]:
    """A check for a count n, which becomes first … first + n − 1, or the list of seeds itself."""

    def check(value: object) -> list[Any] | tuple[Any, ...]:
        if isinstance(value, list | tuple):
            if not value:
                raise ValueError("an empty list leaves nothing to run; write a count such as 3, or [0, 7]")
            if len(value) > MAX_SEEDS:
                raise ValueError(f"{len(value)} seeds; at most {MAX_SEEDS} fit")
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(
                f"{show(value)} is not a count of seeds; write one such as 3, or a list such as [0, 7]"
            )
        return list(range(first, first + whole(1, MAX_SEEDS)(value)))

    return check


seeds = seeds_from(0)


def distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuses a value that is listed twice."""
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{show(value)} is listed twice; list every value once")
        seen.add(value)
    return values


def is_study_name(text: str) -> bool:
    """Whether ``text`` can name a study and its folder."""
    return bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", text)) and ".." not in text


def study_name(value: object) -> str:
    """A name that is safe as a folder's."""
    if not isinstance(value, str):
        raise ValueError(
            f"{show(value)} is not text; write a name such as my-study, in quotes if it is a number"
        )
    if not is_study_name(value):
        raise ValueError(
            f"{show(value)} is no name for a folder; "
            "use up to 100 letters, digits, '.', '_', '-', beginning with a letter or digit, without '..'"
        )
    return value


def sentence(value: object) -> str:
    """One line of text."""
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text; write one line, in quotes")
    if len(value) > 1000 or not value.isprintable():
        raise ValueError("longer than one line; write at most 1000 characters without line breaks")
    return value


def workload_name(value: object) -> str:
    """A name of the catalogue or ``module:function``, which is not imported here."""
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not the name of a workload; known are {', '.join(CATALOGUE)}")
    module, colon, function = value.partition(":")
    if colon:
        if len(value) > 200 or not all(part.isidentifier() for part in [*module.split("."), function]):
            raise ValueError(
                f"{show(value)} is not of the form module:function; write e.g. mypkg.tasks:my_task"
            )
    elif value not in CATALOGUE:
        raise ValueError(
            f"{show(value)} is not a workload; {suggest(value, CATALOGUE)} (your own is module:function)"
        )
    return value


def optimizer_name(value: object) -> str:
    """An op, an op and a lop, or the dotted path of a class, which is not imported here."""
    if not isinstance(value, str) or not (value in OPTIMIZERS or is_dotted(value)):
        hint = (
            suggest(value.replace("_", "-"), OPTIMIZERS)
            if isinstance(value, str)
            else suggest("", OPTIMIZERS)
        )
        raise ValueError(
            f"{show(value)} is not an optimizer; {hint} (any other class by its path, torch.optim.AdamW)"
        )
    return value


def schedule(value: object) -> dict[str, Any]:
    """A schedule's name, or a mapping with its name and options; see :mod:`study.config.schedules`."""
    return schedules.normalised(value)


def label(value: object) -> str:
    """What an optimizer is called in tables and figures."""
    if not isinstance(value, str) or not re.fullmatch(r"\w[\w .+()=/-]{0,39}", value):
        raise ValueError(
            f"{show(value)} is no label; write up to 40 letters, digits, spaces and any of _ . + - ( ) = /, "
            "beginning with a letter or digit"
        )
    return value


def one_of(what: str, known: Collection[str]) -> Callable[[object], str]:
    """A check for one of the ``known`` words; ``what`` one is called, with its article."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in known:
            hint = suggest(value if isinstance(value, str) else "", known)
            raise ValueError(f"{show(value)} is not {what}; {hint}")
        return value

    return check


granularity_name = one_of("a granularity", GRANULARITIES)


def scalar(value: object) -> bool | int | float | str:
    """A workload's argument."""
    if not isinstance(value, bool | int | float | str) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        raise ValueError(f"{show(value)} cannot be an argument; write text, a finite number, true or false")
    return value


def option(value: object) -> Any:
    """An optimizer's argument: a number, text, true or false, or a short list of numbers."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 200 and value.isprintable():
        return value
    if isinstance(value, list | tuple):
        if not 1 <= len(value) <= 10:
            raise ValueError(f"a list of {len(value)}; write a short one such as [0.9, 0.999]")
        return tuple(number(-1e6)(v) for v in value)
    return number(-1e6)(value)


def argument_name(value: object) -> str:
    """The name of an argument of a workload's function."""
    if not isinstance(value, str) or not value.isidentifier():
        raise ValueError(f"{show(value)} is not the name of an argument; use letters, digits and '_'")
    return value


def by_default(value: object) -> dict[Any, Any]:
    """One value for all, which a range is too, becomes ``{default: value}``."""
    if isinstance(value, dict) and not is_range(value):
        return value
    return {DEFAULT: value}


def is_range(value: object) -> bool:
    """Whether a value is meant as a range ``{low: …, high: …}``."""
    return isinstance(value, dict) and bool(value.keys() & {"low", "high"})


def selector(value: object) -> str:
    """A key of a mapping per optimizer: an op, a learned optimizer, or ``default``."""
    if not isinstance(value, str) or value not in SELECTORS:
        raise ValueError(f"not an op or a learned optimizer; {suggest(str(value), SELECTORS)}")
    return value


def threshold_selector(value: object) -> str:
    """As :func:`selector`, or the dotted path of an optimizer."""
    return value if isinstance(value, str) and is_dotted(value) else selector(value)


def choose(values: dict[str, Any], optimizer: str) -> Any:
    """The most specific value for an optimizer: by its name, by its op, the default, or ``None``."""
    for name in (optimizer, OptimizerName.parse(optimizer).op, DEFAULT):
        if name in values:
            return values[name]
    return None


Rate = Annotated[float, BeforeValidator(number())]
Granularity = Annotated[str, BeforeValidator(granularity_name)]
Selector = Annotated[str, BeforeValidator(selector)]
ThresholdSelector = Annotated[str, BeforeValidator(threshold_selector)]
