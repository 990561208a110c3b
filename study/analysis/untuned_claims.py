"""Judges claims that an optimizer needs no tuning, which a study makes before any curve is seen.

A study file has them under ``untuned`` (``study.config.sections.Untuned``). All are about the validation
loss at the end of the budget, on one workload.

**"needs no tuning"**: from every α₀ of the claimed range the loss is at most ``within`` × that of a tuned
reference. The reference's α₀ is chosen for each seed on all other seeds (``stats.held_out_best``), so that
tuning does not flatter it. For every α₀ a one-sided sign test over seeds asks whether the median ratio is
below the bar. The claim is about all α₀, so p is the largest of theirs, without correction (an
intersection–union test: Berger 1982, https://doi.org/10.1080/00401706.1982.10487790). In the opposite
direction there are two tests, corrected for being two: whether the mean over α₀ of the log-ratio is above the
bar, and whether it is for any one α₀ (Bonferroni over α₀). The numbers beside the verdict are those of the
worst α₀.

**"reaches the tuned loss at its default"**: at its default α₀, its best validation loss is below the final
one of the tuned reference, so it gets there within as many iterations. Sign test over seeds.

**"better at its default"**: at the defaults of both, the loss is lower than a rival's. Sign test over seeds,
with Holm's correction over the rivals.

**Verdict.** "supported": p < 0.05 and the 95 % interval of the ratio below the bar. "not supported": the same
in the opposite direction. Otherwise "undecided". As in ``claims``, seeds are the observations and nothing is
corrected across workloads: the page says on how many a claim is supported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from study.analysis.formatting import format_number, format_setting, paper_name, pluralize
from study.analysis.pairing import METHOD, SETUP, Method, Setup, cells
from study.analysis.sensitivity import costs
from study.analysis.stats import LEVEL, Ratio, held_out_best, holm, paired_log_ratio, sign_test
from study.analysis.untuned import MEASURE

if TYPE_CHECKING:
    from study.config.sections import Untuned

Floats = NDArray[np.float64]
UNKNOWN = Ratio(math.nan, math.nan, math.nan)


class Question(StrEnum):
    """A kind of claim."""

    UNTUNED = "needs no tuning"
    REACHES = "reaches the tuned loss at its default"
    DEFAULT = "better at its default"


@dataclass(frozen=True)
class UntunedClaim:
    """A claim about a method and another one on one workload: the observations and the verdict."""

    question: Question
    setup: Setup
    method: Method
    other: Method
    bar: float
    """The ratio must be below this: ``within``, or 1."""
    reason: str = ""
    """Why the claim cannot be judged at all."""
    alpha0: float = math.nan
    """The α₀ that the numbers belong to: the worst of the range, or the default."""
    alpha0s: int = 0
    seeds: int = 0
    below: int = 0
    """Number of seeds whose ratio is below the bar."""
    ratio: Ratio = UNKNOWN
    """Geometric mean over seeds of the loss over the other's, with its interval; over finite losses."""
    diverged: int = 0
    """Trials of the method at the claimed α₀ that diverged."""
    p: float = math.nan
    p_worse: float = math.nan
    comparisons: int = 1

    @property
    def verdict(self) -> Literal["supported", "not supported", "undecided"]:
        """The verdict by the module's rules. If no seed has two losses, the test decides alone."""
        if self.p < LEVEL and not self.ratio.high >= self.bar:
            return "supported"
        if self.p_worse < LEVEL and not self.ratio.low <= self.bar:
            return "not supported"
        return "undecided"

    @property
    def asked(self) -> str:
        """The claim as a question."""
        new, other = paper_name(self.method.optimizer), paper_name(self.other.optimizer)
        match self.question:
            case Question.UNTUNED:
                return f"Is {new} as good from every α₀ as {other} tuned?"
            case Question.REACHES:
                return f"Does {new} at its default reach the loss of {other} tuned in as many iterations?"
        return f"Is {new} better at its default than {other}?"

    @property
    def text(self) -> str:
        """One sentence with the numbers."""
        if self.reason:
            return f"Not judged: {self.reason}."
        other = paper_name(self.other.optimizer)
        low, high = (format_number(end) for end in self.ratio[1:])
        interval = "" if math.isnan(self.ratio.low) else f" (95 % interval {low} to {high})"
        p = f"sign test p = {format_number(self.p, 2)}"
        if self.comparisons > 1:
            p += f", corrected for {self.comparisons} comparisons"
        counts = f"in {self.below} of {pluralize(self.seeds, 'seed')}; {p}"
        diverged = f" {pluralize(self.diverged, 'trial')} diverged." if self.diverged else ""
        if self.question is Question.REACHES:
            loss = f"its best validation loss is {format_number(self.ratio.ratio)} × the final one"
            return f"At its default, {loss} of {other}, tuned{interval}, lower {counts}.{diverged}"
        if self.question is Question.DEFAULT:
            loss = f"{format_number(self.ratio.ratio)} × the final validation loss of {other}"
            return f"At the defaults, {loss}{interval}, lower {counts}.{diverged}"
        return (
            f"At its worst α₀ of {self.alpha0s}, {format_setting(self.alpha0)}, "
            f"{format_number(self.ratio.ratio)} × the final validation loss of {other}, tuned"
            f"{interval}, below {format_number(self.bar)} × {counts}.{diverged}"
        )


