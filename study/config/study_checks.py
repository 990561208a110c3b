"""Checks of a study file that involve several of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from study.config.messages import show, suggest
from study.config.optimizer_name import MOVES_LOG_ALPHA, OPS, OPTIMIZERS, RULES, OptimizerName
from study.config.search_section import Search
from study.config.sections import OptimizerSection, Range, refuse
from study.config.study_file import StudyFile, canonical

MAX_TRIALS = 100_000
"""A larger study is refused as a probable typing error."""

Problems = Iterator[tuple[tuple[str | int, ...], str]]
"""Places of problems, and their messages: what is wrong; what would be right."""


def check(study: StudyFile) -> None:
    """Refuse a study whose parts do not fit together.

    Raises:
        ValidationError: Parts do not fit; the error has every problem with its place.
        ValueError: The study has too many trials.
    """
    refuse(_without_search(study) if study.search is None else _with_search(study, study.search))
    if study.search is None:
        per_seed = sum(len(study.alpha0s(o)) * len(study.betas(o)) for o in study.optimizers)
        count = len(study.workloads) * per_seed * len(study.seeds)
    else:
        per_arm = study.search.points * len(study.search.seeds) + len(study.seeds)
        count = len(study.workloads) * len(study.optimizers) * per_arm
    if count > MAX_TRIALS:
        kind = "grid" if study.search is None else "search"
        raise ValueError(f"the {kind} has {count:,} trials; at most {MAX_TRIALS:,} are allowed")
    refuse(
        [
            *_repeated_trials(study),
            *_ambiguous_names(study),
            *_endless_warmups(study),
            *_alpha0_of_zero(study),
            *_unknown_baselines(study),
        ]
    )
    refuse([*_untried_defaults(study), *_unknown_claims(study)])


def _without_search(study: StudyFile) -> Problems:
    if study.scheduler is not None:
        yield ("scheduler",), "only a search may stop trials early; write search: optuna as well"
    for place, rates in _all_rates(study):
        if isinstance(rates, Range):
            yield place, "a range needs a search; write search: optuna as well, or a list of values"


def _with_search(study: StudyFile, search: Search) -> Problems:
    lists = [
        (place, f"{len(rates)} values; with a search write {{low: 1e-5, high: 1}}, or one value")
        for place, rates in _all_rates(study)
        if not isinstance(rates, Range) and len(rates) > 1
    ]
    yield from lists
    for i, optimizer in enumerate(study.optimizers):
        searched = any(isinstance(v, Range) for v in (*study.alpha0s(optimizer), *study.betas(optimizer)))
        if not lists and not searched:
            yield ("optimizers", i), "nothing to search for; write a range for alpha0 or beta"
    if both := set(study.seeds) & set(search.seeds):
        reason = "the best points are reported on that seed, and chosen on others"
        yield ("search", "seeds"), f"{min(both)} is one of the study's seeds; {reason}"
    if search.objective == "iterations_to_threshold":
        arms = ((w.use, o.name) for w in study.workloads for o in study.optimizers)
        if without := next((arm for arm in arms if study.threshold_of(*arm) is None), None):
            where = f"{without[1]} on {without[0]}"
            yield ("search", "objective"), f"there is no threshold for {where}; write one under threshold"


def _all_rates(study: StudyFile) -> Iterator[tuple[tuple[str | int, ...], tuple[float, ...] | Range]]:
    """Yield all α₀ and β of the file, with their places."""
    yield ("alpha0",), study.alpha0
    for name, rates in study.beta.items():
        yield ("beta", name), rates
    for i, optimizer in enumerate(study.optimizers):
        if optimizer.alpha0 is not None:
            yield ("optimizers", i, "alpha0"), optimizer.alpha0
        if optimizer.beta is not None:
            yield ("optimizers", i, "beta"), optimizer.beta


def _repeated_trials(study: StudyFile) -> Problems:
    """Find optimizers with a trial that an earlier optimizer also has."""
    first: dict[object, int] = {}
    for i, optimizer in enumerate(study.optimizers):
        granularity = study.granularity_of(optimizer) if optimizer.learned else None
        settings = (
            optimizer.name,
            optimizer.rule_or_default,
            granularity,
            canonical([optimizer.args, optimizer.schedule]),
        )
        earliest = min(
            first.setdefault((*settings, alpha0, beta), i)
            for alpha0 in study.alpha0s(optimizer)
            for beta in study.betas(optimizer)
        )
        if earliest != i:
            yield ("optimizers", i), f"repeats trials of optimizers[{earliest}]; list every one once"


def _ambiguous_names(study: StudyFile) -> Problems:
    """Find optimizers that tables and figures would take for another."""
    first: dict[str, OptimizerSection] = {}
    for i, optimizer in enumerate(study.optimizers):
        shown = optimizer.shown_as
        other = first.setdefault(shown, optimizer)
        taken = (other.shown_name, other.schedule) != (optimizer.shown_name, optimizer.schedule)
        taken = taken or (optimizer.rule in RULES[1:] and other is not optimizer)
        ours = replace(OptimizerName.parse(shown), variant="")
        is_other = shown != str(optimizer.shown_name) and ours.op in OPS and ours != optimizer.shown_name
        if taken or (is_other and (str(ours) == shown or optimizer.name in OPTIMIZERS)):
            problem = f"would be shown as {shown}, which is another optimizer's name; give it a label"
            yield ("optimizers", i), problem


def _alpha0_of_zero(study: StudyFile) -> Problems:
    """Find rules that multiply an α of 0."""
    for i, optimizer in enumerate(study.optimizers):
        if optimizer.rule in MOVES_LOG_ALPHA and 0.0 in study.alpha0s(optimizer):
            problem = f"rule {optimizer.rule} multiplies α, and 0 would stay 0; write an alpha0 above 0"
            yield ("optimizers", i, "alpha0" if optimizer.alpha0 else "rule"), problem


def _unknown_baselines(study: StudyFile) -> Problems:
    """Find optimizers compared with one that is not in the study, or with themselves."""
    shown = {optimizer.shown_as: None for optimizer in study.optimizers}
    for i, optimizer in enumerate(study.optimizers):
        others = [name for name in shown if name != optimizer.shown_as]
        for j, name in enumerate(optimizer.against or ()):
            if name not in others:
                yield (
                    ("optimizers", i, "against", j),
                    f"{show(name)} is no other optimizer here; {suggest(name, others)}",
                )


def _endless_warmups(study: StudyFile) -> Problems:
    """Find schedules whose warm-up and hold take the whole budget."""
    budget, unit = (study.epochs, "epochs") if study.epochs else (study.iterations or 0, "iterations")
    for i, optimizer in enumerate(study.optimizers):
        lengths = {name: (optimizer.schedule or {}).get(name, 0) for name in ("warmup", "hold")}
        if sum(lengths.values()) >= budget:
            names = " and ".join(name for name, length in lengths.items() if length)
            takes = "take" if " and " in names else "takes"
            problem = f"{names} {takes} all {budget} {unit} of the budget; write fewer"
            yield ("optimizers", i, "schedule"), problem


def _untried_defaults(study: StudyFile) -> Problems:
    """Find default α₀ that the study does not try."""
    for i, optimizer in enumerate(study.optimizers):
        default, tried = optimizer.default_alpha0, study.alpha0s(optimizer)
        if default is not None and default not in tried:
            there = ", ".join(f"{alpha0:g}" for alpha0 in tried if not isinstance(alpha0, Range))
            problem = f"{default:g} is not tried; write one of {there or 'a list under alpha0'}"
            yield ("optimizers", i, "default_alpha0"), problem


def _unknown_claims(study: StudyFile) -> Problems:
    """Find claims about optimizers that the study does not have, or that a search cannot judge."""
    if study.untuned is None:
        return
    if study.search is not None:
        yield (
            ("untuned",),
            "needs the α₀ of a grid, which a search has not; leave it out, or leave out the search",
        )
    known = {optimizer.shown_as: optimizer for optimizer in study.optimizers}
    claimed, rivals = study.untuned.optimizers, study.untuned.rivals
    keys = dict.fromkeys(rivals, "rivals") | dict.fromkeys(claimed, "optimizers")
    compared = set(keys) if rivals else set()
    for name, key in ({study.untuned.against: "against"} | keys).items():
        if name not in known:
            yield ("untuned", key), f"no optimizer here is called {name}; there are {', '.join(known)}"
        elif name in compared and known[name].default_alpha0 is None:
            yield ("untuned", key), f"{name} needs a default_alpha0 for this comparison; write one"
