"""Losses, profiles and claims without tuning, against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from study.analysis import untuned
from study.analysis.tables import trial_table
from study.analysis.untuned_claims import Question, untuned_claim_table, untuned_claims
from study.config.loader import Study
from study.config.sections import Untuned
from study.storage.records import EpochRecord, TrialRecord

INF = math.inf
CLAIM = {"optimizers": "sgd", "against": "adam", "alpha0": {"low": 0.01, "high": 0.1}}


def study(losses, seeds, **changes) -> Study:
    alpha0 = sorted({alpha for by_alpha in losses.values() for alpha in by_alpha}, reverse=True)
    settings = {
        "name": "made-up",
        "workloads": sorted({workload for workload, _ in losses}),
        "optimizers": [
            {"name": name, "alpha0": [a for a in alpha0 if a in losses[w, name]], **changes.pop(name, {})}
            for w, name in losses
            if w == min(losses)[0]
        ],
        "alpha0": alpha0,
        "seeds": seeds,
        "iterations": 10,
    }
    return Study.model_validate(settings | changes)


def table(losses, **changes) -> pd.DataFrame:
    """Trials by workload and optimizer, α₀ and seed: the final validation loss, INF if it diverged."""
    seeds = max(len(of_seeds) for by_alpha in losses.values() for of_seeds in by_alpha.values())
    planned = study(losses, seeds, **changes)
    records = []
    for trial in planned.trials():
        of_seeds = losses[trial.workload, trial.optimizer][trial.alpha0]
        if trial.seed >= len(of_seeds) or of_seeds[trial.seed] is None:
            continue
        loss = of_seeds[trial.seed]
        arrays = np.full(10, trial.alpha0), np.zeros(10), np.full(10, 1.0)
        epoch = EpochRecord(1, 1, *arrays, loss, 0.5, 1.0)
        status = "diverged" if math.isinf(loss) else "finished"
        records.append(TrialRecord(trial, status=status, epochs=(epoch,)))
    return trial_table(records, planned)


TWO = {
    ("digits-logreg", "adam"): {0.1: [1, 2, 3], 0.01: [4, 4, 4]},
    ("digits-logreg", "sgd"): {0.1: [INF, INF, 3], 0.01: [3, 3, 3]},
    ("digits-mlp", "adam"): {0.1: [10, 10, 10], 0.01: [20, 20, 20]},
    ("digits-mlp", "sgd"): {0.1: [10.5, 10.5, 99], 0.01: [40, 5, 40]},
}
DEFAULTS = {"sgd": {"default_alpha0": 0.01}}


def by_point(losses: pd.DataFrame, column: str) -> dict:
    keys = zip(losses["workload"], losses["optimizer"], losses["alpha0"], strict=True)
    return dict(zip(keys, losses[column], strict=True))


def test_a_loss_is_a_median_and_its_ratio_is_to_the_best_of_any_method_and_alpha0():
    losses = untuned.losses(table(TWO, **DEFAULTS))
    assert by_point(losses, "loss") == {
        ("digits-logreg", "adam", 0.1): 2,
        ("digits-logreg", "adam", 0.01): 4,
        ("digits-logreg", "sgd", 0.1): INF,
        ("digits-logreg", "sgd", 0.01): 3,
        ("digits-mlp", "adam", 0.1): 10,
        ("digits-mlp", "adam", 0.01): 20,
        ("digits-mlp", "sgd", 0.1): 10.5,
        ("digits-mlp", "sgd", 0.01): 40,
    }
    ratios = by_point(losses, "ratio")
    assert ratios["digits-logreg", "sgd", 0.01] == 1.5
    assert ratios["digits-logreg", "sgd", 0.1] == INF
    assert ratios["digits-mlp", "sgd", 0.1] == pytest.approx(1.05)
    best = by_point(losses, "is_best")
    assert {key[:2]: key[2] for key, is_best in best.items() if is_best} == {
        ("digits-logreg", "adam"): 0.1,
        ("digits-logreg", "sgd"): 0.01,
        ("digits-mlp", "adam"): 0.1,
        ("digits-mlp", "sgd"): 0.1,
    }
    assert losses[losses["is_default"]]["alpha0"].tolist() == [0.01, 0.01]
    assert by_point(losses, "diverged")["digits-logreg", "sgd", 0.1] == 2


def shares(profile: pd.DataFrame, optimizer: str, points: str) -> dict[float, float]:
    rows = profile[(profile["optimizer"] == optimizer) & (profile["points"] == points)]
    return {round(tau, 6): share for tau, share in zip(rows["tau"], rows["share"], strict=True)}


def test_the_profile_is_the_share_of_points_within_tau():
    profile = untuned.profile(untuned.losses(table(TWO, **DEFAULTS)))
    assert shares(profile, "adam", "every") == {1.0: 0.5, 2.0: 1.0}
    assert shares(profile, "sgd", "every") == {1.0: 0.0, 1.05: 0.25, 1.5: 0.5, 4.0: 0.75}  # one diverges
    assert shares(profile, "sgd", "default") == {1.0: 0.0, 1.5: 0.5, 4.0: 1.0}
    assert shares(profile, "adam", "default") == {}
    assert shares(profile, "sgd", "tuned") == {1.0: 0.0, 1.05: 0.5, 1.5: 1.0}
    assert shares(profile, "adam", "tuned") == {1.0: 1.0}
    assert set(profile["of"]) == {4, 2}


def test_the_summary_has_the_same_shares_and_the_best_first():
    rows = untuned.summary(untuned.losses(table(TWO, **DEFAULTS))).set_index("optimizer")
    assert rows.index.tolist() == ["adam", "sgd"]
    assert rows.loc["sgd", ["every_small", "every_large", "every_median"]].tolist() == [0.25, 0.5, 2.75]
    assert rows.loc["sgd", ["default_small", "default_large", "default_median"]].tolist() == [0, 0.5, 2.75]
    assert rows.loc["adam", ["tuned_small", "tuned_large", "tuned_median"]].tolist() == [1, 1, 1]
    assert math.isnan(rows.loc["adam", "default_small"])
    assert rows["workloads"].tolist() == [2, 2]
    assert rows["diverged"].tolist() == [0, 2]


def test_a_workload_that_one_optimizer_has_not_ended_on_counts_for_none():
    missing = TWO | {("digits-mlp", "adam"): {0.1: [None] * 3, 0.01: [None] * 3}}
    losses = untuned.losses(table(missing))
    assert set(losses["workload"]) == {"digits-logreg", "digits-mlp"}
    rows = untuned.summary(losses)
    assert rows["workloads"].tolist() == [1, 1]
    assert set(untuned.profile(losses)["of"]) == {1, 2}


def test_a_study_with_losses_of_zero_or_nothing_at_all_has_no_ratios():
    assert untuned.losses(table({("digits-mlp", "adam"): {0.1: [0.0], 0.01: [1.0]}})).empty
    nothing = untuned.losses(table({("digits-mlp", "adam"): {0.1: [None], 0.01: [None]}}))
    assert nothing.empty
    assert untuned.profile(nothing).empty
    assert untuned.summary(nothing).empty


# Claims


def one(adam, sgd, **claim) -> list:
    losses = {("digits-mlp", "adam"): adam, ("digits-mlp", "sgd"): sgd}
    found = untuned_claims(table(losses), Untuned.model_validate(CLAIM | claim))
    return [claim for claim in found if claim.question is Question.UNTUNED]


def test_six_seeds_within_the_bar_at_every_alpha0_support_the_claim():
    """The p is that of six agreeing seeds, however many α₀; no seed's reference is chosen on itself."""
    adam = {0.1: [2.0] * 6, 0.01: [1.0] * 6}
    (claim,) = one(adam, {0.1: [1.04] * 6, 0.01: [0.9] * 6})
    assert (claim.p, claim.seeds, claim.below, claim.alpha0, claim.alpha0s) == (1 / 64, 6, 6, 0.1, 2)
    assert claim.ratio == pytest.approx((1.04, 1.04, 1.04))
    assert claim.verdict == "supported"
    assert claim.text == (
        "At its worst α₀ of 2, 0.1, 1.04 × the final validation loss of Adam, tuned "
        "(95 % interval 1.04 to 1.04), below 1.05 × in 6 of 6 seeds; sign test p = 0.016."
    )


