"""Judges three claims about every optimizer and its baseline, each with a verdict and its numbers.

The rules below hold for all comparisons and were fixed before any curve was seen:

**Observations.** The unit is the seed: for each seed, the mean of log(new / baseline) over the α₀ tried. Only
seeds whose trials all ended count. α₀ × seed cells are not independent and never count as observations. The
paper compares at equal α₀ (H. Mittal, 2019), and so does a claim; that answers "whatever α₀ I happen to
choose", for the α₀ of this study. A secondary comparison, each at its own best α₀, chosen on the other seeds,
answers "if I tune" and decides nothing.

**Measures.** "Converges faster": iterations to the threshold, min(N, budget), with the smoothed measure as a
secondary comparison. "Generalizes better": the best validation loss of any epoch. Both train for as many
epochs, so the comparison is fair; the number is optimistic, being a minimum on the data that it is reported
on, and over all α₀ it rewards speed as well: a slow method at a small α₀ is still far from its best. "Less
sensitive to α₀": the width in decades of the range of α₀ within 2 × the method's own best N
(``sensitivity.alpha0_widths``).

**Test.** The claims have a direction, so the exact sign test over seeds is one-sided. It assumes nothing
else, and censored seeds can enter as a sign, or as unclear, which counts against the claim. Six seeds that
all agree give p = 1/64 = 0.0156. (Two-sided it would be 0.031, which no correction for three comparisons
leaves below 0.05.) Wilcoxon's p is also given and decides nothing.

**Correction.** Holm's, over the comparisons of one claim in one setup (a workload) and family. There are
three families: the new optimizers against hypergradient descent, hypergradient descent against a fixed α, and
the baselines that a study file names under ``against``. Each rule of α (additive, cosine, …) is compared with
hypergradient descent by the same rule, if the study has that. Three comparisons leave 3/64 = 0.047 to six
agreeing seeds; four need seven seeds. Planned comparisons count even while their trials are missing. There is
no correction across claims, workloads and families: of 20 families without any true effect, expect up to one
with something "supported". Fix the number of seeds beforehand: adding seeds until a verdict changes is
another test, with another p.

**Verdict.** "supported": adjusted p < 0.05 and the 95 % interval of the ratio on the better side of 1. "not
supported": the same in the opposite direction, or a difference shown to be within ``MARGINS``, by two
one-sided sign tests with the same correction and the interval within the margins. A difference that is both
significant and within the margin is "supported", and the text says that it is small; the text also says if
the smoothed measure, or each at its best α₀, does not show it. Otherwise "undecided": the data do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import pandas as pd

from study.analysis.paired_seeds import ENOUGH_ALPHA0, Seeds, seed_ratios, seed_ratios_tuned, seed_spans
from study.analysis.pairing import Method, MethodPair, Setup, baselines, method_pairs
from study.analysis.stats import LEVEL, Ratio, holm, pairs_needed
from study.config.optimizer_name import OPS

Verdict = Literal["supported", "not supported", "undecided"]


class Kind(StrEnum):
    """A kind of claim about an optimizer, compared with its baseline."""

    FASTER = "converges faster"
    BETTER = "generalizes better"
    INSENSITIVE = "less sensitive to α₀"


class Family(StrEnum):
    """Comparisons that are corrected together, in the order in which reports show them."""

    NEW_RULES = "against hypergradient descent"
    HYPERGRADIENT = "against a fixed α"
    NAMED = "against what the study names"


MEASURES = {
    Kind.FASTER: "iterations_to_threshold",
    Kind.BETTER: "best_val_loss",
    Kind.INSENSITIVE: "decades",
}
"""The measure that each kind of claim is judged by."""

MARGINS = {Kind.FASTER: 1.05, Kind.BETTER: 1.01}
"""Ratios within 1/margin … margin count as no difference: 5 % of the iterations, 1 % of the loss. There is
none for widths, which are known only to a step of the grid."""

UNKNOWN = Ratio(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Secondary:
    """A comparison beside a claim that decides nothing."""

    ratio: Ratio = UNKNOWN
    better: float = math.nan
    """Number of seeds on which the optimizer is better; NaN if the comparison was not made."""
    worse: float = math.nan

    @property
    def is_known(self) -> bool:
        """Whether the comparison has a ratio."""
        return not math.isnan(self.ratio.ratio)


@dataclass(frozen=True)
class Missed:
    """Trials without a value: the threshold was not reached, or there is no validation loss."""

    alone: int = 0
    """Trials whose partner has a value."""
    baseline_alone: int = 0
    both: int = 0


@dataclass(frozen=True)
class Tests:
    """One-sided p values of a claim; NaN if there is no such test."""

    better: float = math.nan
    """p of the sign test for better."""
    worse: float = math.nan
    within: float = math.nan
    """p for a difference within the margin."""


@dataclass(frozen=True)
class Claim:
    """A claim about a method and its baseline in one setup: the observations and the verdict."""

    kind: Kind
    setup: Setup
    method: Method
    baseline: Method
    family: Family
    """The comparisons that this one is corrected with."""
    reason: str = ""
    """Why the claim cannot be judged at all; then it has no p, and does not count as a comparison."""
    alpha0s: int = 0
    """Number of α₀ at which both were tried."""
    alpha0s_better: int = 0
    """Number of these α₀ at which the geometric mean of the ratio over seeds is below 1."""
    by_seed: Mapping[int, float] = field(default_factory=dict)
    """The logarithm of the ratio of every seed that has one."""
    seeds: int = 0
    """The independent observations: seeds with all their trials."""
    incomplete: int = 0
    """Seeds left out because trials are missing."""
    ratio: Ratio = UNKNOWN
    """Geometric mean of new / baseline over seeds, with its interval; less is better. For
    ``Kind.INSENSITIVE`` the mean of the spans of α₀ (10 to the power of the width), where more is better."""
    better: int = 0
    """Seeds on which the method is certainly better."""
    worse: int = 0
    equal: int = 0
    unclear: int = 0
    """Seeds on which the method may be better or worse."""
    missed: Missed = Missed()
    diverged: int = 0
    """Trials of the method that diverged."""
    baseline_diverged: int = 0
    pruned: int = 0
    """Trials of both that a search pruned."""
    p: Tests = Tests()
    p_wilcoxon: float = math.nan
    smoothed: Secondary = Secondary()
    """The comparison on the smoothed loss."""
    tuned: Secondary = Secondary()
    """The comparison of each at its own best α₀, chosen on the other seeds."""
    adjusted: Tests = Tests()
    """``p``, corrected for the comparisons of the family."""
    comparisons: int = 0
    """Number of the family's comparisons that the correction counts."""

    @property
    def measure(self) -> str:
        """The measure that the claim is judged by."""
        return MEASURES[self.kind]

    @property
    def margin(self) -> float | None:
        """The ratio up to which a difference does not matter; None if there is none."""
        return MARGINS.get(self.kind)

    @property
    def pairs(self) -> int:
        """Pairs of trials: α₀ × seed."""
        return self.seeds * self.alpha0s

    @property
    def seeds_needed(self) -> int:
        """The least number of seeds with a difference at which p can fall below the level."""
        return pairs_needed(max(self.comparisons, 1))

    @property
    def verdict(self) -> Verdict:
        """The verdict by the module's rules. If one side never has a value, the test decides alone."""
        low, high = self.ratio.low, self.ratio.high
        if self.kind is Kind.INSENSITIVE:
            low, high = 1 / high, 1 / low  # wider is better
        if self.adjusted.better < LEVEL and not high >= 1:
            return "supported"
        if self.adjusted.worse < LEVEL and not low <= 1:
            return "not supported"
        margin = self.margin or math.nan
        if self.adjusted.within < LEVEL and 1 / margin < low and high < margin:
            return "not supported"
        return "undecided"


