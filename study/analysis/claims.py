"""The report's three claims about every optimizer and its baseline, each with a verdict and its numbers.

What is decided here, once and for all comparisons, before any curve is seen:

**Observations.** The unit is the seed: per seed the mean over the α₀ tried of log(new / baseline), on the
seeds whose trials all ended. α₀ × seed cells are not independent and are never counted as such. Comparing at
equal α₀ is what H. Mittal's report does; it answers "whatever α₀ I happen to choose", for the α₀ of this
study. Beside it stands the comparison of each at its own best α₀, chosen on the other seeds, which answers
"if I tune" and decides nothing.

**Measures.** "Converges faster": iterations to the threshold, min(N, budget); the smoothed measure stands
beside it. "Generalizes better": the best validation loss of any epoch. As many epochs for both make it a fair
comparison; as a number it is optimistic, being a minimum on the data that it is reported on, and over all α₀
it rewards speed as well: a slow method at a small α₀ is still far from its best. "Less sensitive to α₀": the
width in decades of the range of α₀ within 2 × the method's own best N (``sensitivity.alpha0_widths``).

**Test.** The claims have a direction, so the exact sign test over seeds, one-sided: it assumes nothing else,
and censored seeds can enter as a sign, or as unclear, which counts against. Six seeds that all agree give
p = 1/64 = 0.0156. (Two-sided it would be 0.031, which no correction for three comparisons leaves below 0.05.)
Wilcoxon's p stands beside it and decides nothing.

**Correction.** Holm's, over the comparisons of one claim in one setup (a workload) and family: the new
optimizers against hypergradient descent are one, hypergradient descent against a fixed α another. Three
comparisons leave 3/64 = 0.047 to six agreeing seeds; four need seven seeds. Planned comparisons count even
while their trials are missing. There is no correction across claims, workloads and families: of 20 families
in which nothing is true, expect up to one with something "supported". Fix the number of seeds beforehand: to
add seeds until a verdict changes is another test, with another p.

**Verdict.** "supported": adjusted p < 0.05 and the 95 % interval of the ratio on the better side of 1. "not
supported": the same the other way, or a difference shown to be within :data:`MARGINS`, by two one-sided sign
tests with the same correction and the interval within the margins. A difference that is both significant and
within the margin is "supported", and the text says that it is small; it also says where the smoothed measure,
or each at its best α₀, does not show it. Else "undecided": not enough is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from study.analysis import claim_text
from study.analysis.paired_seeds import ENOUGH_ALPHA0, Seeds, seed_ratios, seed_ratios_tuned, seed_spans
from study.analysis.pairing import BASELINES, METHOD, SETUP, MethodPair, method_pairs
from study.analysis.stats import LEVEL, Ratio, holm, pairs_needed
from study.config.optimizer_name import OptimizerName

Verdict = Literal["supported", "not supported", "undecided"]

FASTER, BETTER, INSENSITIVE = "converges faster", "generalizes better", "less sensitive to α₀"
CLAIMS = (FASTER, BETTER, INSENSITIVE)

MARGINS = {FASTER: 1.05, BETTER: 1.01}
"""Ratios within 1/margin … margin are a difference that does not matter: 5 % of the iterations, 1 % of the
loss. There is none for widths, which are known to a step of the grid only."""

_COUNTS = ("better", "worse", "equal", "unclear", "missed", "baseline_missed", "both_missed")

COLUMNS = (
    *("claim", "family", *SETUP, *METHOD, "baseline", *(f"baseline_{name}" for name in METHOD[1:])),
    *("measure", "pairs", "seeds", "incomplete", "alpha0s", "ratio", "ratio_low", "ratio_high"),
    *_COUNTS,
    *("diverged", "baseline_diverged", "pruned", "p", "p_worse", "p_same", "p_wilcoxon"),
    *("smoothed_ratio", "smoothed_low", "smoothed_high", "smoothed_better", "smoothed_worse"),
    *("tuned_ratio", "tuned_low", "tuned_high", "tuned_better", "tuned_worse", "reason"),
    *("p_adjusted", "p_worse_adjusted", "p_same_adjusted", "comparisons", "seeds_needed"),
    *("verdict", "text", "notes"),
)


def claims(trials: pd.DataFrame, against: Mapping[str, str] = BASELINES) -> pd.DataFrame:
    """Return every claim about every method and its baseline: one row each, in the order of :data:`CLAIMS`.

    Args:
        trials: from ``tables.trial_table``, rows in any order, pending and pruned trials included.
        against: optimizer → baseline.

    Returns:
        Columns :data:`COLUMNS`. ``ratio`` is the geometric mean of new / baseline, for "less sensitive" that
        of the spans of α₀ (10 to the power of the width), where more than 1 is better; elsewhere less is.
        ``pairs`` are α₀ × seed, ``seeds`` the independent observations, among which ``better``, ``worse``,
        ``equal`` and ``unclear`` are counted, and ``incomplete`` the seeds left out because trials are
        missing. ``missed`` counts the trials that did not reach the threshold (or have no validation loss)
        though their partner did. ``p`` and its adjusted value are for better, ``p_worse`` for worse,
        ``p_same`` for within the margin. ``reason`` is why a claim cannot be judged at all; then it has no p
        and is no comparison to correct for. ``text`` is one sentence, ``notes`` further ones or empty.
    """
    rows = [_observe(claim, pair) for claim in CLAIMS for pair in method_pairs(trials, against)]
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    table = pd.DataFrame(rows)
    families = table.groupby(["claim", "family", *SETUP], sort=False, dropna=False)
    for name in ("p", "p_worse", "p_same"):
        table[f"{name}_adjusted"] = families[name].transform(lambda p: pd.Series(holm(p), index=p.index))
    table["comparisons"] = families["p"].transform("count").astype(int)
    table["seeds_needed"] = [pairs_needed(max(count, 1)) for count in table["comparisons"]]
    complete = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    for row in complete:
        row["verdict"] = _verdict(row)
        row |= {"text": claim_text.text(row, MARGINS.get(row["claim"])), "notes": claim_text.notes(row)}
    return pd.DataFrame(complete, columns=list(COLUMNS))


def _observe(claim: str, pair: MethodPair) -> dict[str, Any]:
    """A claim's row as far as it can be filled in without its family."""
    measure = {FASTER: "iterations_to_threshold", BETTER: "best_val_loss", INSENSITIVE: "decades"}[claim]
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan) | pair.identity
    row |= {"claim": claim, "measure": measure, "family": _family(pair.baseline), "reason": ""}
    row |= dict.fromkeys(("pairs", "seeds", "incomplete", "alpha0s", *_COUNTS), 0)
    for prefix, these in (("", pair.new), ("baseline_", pair.base)):
        row[f"{prefix}diverged"] = int((these["outcome"] == "diverged").sum())
    row["pruned"] = int((pd.concat([pair.new, pair.base])["outcome"] == "pruned").sum())
    shared = set(pair.new["alpha0"]) & set(pair.base["alpha0"])
    if reason := _unanswerable(claim, pair, shared):
        return row | {"reason": reason}
    cap = pair.setup["budget"] if claim == FASTER else math.inf
    try:
        seeds = seed_spans(pair) if claim == INSENSITIVE else seed_ratios(pair, measure, cap)
    except ValueError as error:
        return row | {"reason": str(error)}
    planned = len(set(pair.new["seed"]) & set(pair.base["seed"]))
    row |= {"seeds": len(seeds.seeds), "incomplete": planned - len(seeds.seeds), "alpha0s": seeds.alpha0s}
    row |= {"pairs": len(seeds.seeds) * seeds.alpha0s}
    row |= {name: getattr(seeds, name) for name in _COUNTS}
    row |= _ratio(seeds.ratio(), "ratio", "ratio_low", "ratio_high")
    row["p"], row["p_worse"] = seeds.tests()
    margin = MARGINS.get(claim)
    row["p_same"] = math.nan if margin is None else seeds.test_within(math.log(margin))
    if claim == INSENSITIVE:
        return row
    row["p_wilcoxon"] = seeds.test_ranks()
    if claim == FASTER:
        row |= _beside("smoothed", seed_ratios(pair, f"smoothed_{measure}", cap))
    return row | _beside("tuned", seed_ratios_tuned(pair, measure, cap))