def test_one_alpha0_decides():
    (claim,) = one({0.1: [1.0] * 6}, {0.1: [0.5] * 6, 0.01: [1.0] * 5 + [1.1]})
    assert (claim.alpha0, claim.below, claim.verdict) == (0.01, 5, "undecided")
    assert claim.p == pytest.approx(7 / 64)


def test_alpha0_outside_the_range_do_not_count():
    (claim,) = one({0.1: [1.0] * 6}, {1.0: [9.0] * 6, 0.1: [1.0] * 6, 0.001: [9.0] * 6})
    assert (claim.alpha0s, claim.verdict) == (1, "supported")
    (claim,) = one({0.1: [1.0] * 6}, {1.0: [9.0] * 6})
    assert claim.text == "Not judged: no α₀ of the claimed range was tried."
    assert claim.verdict == "undecided"


def test_the_reference_is_tuned_on_the_other_seeds():
    """The sixth seed is judged at 0.1, which is better on the others, and each of the others at 0.01."""
    adam = {0.1: [1.0] * 5 + [8.0], 0.01: [2.0] * 5 + [1.0]}
    (claim,) = one(adam, {0.1: [4.0] * 6})
    # Without one of the first five the means are 2.4 and 1.8: 4 / 2. Without the sixth 1 and 2: 4 / 8.
    assert claim.ratio.ratio == pytest.approx((2.0**5 * 0.5) ** (1 / 6))