def claims(
    trials: pd.DataFrame,
    against: Mapping[str, Sequence[str]] | None = None,
    named: Mapping[str, Sequence[str]] | None = None,
) -> list[Claim]:
    """Return every claim about every method and its baseline, in the order of ``Kind``.

    Args:
        trials: From ``tables.trial_table``, rows in any order, pending and pruned trials included.
        against: The baselines of each optimizer. Default: ``pairing.baselines``.
        named: Further baselines, which the study file names for an optimizer. They form their own family.
    """
    against = baselines(trials) if against is None else against
    further = {
        optimizer: [base for base in bases if base not in against.get(optimizer, ())]
        for optimizer, bases in (named or {}).items()
    }
    pairs: list[tuple[MethodPair, Family | None]] = [(pair, None) for pair in method_pairs(trials, against)]
    pairs += [(pair, Family.NAMED) for pair in method_pairs(trials, further)]
    observed = [_observe(kind, pair, family) for kind in Kind for pair, family in pairs]
    families: dict[tuple[str, ...], list[int]] = {}
    for place, claim in enumerate(observed):
        # As text, since NaN does not equal itself.
        key = (claim.kind, claim.family, *map(str, claim.setup))
        families.setdefault(key, []).append(place)
    for places in families.values():
        tests = [observed[place].p for place in places]
        better, worse, within = (
            holm([getattr(test, name) for test in tests]) for name in ("better", "worse", "within")
        )
        count = sum(not math.isnan(test.better) for test in tests)
        for place, *adjusted in zip(places, better, worse, within, strict=True):
            observed[place] = replace(
                observed[place], adjusted=Tests(*map(float, adjusted)), comparisons=count
            )
    return observed