COLUMNS = (
    *("claim", *SETUP, *METHOD, "against", "bar", "alpha0", "alpha0s", "seeds", "below"),
    *("ratio", "ratio_low", "ratio_high", "diverged", "p", "p_worse", "comparisons", "verdict", "text"),
)


def untuned_claims(trials: pd.DataFrame, claimed: Untuned | None) -> list[UntunedClaim]:
    """Return the claims of a study, workload by workload; none if it makes none.

    Args:
        trials: From ``tables.trial_table``, rows in any order.
        claimed: The study's claims; None if it makes none.
    """
    found: list[UntunedClaim] = []
    if claimed is None:
        return found
    for settings, group in cells(trials, SETUP):
        setup = Setup(**settings)
        methods = [(Method(**method), rows) for method, rows in cells(group, METHOD)]
        for method, rows in methods:
            if method.optimizer not in claimed.optimizers:
                continue
            for other, others in methods:
                if other.optimizer == claimed.against:
                    claim = UntunedClaim(Question.UNTUNED, setup, method, other, claimed.within)
                    found.append(_against_tuned(claim, rows, others, claimed))
                    if rows["default_alpha0"].notna().any():
                        reaches = UntunedClaim(Question.REACHES, setup, method, other, 1.0)
                        found.append(_reaches(reaches, rows, others))
            compared = [
                _at_defaults(UntunedClaim(Question.DEFAULT, setup, method, other, 1.0), rows, others)
                for other, others in methods
                if other.optimizer in claimed.rivals
            ]
            found += _corrected(compared)
    return found


def untuned_claim_table(claims: list[UntunedClaim]) -> pd.DataFrame:
    """Return one row per claim, with the columns ``COLUMNS``."""
    return pd.DataFrame([_row(claim) for claim in claims], columns=list(COLUMNS))


def _row(claim: UntunedClaim) -> dict[str, Any]:
    return {
        **{name: getattr(claim, name) for name in COLUMNS if hasattr(claim, name)},
        **claim.setup._asdict(),
        **claim.method._asdict(),
        "claim": str(claim.question),
        "against": claim.other.optimizer,
        **dict(zip(("ratio", "ratio_low", "ratio_high"), claim.ratio, strict=True)),
    }