def test_an_optimizer_that_diverges_or_is_worse_on_average_is_not_supported():
    (claim,) = one({0.1: [1.0] * 6}, {0.1: [1.0] * 6, 0.01: [INF] * 6})
    assert (claim.verdict, claim.diverged, claim.p) == ("not supported", 6, 1.0)
    assert "6 trials diverged" in claim.text
    (claim,) = one({0.1: [1.0] * 6}, {0.1: [1.0] * 6, 0.01: [2.0] * 6})
    assert claim.p_worse == pytest.approx(2 / 64)
    assert claim.verdict == "not supported"
    (claim,) = one({0.1: [1.0] * 6}, {0.1: [0.5] * 6, 0.01: [1.2] * 6})
    assert claim.p_worse == pytest.approx(2 * 2 / 64)
    assert claim.verdict == "undecided"


def test_the_best_loss_on_the_way_is_what_reaches_the_tuned_one():
    """Here it is the final one as well: trials have one epoch."""
    losses = {
        ("digits-mlp", "adam"): {0.1: [1.0] * 6, 0.01: [3.0] * 6},
        ("digits-mlp", "sgd"): {0.1: [9.0] * 6, 0.01: [0.9] * 5 + [1.1]},
    }
    trials = table(losses, sgd={"default_alpha0": 0.01})
    found = untuned_claims(trials, Untuned.model_validate(CLAIM))
    (claim,) = (claim for claim in found if claim.question is Question.REACHES)
    assert (claim.below, claim.seeds, claim.alpha0, claim.verdict) == (5, 6, 0.01, "undecided")
    assert claim.ratio.ratio == pytest.approx((0.9**5 * 1.1) ** (1 / 6))
    trials["best_val_loss"] = trials["final_val_loss"] / 2  # it was there earlier
    found = untuned_claims(trials, Untuned.model_validate(CLAIM))
    (claim,) = (claim for claim in found if claim.question is Question.REACHES)
    assert (claim.below, claim.verdict) == (6, "supported")


def test_at_the_defaults_rivals_are_corrected_for():
    losses = {
        ("digits-mlp", "adam"): {0.1: [1.0] * 6, 0.01: [0.1] * 6},
        ("digits-mlp", "sgd"): {0.1: [9.0] * 6, 0.01: [0.8] * 6},
        ("digits-mlp", "sgdn"): {0.1: [0.8] * 5 + [0.9], 0.01: [7.0] * 6},
    }
    defaults = {
        "adam": {"default_alpha0": 0.1},
        "sgd": {"default_alpha0": 0.01},
        "sgdn": {"default_alpha0": 0.1},
    }
    trials = table(losses, **defaults)
    claimed = Untuned.model_validate(CLAIM | {"rivals": ["adam", "sgdn"]})
    found = {c.other.optimizer: c for c in untuned_claims(trials, claimed) if c.question is Question.DEFAULT}
    against_adam, against_sgdn = found["adam"], found["sgdn"]
    assert (against_adam.below, against_adam.p, against_adam.verdict) == (6, 2 / 64, "supported")
    assert against_adam.ratio.ratio == pytest.approx(0.8)
    assert against_adam.text == (
        "At the defaults, 0.800 × the final validation loss of Adam (95 % interval 0.800 to 0.800), "
        "lower in 6 of 6 seeds; sign test p = 0.031, corrected for 2 comparisons."
    )
    assert (against_sgdn.below, against_sgdn.verdict) == (1, "undecided")
    rows = untuned_claim_table(list(found.values()))
    assert rows["verdict"].tolist() == ["supported", "undecided"]
    assert rows["against"].tolist() == ["adam", "sgdn"]


def test_no_claim_without_a_study_that_makes_it_and_none_on_too_few_seeds():
    losses = {("digits-mlp", "adam"): {0.1: [1.0]}, ("digits-mlp", "sgd"): {0.1: [1.0]}}
    assert untuned_claims(table(losses), None) == []
    (claim,) = untuned_claims(table(losses), Untuned.model_validate(CLAIM))
    assert claim.reason == "fewer than two seeds have ended at every α₀ of both"
    assert untuned_claim_table([]).empty