def _observe(kind: Kind, pair: MethodPair, family: Family | None) -> Claim:
    """Return a claim as far as it can be known without the others of its family."""
    fixed = pair.baseline.optimizer in OPS
    claim = Claim(
        kind,
        pair.setup,
        pair.method,
        pair.baseline,
        family or (Family.HYPERGRADIENT if fixed else Family.NEW_RULES),
        diverged=int((pair.new["outcome"] == "diverged").sum()),
        baseline_diverged=int((pair.base["outcome"] == "diverged").sum()),
        pruned=sum(int((rows["outcome"] == "pruned").sum()) for rows in (pair.new, pair.base)),
    )
    shared = set(pair.new["alpha0"]) & set(pair.base["alpha0"])
    if reason := _unanswerable(kind, pair, shared):
        return replace(claim, reason=reason)
    cap = pair.setup.budget if kind is Kind.FASTER else math.inf
    try:
        seeds = seed_spans(pair) if kind is Kind.INSENSITIVE else seed_ratios(pair, claim.measure, cap)
    except ValueError as error:
        return replace(claim, reason=str(error))
    planned = len(set(pair.new["seed"]) & set(pair.base["seed"]))
    within = math.nan if claim.margin is None else seeds.test_within(math.log(claim.margin))
    claim = replace(
        claim,
        alpha0s=seeds.alpha0s,
        alpha0s_better=sum(log < 0 for log in seeds.by_alpha0),
        by_seed=seeds.log_ratios(),
        seeds=len(seeds.seeds),
        incomplete=planned - len(seeds.seeds),
        ratio=seeds.ratio(),
        better=seeds.better,
        worse=seeds.worse,
        equal=seeds.equal,
        unclear=seeds.unclear,
        missed=Missed(seeds.missed, seeds.baseline_missed, seeds.both_missed),
        p=Tests(*seeds.tests(), within),
    )
    if kind is Kind.INSENSITIVE:
        return claim
    smoothed = seed_ratios(pair, f"smoothed_{claim.measure}", cap) if kind is Kind.FASTER else None
    return replace(
        claim,
        p_wilcoxon=seeds.test_ranks(),
        smoothed=_secondary(smoothed),
        tuned=_secondary(seed_ratios_tuned(pair, claim.measure, cap)),
    )


def _unanswerable(kind: Kind, pair: MethodPair, shared: set[float]) -> str:
    if not shared:
        return "the two were not tried at any common α₀"
    if kind is not Kind.BETTER and not pair.same_threshold:
        known = pair.new["threshold"].notna().any() or pair.base["threshold"].notna().any()
        return "the two have different thresholds" if known else "the study sets no threshold"
    if kind is Kind.INSENSITIVE and (tried := sum(alpha > 0 for alpha in shared)) < ENOUGH_ALPHA0:
        return f"a width needs {ENOUGH_ALPHA0} or more α₀; both were tried at {tried}"
    return ""


def _secondary(seeds: Seeds | None) -> Secondary:
    if seeds is None or not len(seeds.seeds):
        return Secondary()
    return Secondary(seeds.ratio(), seeds.better, seeds.worse)