def _against_tuned(
    claim: UntunedClaim, rows: pd.DataFrame, others: pd.DataFrame, claimed: Untuned
) -> UntunedClaim:
    tried = rows[(rows["alpha0"] >= claimed.alpha0.low) & (rows["alpha0"] <= claimed.alpha0.high)]
    if tried.empty:
        return replace(claim, reason="no α₀ of the claimed range was tried")
    own, reference = (costs(trials, MEASURE, ["alpha0"]) for trials in (tried, others))
    seeds = own.index.intersection(reference.index)
    if len(seeds) < 2:
        return replace(claim, reason="fewer than two seeds have ended at every α₀ of both")
    tuned = held_out_best(reference.loc[seeds].to_numpy(), reference.shape[1])
    judged = [
        _judged(replace(claim, alpha0=float(alpha0)), own.loc[seeds, alpha0].to_numpy(), tuned)
        for alpha0 in own.columns
    ]
    worst = max(judged, key=lambda one: (one.p, math.inf if math.isnan(one.ratio.high) else one.ratio.high))
    mean = np.exp((np.log(own.loc[seeds].to_numpy()) - np.log(tuned)[:, None]).mean(axis=1))
    above = int((mean > claim.bar).sum())
    anywhere = len(judged) * min(one.p_worse for one in judged)
    return replace(
        worst,
        alpha0s=len(judged),
        diverged=int((tried["outcome"] == "diverged").sum()),
        p_worse=min(1.0, 2 * min(anywhere, sign_test(above, len(seeds) - above))),
    )


def _reaches(claim: UntunedClaim, rows: pd.DataFrame, others: pd.DataFrame) -> UntunedClaim:
    tried = rows[rows["alpha0"] == rows["default_alpha0"]]
    own, reference = costs(tried, "best_val_loss", ["alpha0"]), costs(others, MEASURE, ["alpha0"])
    seeds = own.index.intersection(reference.index)
    if len(seeds) < 2:
        return replace(claim, reason="fewer than two seeds have ended at every α₀ of both")
    tuned = held_out_best(reference.loc[seeds].to_numpy(), reference.shape[1])
    judged = _judged(claim, own.loc[seeds].to_numpy()[:, 0], tuned)
    diverged = int((tried["outcome"] == "diverged").sum())
    return replace(judged, alpha0=float(own.columns[0]), alpha0s=1, diverged=diverged)


def _at_defaults(claim: UntunedClaim, rows: pd.DataFrame, others: pd.DataFrame) -> UntunedClaim:
    sides = [trials[trials["alpha0"] == trials["default_alpha0"]] for trials in (rows, others)]
    for side, method in zip(sides, (claim.method, claim.other), strict=True):
        if side.empty:
            return replace(claim, reason=f"{method.optimizer} has no default α₀ in this study")
    own, other = (costs(side, MEASURE, ["alpha0"]) for side in sides)
    seeds = own.index.intersection(other.index)
    if len(seeds) < 2:
        return replace(claim, reason="fewer than two seeds have ended with both")
    judged = _judged(claim, *(table.loc[seeds].to_numpy()[:, 0] for table in (own, other)))
    diverged = int((sides[0]["outcome"] == "diverged").sum())
    return replace(judged, alpha0=float(own.columns[0]), alpha0s=1, diverged=diverged)


def _judged(claim: UntunedClaim, own: Floats, other: Floats) -> UntunedClaim:
    """Return the claim with the seeds' numbers; a loss of +inf is above every other, and equal to itself."""
    with np.errstate(invalid="ignore"):
        ratios = np.where(np.isinf(own) & np.isinf(other), claim.bar, own / other)
    finite = np.isfinite(own) & np.isfinite(other)
    below, above = int((ratios < claim.bar).sum()), int((ratios > claim.bar).sum())
    return replace(
        claim,
        seeds=len(ratios),
        below=below,
        ratio=paired_log_ratio(own[finite], other[finite]),
        p=sign_test(below, len(ratios) - below),
        p_worse=sign_test(above, len(ratios) - above),
    )


def _corrected(claims: list[UntunedClaim]) -> list[UntunedClaim]:
    judged = [claim for claim in claims if not claim.reason]
    better, worse = (holm([getattr(claim, name) for claim in judged]) for name in ("p", "p_worse"))
    values: Iterator[tuple[float, float]] = zip(map(float, better), map(float, worse), strict=True)
    corrected = [
        replace(claim, p=p, p_worse=p_worse, comparisons=len(judged))
        for claim, (p, p_worse) in zip(judged, values, strict=True)
    ]
    return [*corrected, *(claim for claim in claims if claim.reason)]
