"""Writes a claim in plain sentences."""

from __future__ import annotations

import math

from study.analysis.claims import Claim, Kind, Secondary
from study.analysis.formatting import format_number, paper_name, pluralize
from study.analysis.stats import LEVEL

_DIRECTIONS = {
    Kind.FASTER: ("sooner", "later"),
    Kind.BETTER: ("lower", "higher"),
    Kind.INSENSITIVE: ("wider", "narrower"),
}

_POINTS = {
    Kind.FASTER: ("faster", "slower"),
    Kind.BETTER: ("better", "worse"),
    Kind.INSENSITIVE: ("wider", "narrower"),
}


def text(claim: Claim, *, judged: bool = True) -> str:
    """Return one sentence with the numbers of a claim, and the reason if it is undecided.

    Args:
        claim: The claim.
        judged: Whether to add p and the conclusion; without them the sentence only says what was observed.
    """
    if claim.reason:
        return f"Not judged: {claim.reason}."
    new, base = _names(claim)
    if not claim.seeds:
        return f"No seed has ended with both {new} and {base} at every α₀ yet."
    if not judged:
        return f"{_difference(claim)}, {_counts(claim)}."
    p = f"sign test p = {format_number(claim.p.better, 2)}"
    if claim.comparisons > 1:
        p += f", {format_number(claim.adjusted.better, 2)} corrected for {claim.comparisons} comparisons"
    return f"{_difference(claim)}, {_counts(claim)}; {p}{_conclusion(claim)}."


def direction(claim: Claim) -> str:
    """Return the direction of a claim's numbers in a word, such as ``faster``; ``–`` if there is none."""
    ratio = claim.ratio.ratio
    if math.isnan(ratio) or ratio == 1:
        return "–"
    better, worse = _POINTS[claim.kind]
    return better if (ratio < 1) != (claim.kind is Kind.INSENSITIVE) else worse


def notes(claim: Claim) -> str:
    """Return further facts about a claim that a reader should know, in sentences; often empty."""
    new, base = _names(claim)
    said = []
    if claim.smoothed.is_known:
        said.append(f"On the smoothed loss: {_secondary(claim, claim.smoothed)}.")
    if claim.tuned.is_known:
        said.append(f"Each at its best α₀, chosen on the other seeds: {_secondary(claim, claim.tuned)}.")
    if missed := _missed(claim):
        said.append(missed)
    if claim.incomplete:
        said.append(f"{pluralize(claim.incomplete, 'seed')} left out, because trials are missing.")
    if claim.pruned:
        said.append(f"{pluralize(claim.pruned, 'trial')} pruned by a search, which counts as missing.")
    if claim.diverged or claim.baseline_diverged:
        said.append(f"Trials that diverged: {claim.diverged} of {new}, {claim.baseline_diverged} of {base}.")
    return " ".join(said)


def _names(claim: Claim) -> tuple[str, str]:
    return paper_name(claim.method.optimizer), paper_name(claim.baseline.optimizer)


def _difference(claim: Claim) -> str:
    new, base = _names(claim)
    ratio, low, high = claim.ratio
    if claim.kind is Kind.INSENSITIVE:
        interval = "" if math.isnan(low) else f" (95 % interval {_decades(low)} to {_decades(high)})"
        return f"{new}'s range of α₀ differs from {base}'s by {_decades(ratio)} decades{interval}"
    if math.isnan(ratio):
        return f"{new} against {base} has no ratio, as no pair has two values"
    times, interval = f"{format_number(ratio)} ×", _interval(low, high)
    if claim.kind is Kind.BETTER:
        return f"{new} has {times} the best validation loss of {base}{interval}"
    return f"{new} reaches the threshold in {times} the iterations of {base}{interval}"


def _counts(claim: Claim) -> str:
    good, bad = _DIRECTIONS[claim.kind]
    unclear = f", unclear in {claim.unclear}" if claim.unclear else ""
    equal = f", equal in {claim.equal}" if claim.equal else ""
    counts = f"{good} in {claim.better} and {bad} in {claim.worse}{equal}{unclear} of "
    over = f", each over {claim.alpha0s} α₀" if claim.alpha0s > 1 else ""
    return f"{counts}{pluralize(claim.seeds, 'seed')}{over}"


def _conclusion(claim: Claim) -> str:
    if claim.verdict == "supported":
        small = claim.margin is not None and claim.ratio.low > 1 / claim.margin
        within = f"the difference is within the {_percent(claim.margin)} taken as none that matters"
        return "".join(f"; {clause}" for clause in [*([within] if small else []), *_exceptions(claim)])
    if claim.verdict == "undecided":
        return f"; {_why_undecided(claim)}"
    if claim.adjusted.worse < LEVEL:
        return f"; the other way p = {format_number(claim.adjusted.worse, 2)}, corrected"
    p = format_number(claim.adjusted.within, 2)
    return f"; equal within {_percent(claim.margin)}, p = {p}, corrected"


def _why_undecided(claim: Claim) -> str:
    informative = claim.better + claim.worse + claim.unclear
    if not informative:
        return "no seed shows a difference"
    if informative < claim.seeds_needed:
        have = pluralize(informative, "seed") + (" with a difference" if claim.equal else "")
        verb = "is" if informative == 1 else "are"
        return f"{have} {verb} too few: {claim.seeds_needed} or more are needed to stay below {LEVEL:g}"
    if min(claim.adjusted.better, claim.adjusted.worse) >= LEVEL:
        return "the seeds do not agree enough"
    return "the interval includes no difference"


def _exceptions(claim: Claim) -> list[str]:
    """Return the secondary comparisons that do not show a supported claim, or show the opposite."""
    secondary = ((claim.smoothed, "on the smoothed loss"), (claim.tuned, "at each one's best α₀"))
    return [
        f"not {'so' if beside.ratio.ratio > 1 else 'shown'} {where} ({format_number(beside.ratio.ratio)} ×)"
        for beside, where in secondary
        if beside.ratio.high >= 1
    ]


def _missed(claim: Claim) -> str:
    alone, baseline, both = claim.missed.alone, claim.missed.baseline_alone, claim.missed.both
    if not alone + baseline + both:
        return ""
    new, base = _names(claim)
    counts = f"{new} alone in {alone}, {base} alone in {baseline}, both in {both} of "
    pairs, seeds = pluralize(claim.pairs, "pair"), pluralize(claim.seeds, "seed")
    match claim.kind:
        case Kind.FASTER:
            return f"Threshold not reached, so that the budget stands for N: {counts}{pairs}."
        case Kind.BETTER:
            return f"Diverged before the first validation, which enters no ratio: {counts}{pairs}."
    return f"No α₀ reaches the threshold: {counts}{seeds}."


def _secondary(claim: Claim, beside: Secondary) -> str:
    good, bad = _DIRECTIONS[claim.kind]
    ratio, low, high = beside.ratio
    counts = f"{good} in {beside.better:.0f}, {bad} in {beside.worse:.0f}"
    return f"{format_number(ratio)} ×{_interval(low, high)}, {counts} of {pluralize(claim.seeds, 'seed')}"


def _interval(low: float, high: float) -> str:
    if math.isnan(low):
        return ""
    return f" (95 % interval {format_number(low)} to {format_number(high)})"


def _decades(span: float) -> str:
    return f"{math.log10(span) + 0.0:+.2f}".replace("-", "−")


def _percent(margin: float | None) -> str:
    return f"{100 * ((margin or math.nan) - 1):.2g} %"