def _family(baseline: str) -> str:
    return "against hypergradient descent" if OptimizerName.parse(baseline).learned else "against a fixed α"


def _unanswerable(claim: str, pair: MethodPair, shared: set[float]) -> str:
    if not shared:
        return "the two were not tried at any common α₀"
    if claim != BETTER and not pair.same_threshold:
        known = pair.new["threshold"].notna().any() or pair.base["threshold"].notna().any()
        return "the two have different thresholds" if known else "the study sets no threshold"
    if claim == INSENSITIVE and (tried := sum(alpha > 0 for alpha in shared)) < ENOUGH_ALPHA0:
        return f"a width needs {ENOUGH_ALPHA0} or more α₀; both were tried at {tried}"
    return ""


def _beside(name: str, seeds: Seeds | None) -> dict[str, Any]:
    if seeds is None or not len(seeds.seeds):
        return {}
    counts = {f"{name}_better": seeds.better, f"{name}_worse": seeds.worse}
    return counts | _ratio(seeds.ratio(), f"{name}_ratio", f"{name}_low", f"{name}_high")


def _ratio(ratio: Ratio, *names: str) -> dict[str, float]:
    return dict(zip(names, ratio, strict=True))


def _verdict(row: Mapping[str, Any]) -> Verdict:
    """See the module's docstring. Without any ratio (one side never has a value) the test alone decides."""
    low, high = row["ratio_low"], row["ratio_high"]
    if row["claim"] == INSENSITIVE:
        low, high = 1 / high, 1 / low  # wider is better
    if row["p_adjusted"] < LEVEL and not high >= 1:
        return "supported"
    if row["p_worse_adjusted"] < LEVEL and not low <= 1:
        return "not supported"
    margin = MARGINS.get(row["claim"], math.nan)
    if row["p_same_adjusted"] < LEVEL and 1 / margin < low and high < margin:
        return "not supported"
    return "undecided"
