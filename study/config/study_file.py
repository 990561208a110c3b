"""The keys of a study file: their types and defaults, and how to write the file again."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from study.config import messages, sections, validators, yaml_reader
from study.config.optimizer_name import ADDITIVE, is_dotted
from study.config.search_section import Asha, Search
from study.config.sections import OptimizerSection, Range, RatesOrRange, WorkloadSection, refuse
from study.config.trial import FLOAT32, PRECISIONS
from study.config.validators import DEFAULT, Number, PerOptimizer, Several

Threshold = Annotated[Number, Field(ge=-1e6, le=1e6)]


class StudyFile(sections.Model):
    """The contents of a study file, with every default filled in.

    Values that differ between optimizers (``beta``, ``granularity``) are mappings by optimizer name, by op,
    or ``"default"``. The most specific entry counts; an optimizer's own value comes before all.
    """

    name: Annotated[StrictStr, AfterValidator(validators.study_name)]
    """The name of the study's folder and of its MLflow experiment."""
    description: Annotated[StrictStr, AfterValidator(validators.sentence)] = ""
    workloads: Several[WorkloadSection]
    optimizers: Several[OptimizerSection]
    alpha0: RatesOrRange
    """Values; with a search, one value or a range. The same holds for β."""
    beta: PerOptimizer[RatesOrRange] = Field({}, validate_default=True)
    seeds: Annotated[validators.Seeds, BeforeValidator(validators.seeds_from(0))] = (0,)
    epochs: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    iterations: Annotated[StrictInt, Field(ge=1, le=10**9)] | None = Field(None, validate_default=True)
    batch_size: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 128
    drop_last: StrictBool = False
    """Whether to leave out the last batch of an epoch if it is smaller than the others."""
    precision: Annotated[str, BeforeValidator(validators.one_of("a precision", PRECISIONS))] = FLOAT32
    """How the models compute. Parameters, α, h and the loss are always float32."""
    weight_decay: validators.Rate = 1e-4
    granularity: PerOptimizer[validators.Granularity] = Field({}, validate_default=True)
    thresholds: dict[str, dict[validators.ThresholdSelector, Threshold]] = Field({}, alias="threshold")
    """Training loss to reach, by workload or ``"default"``, then by optimizer, op, or ``"default"``."""
    resources: sections.Resources = sections.Resources()
    retries: Annotated[StrictInt, Field(ge=0, le=100)] = 0
    """Number of times that a failed trial starts again."""
    checkpoint_seconds: Annotated[Number, Field(ge=0, le=86_400)] = 30.0
    """Seconds between two checkpoints of a trial; a shorter trial writes none."""
    pack: Annotated[
        Annotated[StrictInt, Field(ge=1, le=100_000)] | None, BeforeValidator(validators.pack_size)
    ] = None
    """The largest number of trials that train together. ``None``: the fastest number."""
    budget: sections.Budget | None = None
    untuned: sections.Untuned | None = None
    search: Search | None = None
    scheduler: Asha | None = None

    @field_validator("workloads", mode="after")
    @classmethod
    def _distinct_workloads(cls, workloads: tuple[WorkloadSection, ...]) -> tuple[WorkloadSection, ...]:
        first: dict[str, int] = {}
        refuse(
            ((i,), f"the same as workloads[{j}]; list every workload once")
            for i, workload in enumerate(workloads)
            if (j := first.setdefault(canonical([workload.use, workload.args]), i)) != i
        )
        return workloads

    @field_validator("beta", mode="after")
    @classmethod
    def _beta_for_all(cls, beta: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        learned = [o for o in info.data.get("optimizers", ()) if o.learned and not o.beta]
        of_study = [o for o in learned if o.rule_or_default == ADDITIVE]
        without = {o.name: None for o in of_study if not validators.choose(beta, o.name)}
        if without:
            names = ", ".join(without)
            raise ValueError(
                f"missing for {names}, to learn the learning rate; write beta: 1e-3, or one per op"
            )
        unknown = [o for o in learned if o not in of_study and o.shown_name.default_beta is None]
        if unknown:
            names = ", ".join(dict.fromkeys(str(o.shown_name) for o in unknown))
            raise ValueError(
                f"missing for {names}, whose β depends on the unit of the loss; "
                "write it in the optimizer's entry"
            )
        if beta and learned and not of_study:
            raise ValueError(
                "has no effect: it is for rule additive, which no optimizer here has; "
                "write it in the optimizers' entries"
            )
        return beta

    @field_validator("granularity", mode="after")
    @classmethod
    def _granularity_for_all(cls, granularity: dict[str, str]) -> dict[str, str]:
        return {DEFAULT: "group"} | granularity

    @field_validator("iterations", mode="after")
    @classmethod
    def _one_budget(cls, iterations: int | None, info: ValidationInfo) -> int | None:
        if "epochs" in info.data and (info.data["epochs"] is None) == (iterations is None):
            both = "both epochs and iterations are" if iterations else "neither epochs nor iterations is"
            raise ValueError(f"{both} given; write exactly one of them")
        return iterations

    @field_validator("thresholds", mode="before")
    @classmethod
    def _by_workload(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, dict):
            return {DEFAULT: {DEFAULT: value}}
        thresholds: dict[str, Any] = {}
        workloads = [w.use for w in info.data.get("workloads", ())]
        dotted = [o.name for o in info.data.get("optimizers", ()) if is_dotted(o.name)]
        selectors = [*validators.SELECTORS, *dotted]
        unknown = []
        for name, entry in value.items():
            if name in workloads or (name == DEFAULT and isinstance(entry, dict)):
                thresholds[name] = thresholds.get(name, {}) | validators.by_default(entry)
            elif name in selectors:
                thresholds[DEFAULT] = thresholds.get(DEFAULT, {}) | {name: entry}
            elif "workloads" in info.data:
                hint = messages.suggest(name, [*workloads, *selectors])
                unknown.append(((name,), f"neither an optimizer nor a workload of this study; {hint}"))
        refuse(unknown)
        return {name: entry for name, entry in thresholds.items() if entry}

    def alpha0s(self, optimizer: OptimizerSection) -> tuple[float | Range, ...]:
        """Return the α₀ of one of the optimizers."""
        return _several(optimizer.alpha0 or self.alpha0)

    def betas(self, optimizer: OptimizerSection) -> tuple[float | Range | None, ...]:
        """Return the β of one of the optimizers: one ``None`` if it does not learn α."""
        if not optimizer.learned:
            return (None,)
        if not optimizer.beta and optimizer.rule_or_default != ADDITIVE:
            return (optimizer.shown_name.default_beta,)
        return _several(optimizer.beta or validators.choose(self.beta, optimizer.name) or ())

    def granularity_of(self, optimizer: OptimizerSection) -> str:
        """Return the granularity of one of the optimizers."""
        return optimizer.granularity or str(validators.choose(self.granularity, optimizer.name))

    def threshold_of(self, workload: str, optimizer: str) -> float | None:
        """Return the threshold of the training loss; ``None`` if the study sets none."""
        for name in (workload, DEFAULT):
            value = validators.choose(self.thresholds.get(name, {}), optimizer)
            if value is not None:
                return float(value)
        return None

    def to_yaml(self) -> str:
        """Return the study as a file that loads to an equal study, with every default filled in."""
        content = self.model_dump(mode="json", by_alias=True)
        return yaml_reader.dump({key: value for key, value in content.items() if value not in (None, {})})

    def search_settings(self) -> dict[str, str]:
        """Return the settings of the search as text by name; empty for a grid."""
        if self.search is None:
            return {}
        content = self.model_dump(mode="json", by_alias=True)
        rest = {name: content[name] for name in ("alpha0", "beta", "scheduler") if content[name]}
        return {
            f"search.{name}": value if isinstance(value, str) else json.dumps(value)
            for name, value in (content["search"] | rest).items()
        }

    @field_serializer("beta", "granularity", "thresholds", mode="wrap")
    def _brief(self, values: dict[str, Any], write: SerializerFunctionWrapHandler) -> Any:
        return _without_default(write(values))


def canonical(value: object) -> str:
    """Return a text that is equal for equal settings, for any order of their keys."""
    return json.dumps(value, sort_keys=True)


def _several(rates: tuple[float, ...] | Range) -> tuple[float | Range, ...]:
    return (rates,) if isinstance(rates, Range) else rates


def _without_default(values: Any) -> Any:
    """Return the one value of ``{default: value}``, here and in the mappings below."""
    if not isinstance(values, dict):
        return values
    brief = {name: _without_default(value) for name, value in values.items()}
    return brief[DEFAULT] if list(brief) == [DEFAULT] else brief
