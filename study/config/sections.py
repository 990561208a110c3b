"""The parts of a study file that are mappings themselves; those of a search are in ``search_section``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    StrictStr,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from study.config import schedules, validators
from study.config.optimizer_name import (
    ADDITIVE,
    INERT,
    MOVES_LOG_ALPHA,
    OPTIMIZERS,
    RULES,
    OptimizerName,
    is_dotted,
)
from study.config.optimizer_options import OF_VERSION_0_1, misfit
from study.config.trial import default_label
from study.config.validators import Arguments, Granularity, Number, Option, Rate, Several


class Model(BaseModel):
    """A part of a study file: immutable, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


DIGITS = 3
"""Significant digits of an α₀ or β that a sampler draws, so that names and tables can be read."""


class Range(Model):
    """Values from ``low`` to ``high``, drawn evenly in their logarithm."""

    low: Annotated[Number, Field(ge=1e-12, le=1e6)]
    high: Annotated[Number, Field(ge=1e-12, le=1e6)]

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
        """Return ``value`` rounded to ``DIGITS`` significant digits, within the range."""
        return min(max(float(f"{value:.{DIGITS - 1}e}"), self.low), self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


Rates = Annotated[Several[Rate], AfterValidator(validators.distinct)]
RatesOrRange = Annotated[
    Annotated[Rates, Tag("[rates]")] | Annotated[Range, Tag("[range]")],
    Discriminator(
        lambda value: "[range]" if isinstance(value, Range) or validators.is_range(value) else "[rates]"
    ),
]


class WorkloadSection(Model):
    """A workload and the arguments of its function: a name, or ``{use: name, argument: value, …}``."""

    use: Annotated[str, BeforeValidator(validators.workload_name)]
    args: Arguments = {}

    @model_validator(mode="before")
    @classmethod
    def _inline(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value if isinstance(value, cls) else {"use": value}
        if value.keys() == {"use", "args"} and isinstance(value["args"], dict):
            return value
        return {"args": {k: v for k, v in value.items() if k != "use"}} | (
            {"use": value["use"]} if "use" in value else {}
        )

    @model_serializer
    def _brief(self) -> str | dict[str, Any]:
        return {"use": self.use, **self.args} if self.args else self.use


class OptimizerSection(Model):
    """An optimizer and the study's values that it overrides: a name, or a mapping with these keys.

    The name is one of ``hypergrad``'s, or the dotted path of a ``torch.optim.Optimizer``. Such a class has no
    β, no rule and no granularity; ``args`` are arguments of its constructor, checked against its signature
    when the study runs. ``schedule`` (see ``schedules``) multiplies α, also a learned one. ``rule`` says
    how a lop moves α. The study's ``beta`` is for ``additive`` only, because β has a different unit with the
    other rules; an entry without ``beta`` has the rule's default. ``label`` names the optimizer in tables and
    figures. ``against`` lists further optimizers that the report compares it with, by their names in tables.
    ``default_alpha0`` is one of the α₀ that the study tries: the one that represents the optimizer without
    tuning. None of these three is part of a trial's identity.
    """

    name: Annotated[str, BeforeValidator(validators.optimizer_name)]
    rule: Annotated[str, BeforeValidator(validators.one_of("a rule", RULES))] | None = None
    granularity: Granularity | None = None
    alpha0: RatesOrRange | None = None
    beta: RatesOrRange | None = None
    schedule: Annotated[dict[str, Any], BeforeValidator(schedules.normalised)] | None = None
    label: Annotated[str, BeforeValidator(validators.label)] | None = None
    against: Several[StrictStr] | None = None
    default_alpha0: Rate | None = None
    args: dict[str, Option] = {}

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return value if isinstance(value, dict | cls) else {"name": value}

    @field_validator("args", mode="after")
    @classmethod
    def _applicable(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" in info.data:
            wrong = {name: misfit(name, value, info.data["name"]) for name, value in args.items()}
            refuse(((name,), message) for name, message in wrong.items() if message)
        return args

    @model_validator(mode="after")
    def _fitting(self) -> OptimizerSection:
        wrong = []
        if is_dotted(self.name):
            given = [name for name in ("rule", "granularity", "beta") if getattr(self, name)]
            wrong += [(name, f"{self.name} has none; leave it out") for name in given]
        if self.rule and not self.learned and not is_dotted(self.name):
            wrong.append(("rule", f"{self.name} does not learn its learning rate; leave it out"))
        if self.label and self.name in OPTIMIZERS and not self.learned and not self.schedule:
            wrong.append(("label", f"{self.name} keeps its name, because claims need it; leave it out"))
        if self.rule and (old := [name for name in OF_VERSION_0_1 if name in self.args]):
            wrong.append(("args", f"{' and '.join(old)} repeats what rule says; leave it out"))
        largest = self.beta.high if isinstance(self.beta, Range) else max(self.beta or (math.inf,))
        if self.rule in MOVES_LOG_ALPHA and 0 < largest <= INERT:
            right = self.shown_name.default_beta or 0.1
            wrong.append(("beta", f"{largest:g} hardly moves α with rule {self.rule}; try {right:g}"))
        refuse(((name,), message) for name, message in wrong)
        return self

    @model_serializer(mode="wrap")
    def _brief(self, write: SerializerFunctionWrapHandler) -> object:
        entry = {name: value for name, value in write(self).items() if value not in (None, {})}
        return entry if len(entry) > 1 else self.name

    @property
    def learned(self) -> bool:
        """Whether the optimizer learns α, and so needs a β."""
        return OptimizerName.parse(self.name).learned

    @property
    def rule_or_default(self) -> str:
        """The rule; ``additive`` if the entry names none."""
        return self.rule or ADDITIVE

    @property
    def shown_name(self) -> OptimizerName:
        """The optimizer's op, lop and rule."""
        return replace(OptimizerName.parse(self.name), rule=self.rule_or_default)

    @property
    def shown_as(self) -> str:
        """The optimizer's name in tables and figures."""
        return self.label or default_label(self.name, self.schedule, self.rule_or_default)


class Untuned(Model):
    """The claim that optimizers need no tuning, made before any curve is seen.

    ``study.analysis.untuned_claims`` judges it. Optimizers are named as tables show them.
    """

    optimizers: Several[str]
    """Optimizers claimed to be, from every α₀ of the range, as good as ``against`` at its best."""
    against: str
    """The optimizer to compare with, tuned over its α₀."""
    within: Annotated[Number, Field(ge=1, le=100)] = 1.05
    """Largest factor of the loss that counts as equally good."""
    alpha0: Range = Range(low=1e-6, high=0.1)
    """Range of the claimed α₀, of those tried."""
    rivals: Annotated[tuple[str, ...], BeforeValidator(validators.listed)] = ()
    """Optimizers claimed to be worse, at the defaults of both."""


class Resources(Model):
    """CPUs and GPUs of one trial; with fractions several trials share a device."""

    cpus: Annotated[Number, Field(ge=0, le=1024)] = 1.0
    gpus: Annotated[Number, Field(ge=0, le=64, validate_default=True)] = 0.0

    @field_validator("gpus", mode="after")
    @classmethod
    def _possible(cls, gpus: float, info: ValidationInfo) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs are not possible; write a fraction of one, or a whole number")
        if gpus == 0 and info.data.get("cpus") == 0:
            raise ValueError("a trial needs a CPU or a GPU; write cpus: 1")
        return gpus


class Budget(Model):
    """The budget of one run of the study: a number of hours, or a mapping with this key."""

    hours: Annotated[Number, Field(gt=0, le=87_600)]
    """Hours of wall-clock time after which the run ends, with its report; a later run resumes it."""

    @model_validator(mode="before")
    @classmethod
    def _by_hours(cls, value: object) -> object:
        return value if isinstance(value, dict | cls) else {"hours": value}


def refuse(problems: Iterable[tuple[tuple[int | str, ...], str]]) -> None:
    """Raise all problems together, each at its place below the value under validation, if there are any."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("study", "{message}", {"message": message}), loc=loc, input=None
        )
        for loc, message in problems
    ]
    if details:
        raise ValidationError.from_exception_data("Study", details)
