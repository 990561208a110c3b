"""The parts of a study file that are mappings of their own: workloads, optimizers, resources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from study import fields
from study.fields import Granularity, Rate
from study.search import Range
from study.trial import OPTIMIZERS, default_label, is_dotted

Rates = Annotated[tuple[Rate, ...], BeforeValidator(fields.listed), AfterValidator(fields.distinct)]
RATES, RANGE = "[rates]", "[range]"
"""What pydantic puts into the place of a problem, to tell which of the two a value was taken for."""
RatesOrRange = Annotated[
    Annotated[Rates, Tag(RATES)] | Annotated[Range, Tag(RANGE)],
    Discriminator(lambda value: RANGE if isinstance(value, Range) or fields.is_range(value) else RATES),
]


class Model(BaseModel):
    """A part of a study file: immutable, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WorkloadUse(Model):
    """A workload and the arguments of its function: a name, or ``{use: name, argument: value, …}``."""

    use: Annotated[str, BeforeValidator(fields.workload_name)]
    args: dict[
        Annotated[str, BeforeValidator(fields.argument_name)],
        Annotated[Any, BeforeValidator(fields.scalar)],
    ] = {}

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


class OptimizerUse(Model):
    """An optimizer and what it overrides: a name, or a mapping with these keys.

    The name is one of the twelve, or the dotted path of a ``torch.optim.Optimizer``: that one has no β and
    no granularity, and ``args`` are any of its class's, checked against its signature when the study runs.
    ``schedule`` (see :mod:`study.schedules`) is for optimizers that do not learn α. ``label`` is what tables
    and figures call an optimizer that is not one of the report's; it is not part of a trial's identity.
    """

    name: Annotated[str, BeforeValidator(fields.optimizer_name)]
    granularity: Granularity | None = None
    alpha0: RatesOrRange | None = None
    beta: RatesOrRange | None = None
    schedule: Annotated[dict[str, Any] | None, BeforeValidator(fields.optional(fields.schedule))] = None
    label: Annotated[str | None, BeforeValidator(fields.optional(fields.label))] = None
    args: dict[str, Annotated[Any, BeforeValidator(fields.option)]] = {}

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return value if isinstance(value, dict | cls) else {"name": value}

    @field_validator("args", mode="after")
    @classmethod
    def _applicable(cls, args: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" in info.data:
            wrong = {name: fields.misfit(name, value, info.data["name"]) for name, value in args.items()}
            refuse(((name,), message) for name, message in wrong.items() if message)
        return args

    @model_validator(mode="after")
    def _fitting(self) -> OptimizerUse:
        wrong = []
        if is_dotted(self.name):
            given = [name for name in ("granularity", "beta") if getattr(self, name)]
            wrong += [(name, f"{self.name} has none; leave it out") for name in given]
        if self.learned and self.schedule:
            wrong.append(("schedule", f"{self.name} learns its learning rate; leave it out"))
        if self.label and self.name in OPTIMIZERS and not self.schedule:
            wrong.append(("label", f"{self.name} keeps its name, by which it is compared; leave it out"))
        refuse(((name,), message) for name, message in wrong)
        return self

    @property
    def learned(self) -> bool:
        """Whether the optimizer learns α, and so needs a β."""
        return "-" in self.name

    @property
    def shown_as(self) -> str:
        """What tables and figures call it."""
        return self.label or default_label(self.name, self.schedule)


class Resources(Model):
    """What one trial takes; fractions let several share a device."""

    cpus: Annotated[float, BeforeValidator(fields.number(0, 1024))] = 1.0
    gpus: Annotated[float, BeforeValidator(fields.number(0, 64))] = Field(default=0.0, validate_default=True)

    @field_validator("gpus", mode="after")
    @classmethod
    def _possible(cls, gpus: float, info: ValidationInfo) -> float:
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"{gpus:g} GPUs cannot be had; write a fraction of one, or a whole number")
        if gpus == 0 and info.data.get("cpus") == 0:
            raise ValueError("a trial without CPU or GPU; write cpus: 1")
        return gpus


def refuse(problems: Iterable[tuple[tuple[int | str, ...], str]]) -> None:
    """Raise all problems, each at its place below the value under validation; none passes."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError("study", "{message}", {"message": message}), loc=loc, input=None
        )
        for loc, message in problems
    ]
    if details:
        raise ValidationError.from_exception_data("Study", details)
