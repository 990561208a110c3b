"""Sums up a study in a few sentences: effects with their intervals, and how sure they are.

A line sums up the comparisons of one family and kind of claim (``claims``). Its ratio is the geometric mean
over these comparisons, workloads and optimizers alike, with its interval over seeds: it holds for the
workloads of the study and says nothing about others. The verdicts that it counts are those of the claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.claims import Claim, Family, Kind
from study.analysis.formatting import (
    format_number,
    format_range,
    format_setting,
    join_names,
    paper_name,
    pluralize,
    workload_label,
)
from study.analysis.pairing import SETUP, cells
from study.analysis.stats import Ratio, paired_log_ratio, pairs_needed
from study.analysis.untuned_claims import Question, UntunedClaim

MOST = 5
"""Largest number of lines."""


Together = Literal["supported", "not supported", "undecided", "mixed", ""]
"""The verdict on several comparisons: theirs, if it is the same; empty if nothing is judged."""


class Headline(NamedTuple):
    """One line of results."""

    effect: str
    """The effect and its interval, without a full stop."""
    detail: str
    """A sentence: the number of comparisons, and their verdicts."""
    verdict: Together

    @property
    def text(self) -> str:
        """Both in one sentence."""
        return f"{self.effect}; {self.detail[0].lower()}{self.detail[1:]}"


class Pilot(NamedTuple):
    """A study with too few seeds to decide any of its claims."""

    seeds: int
    """The largest number of seeds of a claim."""
    needed: int
    """The smallest number of seeds that could decide a claim."""

    @property
    def text(self) -> str:
        """One sentence or two."""
        return (
            f"Pilot: {pluralize(self.seeds, 'seed')}, directions only. With fewer than {self.needed} seeds "
            "no test can come below the 5 % level, so nothing on this page is a finding."
        )


def pilot(claims: Sequence[Claim], untuned: Sequence[UntunedClaim] = ()) -> Pilot | None:
    """Return the study as a pilot; None if a claim has enough seeds, or nothing is claimed."""
    found = [(claim.seeds, claim.seeds_needed) for claim in claims if not claim.reason and claim.seeds]
    found += [(claim.seeds, pairs_needed(claim.comparisons)) for claim in untuned if claim.seeds]
    if not found or any(seeds >= needed for seeds, needed in found):
        return None
    return Pilot(max(seeds for seeds, _ in found), min(needed for _, needed in found))


def headlines(
    claims: Sequence[Claim], untuned: Sequence[UntunedClaim], summary: pd.DataFrame
) -> list[Headline]:
    """Return up to ``MOST`` lines, the most important first.

    The claims that the study itself makes come first, then learned against fixed α, then the new rules: speed
    before loss before sensitivity. The remaining lines name the optimizer with the lowest validation loss on
    each workload.

    Args:
        claims: From ``claims.claims``.
        untuned: From ``untuned_claims.untuned_claims``.
        summary: From ``tables.summary_table``.
    """
    early = pilot(claims, untuned) is not None  # said once, not in every line
    lines = [*_of_untuned(untuned, early=early), *_of_claims(claims, early=early), *_lowest(summary)]
    return lines[:MOST]


def conclusion(claims: Sequence[Claim], untuned: Sequence[UntunedClaim], summary: pd.DataFrame) -> str:
    """Return the most important line as a sentence, which also says if nothing can be concluded.

    Args:
        claims: See ``headlines``.
        untuned: See ``headlines``.
        summary: See ``headlines``.
    """
    lines = headlines(claims, untuned, summary)
    if lines and not lines[0].verdict:
        return f"Nothing is compared, so nothing can be concluded. {lines[0].text}"
    if not lines:
        return "Nothing can be concluded: no trial has ended."
    first = lines[0]
    if early := pilot(claims, untuned):
        seeds = pluralize(early.seeds, "seed")
        return f"{first.text} This is a direction, not a finding: {seeds} cannot decide it."
    if first.verdict == "undecided":
        return f"{first.text} So nothing can be concluded."
    return first.text


_OF_FAMILY = {
    Family.HYPERGRADIENT: ("A learned α (hypergradient descent)", "a fixed α"),
    Family.NEW_RULES: ("The new rules for α", "hypergradient descent"),
    Family.NAMED: ("The optimizers that the study compares", "those that it names for them"),
}
_ORDER = tuple(
    (family, kind) for kind in Kind for family in (Family.HYPERGRADIENT, Family.NEW_RULES, Family.NAMED)
)


def _of_claims(claims: Sequence[Claim], *, early: bool) -> Iterator[Headline]:
    for family, kind in _ORDER:
        group = [c for c in claims if (c.family, c.kind) == (family, kind) and not c.reason and c.seeds]
        if group:
            yield _line(group, early=early)


def _line(group: Sequence[Claim], *, early: bool) -> Headline:
    first = group[0]
    pairs = {(claim.method.optimizer, claim.baseline.optimizer) for claim in group}
    new, base = map(paper_name, next(iter(pairs))) if len(pairs) == 1 else _OF_FAMILY[first.family]
    if first.family is Family.NEW_RULES and len(pairs) > 1:
        names = [paper_name(name) for name in dict.fromkeys(claim.method.optimizer for claim in group)]
        new += f" ({join_names(names, 4)})"
    ratio, seeds = pooled(group)
    known = [claim.ratio.ratio for claim in group if not math.isnan(claim.ratio.ratio)]
    parts = [_from(group, ratio)]
    if len(known) > 1:
        low, high = (_size(first.kind, end) for end in (min(known), max(known)))
        parts.append(f"{low if low == high else f'{low} to {high}'} in {len(group)} comparisons")
    if not early:
        parts.append(_verdicts(group))
    detail = "; ".join(filter(None, parts)) or "a direction"
    return Headline(
        _effect(first.kind, new, base, ratio, seeds), f"{detail[0].upper()}{detail[1:]}.", _verdict(group)
    )


def pooled(group: Sequence[Claim]) -> tuple[Ratio, int]:
    """Return the geometric mean of the claims' ratios with its interval over seeds, and the number of seeds.

    An observation is the mean over the claims of a seed's log-ratio; only seeds that all claims have count.

    Args:
        group: Claims of one kind.
    """
    shared = set.intersection(*(set(claim.by_seed) for claim in group))
    means = np.array([np.mean([claim.by_seed[seed] for claim in group]) for seed in sorted(shared)])
    return paired_log_ratio(np.exp(means), np.ones(len(means))), len(means)


def _effect(kind: Kind, new: str, base: str, ratio: Ratio, seeds: int) -> str:
    if math.isnan(ratio.ratio):
        return f"{new} against {base}: no seed has values of both"
    interval = f" ({pluralize(seeds, 'seed')})"
    if not math.isnan(ratio.low):
        ends = " to ".join(_size(kind, end, alone=False) for end in (ratio.low, ratio.high))
        interval = f" (95 % interval {ends}, {pluralize(seeds, 'seed')})"
    if kind is Kind.INSENSITIVE:
        wider = "wider" if ratio.ratio >= 1 else "narrower"
        decades = format_number(abs(math.log10(ratio.ratio)))
        return f"{new} had a range of good α₀ {decades} decades {wider} than {base}{interval}"
    size = _size(kind, ratio.ratio)
    if kind is Kind.FASTER:
        return f"{new} reached the threshold in {size} the iterations of {base}{interval}"
    return f"{new} had {size} the best validation loss of {base}{interval}"


def _size(kind: Kind, ratio: float, *, alone: bool = True) -> str:
    if kind is Kind.INSENSITIVE:
        return f"{math.log10(ratio) + 0.0:+.2f}".replace("-", "−")
    return format_number(ratio) + (" ×" if alone else "")


def _from(group: Sequence[Claim], ratio: Ratio) -> str:
    """Return at how many of the α₀, over all comparisons, the effect is in the better direction."""
    tried, better = (sum(getattr(claim, name) for claim in group) for name in ("alpha0s", "alpha0s_better"))
    if group[0].kind is Kind.INSENSITIVE or tried <= len(group) or math.isnan(ratio.ratio):
        return ""
    if better == tried and ratio.ratio < 1:
        return "better from every α₀"
    if better == 0 and ratio.ratio > 1:
        return "better from no α₀"
    return f"better from {better} of {tried} starting points"


def _verdict(group: Sequence[Claim] | Sequence[UntunedClaim]) -> Together:
    verdicts = {claim.verdict for claim in group}
    return verdicts.pop() if len(verdicts) == 1 else "mixed"


def _verdicts(group: Sequence[Claim] | Sequence[UntunedClaim]) -> str:
    if len(group) == 1:
        return group[0].verdict
    counts = {
        verdict: sum(claim.verdict == verdict for claim in group)
        for verdict in ("supported", "not supported", "undecided")
    }
    said = [f"{verdict} in {count}" for verdict, count in counts.items() if count]
    return f"{_verdict(group)} in all" if len(said) == 1 else ", ".join(said)


_OF_QUESTION = {
    Question.UNTUNED: "From its worst α₀, {new} had {size} the final validation loss of {other}, tuned",
    Question.REACHES: "At its default α₀, {new} had {size} the final validation loss of {other}, tuned",
    Question.DEFAULT: "At the defaults of both, {new} had {size} the final validation loss of {other}",
}


def _of_untuned(claims: Sequence[UntunedClaim], *, early: bool) -> Iterator[Headline]:
    groups: dict[tuple[object, ...], list[UntunedClaim]] = {}
    for claim in claims:
        if not claim.reason:
            groups.setdefault((claim.question, str(claim.method), str(claim.other)), []).append(claim)
    for group in groups.values():
        first = group[0]
        known = sorted((c for c in group if not math.isnan(c.ratio.ratio)), key=lambda c: c.ratio.ratio)
        if not known:
            continue
        worst = known[-1]
        size = f"{format_number(worst.ratio.ratio)} ×"
        if (least := f"{format_number(known[0].ratio.ratio)} ×") != size:
            size = f"{least} to {size}"
        interval = ""
        if not math.isnan(worst.ratio.low):
            low, high = (format_number(end) for end in worst.ratio[1:])
            interval = f"95 % interval {low} to {high}, {pluralize(worst.seeds, 'seed')}"
        at = f"on {workload_label(worst.setup._asdict())}" if len(known) > 1 else ""
        where = ", ".join(filter(None, (f"the latter {at}" if least != size and at else at, interval)))
        effect = _OF_QUESTION[first.question].format(
            new=paper_name(first.method.optimizer), other=paper_name(first.other.optimizer), size=size
        )
        bar = f"within {format_number(first.bar)} ×" if first.question is Question.UNTUNED else "lower"
        of = f" of {len(group)} workloads" if len(group) > 1 else ""
        judged = f"That it is {bar}: {_verdicts(group)}{of}."
        if early:
            judged = f"On {pluralize(len(group), 'workload')}."
        yield Headline(f"{effect} ({where})", judged, _verdict(group))


def _lowest(summary: pd.DataFrame) -> Iterator[Headline]:
    known = summary[summary["best_val_loss"].notna()]
    for setup, rows in cells(known, SETUP):
        best = rows.sort_values("best_val_loss", kind="stable").to_dict("records")
        first = best[0]
        span = format_range(*(format_number(first[f"best_val_loss_{end}"]) for end in ("min", "max")))
        over = f" ({span} over {pluralize(first['seeds'], 'seed')})" if span else ""
        others = [row for row in best if row["optimizer"] != first["optimizer"]]
        then = (
            f"next {paper_name(others[0]['optimizer'])}, {format_number(others[0]['best_val_loss'])}; "
            if others
            else ""
        )
        effect = (
            f"On {workload_label(setup)}, {paper_name(first['optimizer'])} had the lowest validation loss, "
            f"{format_number(first['best_val_loss'])}{over}, from α₀ = {format_setting(first['alpha0'])}"
        )
        detail = f"{then}each at its best α₀ and β, chosen on the same seeds."
        yield Headline(effect, f"{detail[0].upper()}{detail[1:]}", "")
