"""A study: workloads × optimizers × α₀ × β × seeds under one budget, a grid or a search; its trials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from study.config import messages, validators, yaml_reader
from study.config.optimizer_name import OPTIMIZERS, is_dotted
from study.config.search_space import NOTHING_FOUND, Arm, SearchState
from study.config.sections import (
    Asha,
    Model,
    OptimizerSection,
    Range,
    RatesOrRange,
    Resources,
    Search,
    WorkloadSection,
    refuse,
)
from study.config.trial import Trial
from study.config.validators import DEFAULT, Granularity, Rate, Selector, ThresholdSelector

MAX_TRIALS = 100_000
"""A larger grid is refused as a slip of the pen."""

Seed = Annotated[int, BeforeValidator(validators.whole(0, 2**32 - 1))]
Threshold = Annotated[float, BeforeValidator(validators.number(-1e6))]


class Study(Model):
    """A validated study; what the file may leave out is filled in.

    Values that differ between optimizers (``beta``, ``granularity``) are mappings by optimizer name, by op,
    or ``"default"``; the most specific one counts, and an optimizer's own override before all.
    """

    name: Annotated[str, BeforeValidator(validators.study_name)]
    """A folder and an MLflow experiment."""
    description: Annotated[str, BeforeValidator(validators.sentence)] = ""
    workloads: Annotated[tuple[WorkloadSection, ...], BeforeValidator(validators.listed)]
    optimizers: Annotated[tuple[OptimizerSection, ...], BeforeValidator(validators.listed)]
    alpha0: RatesOrRange
    """Values, or with a search one value or a range; so is β."""
    beta: Annotated[dict[Selector, RatesOrRange], BeforeValidator(validators.by_default)] = Field(
        default={}, validate_default=True
    )
    seeds: Annotated[
        tuple[Seed, ...], BeforeValidator(validators.seeds), AfterValidator(validators.distinct)
    ] = (0,)
    epochs: Annotated[int | None, BeforeValidator(validators.optional(validators.whole(1, 1_000_000)))] = None
    iterations: Annotated[int | None, BeforeValidator(validators.optional(validators.whole(1, 10**9)))] = (
        Field(default=None, validate_default=True)
    )
    batch_size: Annotated[int, BeforeValidator(validators.whole(1, 1_000_000))] = 128
    drop_last: Annotated[bool, BeforeValidator(validators.yes_or_no)] = False
    """Leave out the last batch of an epoch where it is smaller than the others."""
    weight_decay: Rate = 1e-4
    granularity: Annotated[dict[Selector, Granularity], BeforeValidator(validators.by_default)] = Field(
        default={}, validate_default=True
    )
    thresholds: Annotated[dict[str, dict[ThresholdSelector, Threshold]], Field(alias="threshold")] = Field(
        default={}
    )
    """Training loss to reach, by workload or ``"default"``, then by optimizer, op, or ``"default"``."""
    resources: Resources = Resources()
    retries: Annotated[int, BeforeValidator(validators.whole(0, 100))] = 0
    """How often a failed trial is started again."""
    checkpoint_seconds: Annotated[float, BeforeValidator(validators.number(0, 86_400))] = 30.0
    """Between two checkpoints of a trial, so that shorter ones write none."""
    pack: Annotated[int | None, BeforeValidator(validators.pack_size)] = None
    """How many trials train together at most; ``None``: as many as pays."""
    search: Search | None = None
    scheduler: Asha | None = None

    @field_validator("workloads", mode="after")
    @classmethod
    def _distinct_workloads(cls, workloads: tuple[WorkloadSection, ...]) -> tuple[WorkloadSection, ...]:
        first: dict[str, int] = {}
        refuse(
            ((i,), f"the same as workloads[{j}]; list every workload once")
            for i, workload in enumerate(workloads)
            if (j := first.setdefault(_canonical([workload.use, workload.args]), i)) != i
        )
        return workloads

    @field_validator("beta", mode="after")
    @classmethod
    def _beta_for_all(cls, beta: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        uses = info.data.get("optimizers", ())
        without = {
            u.name: None for u in uses if u.learned and not (u.beta or validators.choose(beta, u.name))
        }
        if without:
            names = ", ".join(without)
            raise ValueError(
                f"missing for {names}, to learn the learning rate; write beta: 1e-3, or one per op"
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
        selectors = [
            *validators.SELECTORS,
            *(o.name for o in info.data.get("optimizers", ()) if is_dotted(o.name)),
        ]
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

    @model_validator(mode="after")
    def _whole_grid(self) -> Study:
        refuse(_search_problems(self))
        if self.search is None:
            per_seed = sum(len(self._alphas(o)) * len(self._betas(o)) for o in self.optimizers)
            count = len(self.workloads) * per_seed * len(self.seeds)
        else:
            per_arm = self.search.points * len(self.search.seeds) + len(self.seeds)
            count = len(self.workloads) * len(self.optimizers) * per_arm
        if count > MAX_TRIALS:
            what = "grid" if self.search is None else "search"
            raise ValueError(f"the {what} has {count:,} trials; at most {MAX_TRIALS:,} make a study")
        refuse([*self._repeated(), *self._mistaken(), *self._all_warmup()])
        return self

    def _repeated(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Optimizers with a trial that an earlier one has too."""
        first: dict[object, int] = {}
        for i, use in enumerate(self.optimizers):
            granularity = self._granularity(use) if use.learned else None
            settings = (use.name, granularity, _canonical([use.args, use.schedule]))
            others = {
                first.setdefault((*settings, alpha0, beta), i)
                for alpha0 in self._alphas(use)
                for beta in self._betas(use)
            }
            if other := [j for j in sorted(others) if j != i]:
                yield ("optimizers", i), f"repeats trials of optimizers[{other[0]}]; list every one once"

    def _mistaken(self) -> Iterator[tuple[tuple[str, int], str]]:
        """Optimizers that tables and figures would take for another."""
        first: dict[str, OptimizerSection] = {}
        for i, use in enumerate(self.optimizers):
            other = first.setdefault(use.shown_as, use)
            taken = (other.name, other.schedule) != (use.name, use.schedule)
            if taken or (use.shown_as in OPTIMIZERS and use.shown_as != use.name):
                known = f"{use.shown_as}, which is another optimizer's name"
                yield ("optimizers", i), f"would be shown as {known}; give it a label"

    def _all_warmup(self) -> Iterator[tuple[tuple[str, int, str], str]]:
        """Schedules whose warm-up does not end."""
        budget, unit = (self.epochs, "epochs") if self.epochs else (self.iterations or 0, "iterations")
        for i, use in enumerate(self.optimizers):
            if use.schedule and use.schedule.get("warmup", 0) >= budget:
                yield (
                    ("optimizers", i, "schedule"),
                    f"warmup takes all {budget} {unit} of the budget; write fewer",
                )

    def _alphas(self, use: OptimizerSection) -> tuple[float | Range, ...]:
        return _several(use.alpha0 or self.alpha0)

    def _betas(self, use: OptimizerSection) -> tuple[float | Range | None, ...]:
        if not use.learned:
            return (None,)
        return _several(use.beta or validators.choose(self.beta, use.name) or ())

    def _granularity(self, use: OptimizerSection) -> str:
        return use.granularity or str(validators.choose(self.granularity, use.name))

    def trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the study's trials.

        Of a grid all of them, by workload, optimizer, α₀, β, seed, each in the order of the file. Of a search
        those that ``state`` knows: of each workload and optimizer the trials of its points as asked,
        by search seed; then, once there is a best point, its trials on the study's seeds.

        Args:
            state: what the search has found so far; a grid does not look at it.
        """
        if self.search is None:
            return [
                self._trial(workload, use, alpha0, beta, seed)
                for workload in self.workloads
                for use in self.optimizers
                for alpha0 in self._alphas(use)
                for beta in self._betas(use)
                for seed in self.seeds
            ]
        trials: dict[Trial, None] = {}
        for arm in self.arms():
            for point in arm.points(state):
                trials |= dict.fromkeys(arm.trials(point, self.search.seeds))
            if best := arm.best(state):
                trials |= dict.fromkeys(arm.trials(best, self.seeds))
        return list(trials)

    def reported(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the trials that conclusions are drawn from: of a grid all, of a search the best points'.

        As long as no arm of a search has been searched to the end, they are all that it has tried.
        """
        known = self.trials(state)
        return [trial for trial in known if not self.is_search_trial(trial)] or known

    def is_search_trial(self, trial: Trial) -> bool:
        """Whether the trial only helps to choose a point."""
        return self.search is not None and trial.seed in self.search.seeds

    def placeholder_trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return stand-ins, with made-up α₀ and β, for the trials that a search has yet to find."""
        trials = []
        for arm in self.arms():
            points = arm.points(state)
            for _ in range(arm.search.points - len(points)):
                trials += arm.trials(arm.middle, arm.search.seeds)
            if arm.best(state) is None:
                trials += arm.trials(arm.middle, self.seeds)
        return trials

    def planned_trials(self, state: SearchState = NOTHING_FOUND) -> list[Trial]:
        """Return the known trials and stand-ins for those ahead, to count and cost the whole study."""
        return [*self.trials(state), *self.placeholder_trials(state)]

    def arms(self) -> list[Arm]:
        """What a search searches, by workload and optimizer in the order of the file; empty for a grid."""
        if self.search is None:
            return []
        return [
            Arm(self._trial(workload, use, 0.0, 0.0, 0), alpha0, beta, self.search)
            for workload in self.workloads
            for use in self.optimizers
            for alpha0 in self._alphas(use)
            for beta in self._betas(use)
        ]

    def _trial(
        self,
        workload: WorkloadSection,
        use: OptimizerSection,
        alpha0: float | Range,
        beta: float | Range | None,
        seed: int,
    ) -> Trial:
        assert not isinstance(alpha0, Range)
        assert not isinstance(beta, Range)
        return Trial(
            workload=workload.use,
            optimizer=use.name,
            alpha0=alpha0,
            beta=beta,
            seed=seed,
            epochs=self.epochs,
            iterations=self.iterations,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            granularity=self._granularity(use),
            workload_args=workload.args,
            optimizer_args=use.args,
            schedule=use.schedule,
            drop_last=self.drop_last,
            label=use.shown_as,
        )

    def search_settings(self) -> dict[str, str]:
        """What the search is, as text by name; empty for a grid."""
        if self.search is None:
            return {}
        content = self._content()
        settings = {f"search.{name}": value for name, value in self.search.model_dump(mode="json").items()}
        settings |= {f"search.{name}": content[name] for name in ("alpha0", "beta") if content[name]}
        if self.scheduler is not None:
            settings["search.scheduler"] = self.scheduler.model_dump()
        return {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()
        }

    def threshold(self, trial: Trial) -> float | None:
        """The training loss that the trial is timed to; ``None`` if the study sets none for it."""
        for workload in (trial.workload, DEFAULT):
            value = validators.choose(self.thresholds.get(workload, {}), trial.optimizer)
            if value is not None:
                return float(value)
        return None

    def to_yaml(self) -> str:
        """The study with all that was left out filled in, as a file that loads to an equal study."""
        content = self._content()
        return yaml_reader.dump({key: value for key, value in content.items() if value not in (None, {})})

    def _content(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "description": self.description,
            "workloads": [{"use": w.use, **w.args} if w.args else w.use for w in self.workloads],
            "optimizers": [_plain(o) for o in self.optimizers],
            "alpha0": _listed(self.alpha0),
            "beta": _compact({name: _listed(betas) for name, betas in self.beta.items()}),
            "seeds": list(self.seeds),
            "epochs": self.epochs,
            "iterations": self.iterations,
            "batch_size": self.batch_size,
            "drop_last": self.drop_last or None,
            "weight_decay": self.weight_decay,
            "granularity": _compact(self.granularity),
            "threshold": _compact({name: _compact(values) for name, values in self.thresholds.items()}),
            "resources": self.resources.model_dump(),
            "retries": self.retries,
            "checkpoint_seconds": self.checkpoint_seconds,
            "pack": self.pack,
            "search": self.search and self.search.model_dump(mode="json"),
            "scheduler": self.scheduler and self.scheduler.model_dump(),
        }


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _plain(use: OptimizerSection) -> object:
    entry = use.model_dump(mode="json", exclude_none=True)
    if not use.args:
        del entry["args"]
    return use.name if len(entry) == 1 else entry


def _several(rates: tuple[float, ...] | Range) -> tuple[float | Range, ...]:
    return (rates,) if isinstance(rates, Range) else rates


def _listed(rates: tuple[float, ...] | Range) -> object:
    return rates.model_dump() if isinstance(rates, Range) else list(rates)


def _compact(values: dict[str, Any]) -> Any:
    return values[DEFAULT] if list(values) == [DEFAULT] else values


def _search_problems(study: Study) -> Iterator[tuple[tuple[str | int, ...], str]]:
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


def _searched(study: Study, use: OptimizerSection) -> Iterator[_Rates]:
    yield use.alpha0 or study.alpha0
    if use.learned:
        yield use.beta or validators.choose(study.beta, use.name)
