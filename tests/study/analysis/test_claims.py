"""Claims on made-up trials whose verdicts are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from study.analysis import claims as module
from study.analysis import paired_seeds
from study.analysis.claim_table import COLUMNS, claim_table
from study.analysis.claims import Kind
from study.analysis.pairing import method_pairs
from study.analysis.tables import trial_table
from study.config.loader import load_study
from study.config.optimizer_name import OptimizerName

FASTER, BETTER, INSENSITIVE = CLAIMS = tuple(Kind)
BUDGET = 1000.0
INF = math.inf
BETA = {"sgd": math.nan, "sgdn": math.nan, "adam": math.nan}
NEW = ("sgd-sgdn", "sgdn-sgdn", "adam-adam")


def claims(trials, *options, **named) -> pd.DataFrame:
    """All claims, as the table that is exported."""
    return claim_table(module.claims(trials, *options, **named))


def made_up(hits, *, val=None, smoothed=None, threshold=0.3) -> pd.DataFrame:
    """Trials by optimizer, α₀ and seed: N, INF if not reached, None if still to run.

    A validation loss of INF is none: the trial diverged before its first.
    """
    rows = []
    for optimizer, by_alpha in hits.items():
        name = OptimizerName.parse(optimizer)
        named = {"optimizer": optimizer, "op": name.op, "lop": name.lop, "rule": name.rule}
        for alpha0, of_seeds in by_alpha.items():
            for seed, hit in enumerate(of_seeds):
                loss = 0.5 if val is None else val[optimizer][alpha0][seed]
                smooth = hit if smoothed is None else smoothed[optimizer][alpha0][seed]
                ended = "diverged" if math.isinf(loss) else "not_reached" if hit == INF else "reached"
                known = {
                    "iterations_to_threshold": hit,
                    "smoothed_iterations_to_threshold": smooth,
                    "best_val_loss": loss,
                    "seconds_to_threshold": hit,
                }
                rows.append(
                    {
                        **{"workload": "mnist-mlp", "workload_args": ""},
                        **{"batch_size": 128, "drop_last": False, "precision": "float32"},
                        **{"weight_decay": 1e-4, "epochs": 20.0, "budget": BUDGET, "threshold": threshold},
                        **named,
                        **{"beta": BETA.get(optimizer, 1e-3), "granularity": "group"},
                        **{"optimizer_args": "", "alpha0": alpha0, "seed": seed},
                        "outcome": "pending" if hit is None else ended,
                        **{
                            name: math.nan if hit is None or value == INF else float(value)
                            for name, value in known.items()
                        },
                    }
                )
    return pd.DataFrame(rows)


def row_of(trials, claim=FASTER, optimizer="adam-adam", **options) -> pd.Series:
    table = claims(trials, **options)
    (place,) = np.flatnonzero((table["claim"] == claim) & (table["optimizer"] == optimizer))
    return table.iloc[place]


def one(new, base, **kept) -> pd.DataFrame:
    """adam-adam and adam-sgd at one α₀, N by seed."""
    return made_up({"adam-sgd": {0.01: base}, "adam-adam": {0.01: new}}, **kept)


def losses(new, base) -> pd.DataFrame:
    ones = {name: {0.01: [1] * len(new)} for name in ("adam-sgd", "adam-adam")}
    return made_up(ones, val={"adam-sgd": {0.01: base}, "adam-adam": {0.01: new}})


# what six seeds can and cannot show


def nine(seeds: int, faster=0.8) -> pd.DataFrame:
    """The report's nine optimizers; each new one is faster than its baseline on every seed."""
    base = [400 + 10 * seed for seed in range(seeds)]
    hits = {}
    for op in ("sgd", "sgdn", "adam"):
        hits |= {op: {0.01: base}, f"{op}-sgd": {0.01: base}}
        hits[f"{op}-{'adam' if op == 'adam' else 'sgdn'}"] = {0.01: [faster * n for n in base]}
    return made_up(hits)


def test_six_seeds_that_agree_support_three_comparisons():
    table = claims(nine(6))
    rows = table[(table["claim"] == FASTER) & table["optimizer"].isin(NEW)]
    assert rows["p"].tolist() == pytest.approx([1 / 64] * 3)
    assert rows["p_adjusted"].tolist() == pytest.approx([3 / 64] * 3)
    assert rows["p_wilcoxon"].tolist() == pytest.approx([1 / 64] * 3, abs=0.01)
    assert rows["ratio"].tolist() == pytest.approx([0.8] * 3)
    assert rows["comparisons"].tolist() == [3] * 3
    assert rows["verdict"].tolist() == ["supported"] * 3
    assert rows["text"].iloc[0] == (
        "SGD–SGDN reaches the threshold in 0.800 × the iterations of SGD-HD (95 % interval 0.800 to 0.800), "
        "sooner in 6 and later in 0 of 6 seeds; sign test p = 0.016, 0.047 corrected for 3 comparisons."
    )


def test_five_seeds_cannot_and_the_text_says_how_many_could():
    row = row_of(nine(5))
    assert (row["verdict"], row["seeds_needed"]) == ("undecided", 6)
    assert row["text"].endswith("; 5 seeds are too few: 6 or more are needed to stay below 0.05.")


def test_alpha0_times_seed_cells_are_not_independent_observations():
    alphas = (0.001, 0.01, 0.1, 1.0)
    trials = made_up(
        {
            "adam-sgd": {alpha: [100, 110, 120] for alpha in alphas},
            "adam-adam": {alpha: [50, 60, 70] for alpha in alphas},
        }
    )
    row = row_of(trials)
    assert (row["pairs"], row["seeds"], row["better"]) == (12, 3, 3)
    assert row["p"] == pytest.approx(1 / 8)
    assert row["verdict"] == "undecided"


def test_more_comparisons_need_more_seeds():
    trials = nine(6)
    more = trials[trials["optimizer"] == "sgd-sgdn"].assign(optimizer="sgd-adam")
    row = row_of(pd.concat([trials, more], ignore_index=True))
    assert (row["comparisons"], row["p_adjusted"]) == (4, pytest.approx(4 / 64))
    assert (row["verdict"], row["seeds_needed"]) == ("undecided", 7)


def test_hypergradient_descent_against_plain_is_a_family_of_its_own():
    table = claims(nine(6)).query(f"claim == '{FASTER}'")
    baselines = dict(zip(table["optimizer"], table["baseline"], strict=True))
    assert (baselines["adam-adam"], baselines["adam-sgd"]) == ("adam-sgd", "adam")
    families = table.groupby("family")["optimizer"].apply(list).to_dict()
    assert families == {
        "against a fixed α": ["sgd-sgd", "sgdn-sgd", "adam-sgd"],
        "against hypergradient descent": list(NEW),
    }


def test_what_the_study_names_is_a_family_of_its_own():
    """And is corrected for its own comparisons only."""
    trials = made_up(
        {
            name: {0.01: [hit] * 6}
            for name, hit in [
                *(("adam", 400), ("adam-sgd", 200), ("adam-sgd cosine", 100), ("adam-sgdn cosine", 50)),
                *(("AdamW cosine", 80), ("Prodigy", 90)),
            ]
        }
    )
    named = {"adam-sgdn cosine": ("AdamW cosine", "Prodigy", "adam-sgd cosine")}
    table = claims(trials, named=named).query(f"claim == '{FASTER}'").set_index(["optimizer", "baseline"])
    assert table["family"].to_dict() == {
        ("adam-sgd", "adam"): "against a fixed α",
        ("adam-sgd cosine", "adam"): "against a fixed α",
        ("adam-sgdn cosine", "adam-sgd cosine"): "against hypergradient descent",
        ("adam-sgdn cosine", "AdamW cosine"): "against what the study names",
        ("adam-sgdn cosine", "Prodigy"): "against what the study names",
    }
    row = table.loc["adam-sgdn cosine", "Prodigy"]
    assert (row["comparisons"], row["p_adjusted"]) == (2, pytest.approx(2 / 64))
    assert (row["verdict"], row["ratio"]) == ("supported", pytest.approx(50 / 90))
    assert table.loc[("adam-sgdn cosine", "adam-sgd cosine"), "comparisons"] == 1


def test_planned_comparisons_count_while_their_trials_are_missing():
    trials = nine(6)
    waiting = trials["optimizer"].isin(["sgd-sgdn", "sgdn-sgdn"])
    trials.loc[waiting, "outcome"] = "pending"
    row = row_of(trials)
    assert (row["comparisons"], row["p_adjusted"]) == (3, pytest.approx(3 / 64))
    pending = row_of(trials, optimizer="sgd-sgdn")
    assert (pending["seeds"], pending["incomplete"], pending["p"]) == (0, 6, 1.0)
    assert pending["text"] == "No seed has ended with both SGD–SGDN and SGD-HD at every α₀ yet."


# numbers


def test_a_seed_is_the_mean_over_alpha0_of_log_ratios():
    trials = made_up(
        {
            "adam-sgd": {0.01: [100, 200], 0.1: [300, 400]},
            "adam-adam": {0.01: [50, 400], 0.1: [150, 100]},
        }
    )
    row = row_of(trials)
    by_seed = [math.sqrt(0.5 * 0.5), math.sqrt(2 * 0.25)]
    assert row["ratio"] == pytest.approx(stats.gmean(by_seed))
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((min(by_seed), max(by_seed)))
    assert (row["better"], row["worse"], row["equal"]) == (2, 0, 0)


def test_the_other_way_is_not_supported():
    row = row_of(one([500] * 6, [400, 410, 420, 430, 440, 450]))
    assert (row["better"], row["worse"], row["verdict"]) == (0, 6, "not supported")
    assert row["text"].endswith("; the other way p = 0.016, corrected.")


def test_a_difference_within_the_margin_is_not_support():
    row = row_of(losses([0.301, 0.299, 0.3005, 0.2995, 0.3, 0.301], [0.3] * 6), BETTER)
    assert (row["verdict"], row["p_same_adjusted"]) == ("not supported", pytest.approx(1 / 64))
    assert row["text"].endswith("; equal within 1 %, p = 0.016, corrected.")


def test_a_small_but_certain_difference_is_supported_and_called_small():
    row = row_of(losses([0.2995, 0.299, 0.2991, 0.2994, 0.2993, 0.2992], [0.3] * 6), BETTER)
    assert row["verdict"] == "supported"
    assert row["text"].endswith("; the difference is within the 1 % taken as none that matters.")


def test_seeds_that_disagree_are_undecided():
    row = row_of(one([300, 300, 300, 300, 600, 600], [400] * 6))
    assert row["p"] == pytest.approx(stats.binomtest(4, 6, alternative="greater").pvalue)
    assert row["verdict"] == "undecided"
    assert row["text"].endswith("; the seeds do not agree enough.")


def test_seeds_that_agree_are_not_enough_where_the_interval_includes_no_difference():
    row = row_of(one([390] * 8 + [900], [400] * 9))
    assert (row["better"], row["p"]) == (8, pytest.approx(10 / 512))
    assert row["ratio_low"] < 1 < row["ratio_high"]
    assert row["verdict"] == "undecided"
    assert row["text"].endswith("; the interval includes no difference.")


def test_an_interval_beyond_the_margin_is_not_shown_to_be_equal():
    row = row_of(losses([0.3, 0.3001, 0.2999, 0.3, 0.3, 0.3001, 0.2999, 0.3, 0.4], [0.3] * 9), BETTER)
    assert row["p_same"] == pytest.approx(10 / 512)
    assert row["ratio_high"] > 1.01
    assert row["verdict"] == "undecided"


def test_ties_are_left_out_of_the_test():
    row = row_of(one([300, 300, 300, 300, 300, 400], [400] * 6))
    assert (row["better"], row["equal"], row["p"]) == (5, 1, pytest.approx(1 / 32))


# censored, missing, diverged, pruned


def test_where_only_the_baseline_missed_the_threshold_the_budget_stands_for_it():
    row = row_of(one([500] * 6, [INF] * 6))
    assert (row["better"], row["ratio"]) == (6, pytest.approx(0.5))
    assert (row["missed"], row["baseline_missed"], row["both_missed"]) == (0, 6, 0)
    assert row["verdict"] == "supported"
    assert "Threshold not reached, so that the budget stands for N: Adam–Adam alone in 0" in row["notes"]


def test_a_seed_whose_direction_rests_on_an_unknown_n_is_unclear_and_counts_against():
    # Twice as fast at one α₀, not there within the budget at the other: how much slower is unknown.
    trials = made_up(
        {
            "adam-sgd": {0.01: [400] * 7, 0.1: [900] * 7},
            "adam-adam": {0.01: [200] * 7, 0.1: [INF] + [900] * 6},
        }
    )
    row = row_of(trials)
    assert (row["better"], row["worse"], row["unclear"]) == (6, 0, 1)
    assert row["ratio"] < 1
    assert row["p"] == pytest.approx(stats.binomtest(6, 7, alternative="greater").pvalue)
    assert row["verdict"] == "undecided"
    assert "unclear in 1 of 7 seeds" in row["text"]


def test_a_baseline_that_missed_the_threshold_does_not_count_as_only_a_little_slower():
    # Half as fast at one α₀; at the other the baseline's N is unknown, and may outweigh that.
    trials = made_up(
        {
            "adam-sgd": {0.01: [200] * 6, 0.1: [INF] * 6},
            "adam-adam": {0.01: [400] * 6, 0.1: [900] * 6},
        }
    )
    row = row_of(trials)
    assert (row["better"], row["worse"], row["unclear"]) == (0, 0, 6)
    assert row["p_worse"] == 1.0


def test_where_neither_reached_the_threshold_nothing_is_shown():
    row = row_of(one([INF] * 6, [INF] * 6))
    assert (row["equal"], row["both_missed"], row["p"]) == (6, 6, 1.0)
    assert row["p_same"] > 0.05  # equal for want of knowledge is not shown to be equal
    assert row["verdict"] == "undecided"
    assert row["text"].endswith("; no seed shows a difference.")


def test_a_seed_with_a_missing_trial_is_left_out_and_counted():
    trials = made_up(
        {
            "adam-sgd": {0.01: [400] * 7, 0.1: [400] * 7},
            "adam-adam": {0.01: [200] * 7, 0.1: [800] * 6 + [None]},
        }
    )
    row = row_of(trials)
    assert (row["seeds"], row["incomplete"], row["pairs"]) == (6, 1, 12)
    assert row["equal"] == 6  # half and twice; the seventh would have been better at one α₀
    assert "1 seed left out, because trials are missing." in row["notes"]


@pytest.mark.parametrize("outcome", ["failed", "running", "pending", "pruned"])
def test_a_trial_that_did_not_end_makes_its_seed_incomplete(outcome):
    trials = one([200] * 7, [400] * 7)
    trials.loc[(trials["optimizer"] == "adam-sgd") & (trials["seed"] == 3), "outcome"] = outcome
    row = row_of(trials)
    assert (row["seeds"], row["incomplete"]) == (6, 1)
    assert ("1 trial pruned by a search" in row["notes"]) == (outcome == "pruned")


@pytest.mark.filterwarnings("error")  # the logarithms of infinite ratios are no mistake
def test_a_trial_that_diverged_before_its_first_validation_is_worse_than_any():
    row = row_of(losses([INF, 0.2, 0.2, 0.2, 0.2, 0.2], [0.3, 0.3, 0.3, 0.3, INF, INF]), BETTER)
    assert (row["better"], row["worse"], row["unclear"]) == (5, 1, 0)
    assert row["ratio"] == pytest.approx(2 / 3)  # of the three that have both
    assert (row["missed"], row["baseline_missed"]) == (1, 2)
    assert (row["diverged"], row["baseline_diverged"]) == (1, 2)
    assert "Trials that diverged: 1 of Adam–Adam, 2 of Adam-HD." in row["notes"]


def test_a_baseline_that_always_diverges_is_beaten_without_a_ratio():
    row = row_of(losses([0.2] * 6, [INF] * 6), BETTER)
    assert (row["verdict"], row["better"]) == ("supported", 6)
    assert math.isnan(row["ratio"])
    assert "has no ratio" in row["text"]


# beside the primary comparison


def test_a_claim_that_holds_at_equal_alpha0_and_not_at_the_best_says_so():
    trials = made_up(
        {
            "adam-sgd": {0.01: [100] * 6, 0.1: [900] * 6},
            "adam-adam": {0.01: [110] * 6, 0.1: [300] * 6},
        }
    )
    row = row_of(trials)
    assert row["verdict"] == "supported"
    assert (row["tuned_ratio"], row["tuned_better"], row["tuned_worse"]) == (pytest.approx(1.1), 0, 6)
    assert row["text"].endswith("; not so at each one's best α₀ (1.10 ×).")


def test_a_claim_that_one_alpha0_carries_says_that_it_is_not_shown_at_the_best():
    trials = made_up(
        {
            "adam-sgd": {0.01: [100] * 6, 0.1: [900] * 6},
            "adam-adam": {0.01: [100, 101, 99, 100, 102, 98], 0.1: [300] * 6},
        }
    )
    row = row_of(trials)
    assert row["verdict"] == "supported"
    assert row["text"].endswith("; not shown at each one's best α₀ (1.00 ×).")


def test_the_best_alpha0_of_a_seed_is_chosen_on_the_others():
    trials = made_up(
        {
            "adam-sgd": {0.01: [100] * 3, 0.1: [100] * 3},
            "adam-adam": {0.01: [10, 100, 100], 0.1: [60, 60, 60]},
        }
    )
    # Others of seed 0: 100 against 60; of seeds 1 and 2: 55 against 60. So 60, 100, 100.
    assert row_of(trials)["tuned_ratio"] == pytest.approx(stats.gmean([0.6, 1, 1]))


def test_the_smoothed_measure_stands_beside_and_its_contradiction_is_told():
    base, new = {0.01: [400] * 6}, {0.01: [200] * 6}
    slow = {"adam-sgd": {0.01: [500] * 6}, "adam-adam": {0.01: [600] * 6}}
    row = row_of(made_up({"adam-sgd": base, "adam-adam": new}, smoothed=slow))
    assert (row["smoothed_ratio"], row["smoothed_worse"]) == (pytest.approx(1.2), 6)
    assert (row["verdict"], row["text"][-36:]) == (
        "supported",
        "; not so on the smoothed loss (1.20 ×)."[-36:],
    )


# less sensitive to α₀

GRID = (0.0001, 0.001, 0.01, 0.1, 1.0)


def over_alpha0(new, base, seeds=6) -> pd.DataFrame:
    return made_up(
        {
            name: {alpha: [hit] * seeds for alpha, hit in zip(GRID, hits, strict=True)}
            for name, hits in (("adam-sgd", base), ("adam-adam", new))
        }
    )


def test_a_wider_range_of_alpha0_is_less_sensitive():
    row = row_of(over_alpha0([900, 150, 100, 150, 900], [900, 900, 100, 150, 900]), INSENSITIVE)
    assert math.log10(row["ratio"]) == pytest.approx(1.0)
    assert (row["better"], row["verdict"]) == (6, "supported")
    assert "'s by +1.00 decades (95 % interval +1.00 to +1.00), wider in 6 and narrower in 0" in row["text"]
    back = row_of(over_alpha0([900, 900, 100, 150, 900], [900, 150, 100, 150, 900]), INSENSITIVE)
    assert (back["worse"], back["verdict"]) == (6, "not supported")


def test_a_width_that_is_cut_off_is_a_bound():
    wide, cut = [900, 150, 100, 150, 900], [900, 900, 900, 100, 150]
    against = row_of(over_alpha0(wide, cut), INSENSITIVE)  # 2 decades against 1 or more
    assert (against["better"], against["unclear"]) == (0, 6)
    behind = row_of(over_alpha0(cut, wide), INSENSITIVE)  # 1 or more against 2
    assert (behind["worse"], behind["unclear"], behind["p_worse"]) == (0, 6, 1.0)
    ahead = row_of(over_alpha0([150, 150, 100, 150, 900], [900, 150, 100, 150, 900]), INSENSITIVE)
    assert ahead["better"] == 6  # 3 or more against 2
    both = row_of(over_alpha0([150, 150, 100, 150, 900], cut), INSENSITIVE)
    assert both["better"] == 6  # 3 against 1 within what was tried


def test_where_nothing_works_any_width_is_better():
    row = row_of(over_alpha0([INF, INF, 100, INF, INF], [INF] * 5), INSENSITIVE)
    assert (row["better"], row["baseline_missed"]) == (6, 6)
    assert "No α₀ reaches the threshold: Adam–Adam alone in 0, Adam-HD alone in 6" in row["notes"]


def test_equal_widths_on_a_grid_are_not_shown_to_be_equal():
    row = row_of(over_alpha0([900, 150, 100, 150, 900], [900, 150, 100, 150, 900]), INSENSITIVE)
    assert (row["equal"], row["verdict"]) == (6, "undecided")


# what cannot be judged


@pytest.mark.parametrize(
    ("claim", "change", "reason"),
    [
        (FASTER, {"threshold": math.nan}, "the study sets no threshold"),
        (INSENSITIVE, {}, "a width needs 3 or more α₀; both were tried at 1"),
        (BETTER, {"best_val_loss": -1.0}, "best_val_loss has values of 0 or less, which have no ratio"),
    ],
)
def test_what_cannot_be_judged_is_said_and_is_no_comparison(claim, change, reason):
    row = row_of(one([1] * 6, [2] * 6).assign(**change), claim)
    assert row["text"] == f"Not judged: {reason}."
    assert (row["verdict"], row["comparisons"]) == ("undecided", 0)
    assert math.isnan(row["p"])


def test_different_thresholds_or_no_common_alpha0_cannot_be_judged():
    trials = one([1] * 6, [2] * 6)
    trials.loc[trials["optimizer"] == "adam-adam", "threshold"] = 0.1
    assert row_of(trials)["reason"] == "the two have different thresholds"
    trials.loc[trials["optimizer"] == "adam-adam", "alpha0"] = 0.5
    assert row_of(trials, BETTER)["reason"] == "the two were not tried at any common α₀"


def test_no_comparison_no_rows_but_the_columns():
    table = claims(made_up({"sgd": {0.01: [1]}}))
    assert table.empty
    assert list(table.columns) == list(claims(nine(1)).columns) == list(COLUMNS)


def test_a_study_that_has_not_begun_has_its_claims_undecided_in_two_families_of_three():
    table = claims(trial_table([], load_study("alpha0-logreg")))
    assert len(table) == 3 * 6
    assert set(table["comparisons"]) == {3}
    assert set(table["seeds_needed"]) == {6}
    assert set(table["verdict"]) == {"undecided"}
    assert table["text"].str.startswith("No seed has ended").all()


# properties

hit = st.one_of(st.none(), st.just(INF), st.integers(1, int(BUDGET)))


grids = st.integers(1, 3).flatmap(
    lambda seeds: st.fixed_dictionaries(
        {
            name: st.fixed_dictionaries(
                {alpha: st.lists(hit, min_size=seeds, max_size=seeds) for alpha in GRID[:3]}
            )
            for name in ("adam", "adam-sgd", "adam-adam")
        }
    )
)
few = settings(max_examples=8, deadline=None)


@few
@given(grids, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(grid, random):
    trials = made_up(grid)
    shuffled = trials.loc[random.sample(list(trials.index), len(trials))]
    pd.testing.assert_frame_equal(claims(shuffled), claims(trials))


@few
@given(grids, st.integers(int(BUDGET) + 1, 10**6))
def test_a_hit_after_the_budget_is_the_same_as_no_hit(grid, late):
    trials = made_up(grid)
    later = trials.copy()
    for name in ("iterations_to_threshold", "smoothed_iterations_to_threshold"):
        later.loc[trials["outcome"] == "not_reached", name] = float(late)
    pd.testing.assert_frame_equal(claims(later), claims(trials))


@few
@given(grids, st.lists(hit, min_size=9, max_size=9))
def test_a_new_seed_changes_no_other_seed_s_observation(grid, extra):
    fresh = iter(extra)
    more = {
        name: {alpha: [*hits, next(fresh)] for alpha, hits in by_alpha.items()}
        for name, by_alpha in grid.items()
    }
    for few_seeds, many in zip(method_pairs(made_up(grid)), method_pairs(made_up(more)), strict=True):
        for observe in (
            lambda pair: paired_seeds.seed_ratios(pair, "iterations_to_threshold", BUDGET),
            lambda pair: paired_seeds.seed_ratios(pair, "best_val_loss"),
            paired_seeds.seed_spans,
        ):
            before, after = observe(few_seeds), observe(many)
            places = [list(after.seeds).index(seed) for seed in before.seeds]
            for name in ("new", "base", "low", "high", "exact"):
                np.testing.assert_array_equal(getattr(after, name)[places], getattr(before, name))


@few
@given(grids)
def test_swapping_the_two_swaps_better_and_worse_and_inverts_the_ratio(grid):
    trials = made_up(grid)
    there = claims(trials, {"adam-adam": ["adam-sgd"]})
    back = claims(trials, {"adam-sgd": ["adam-adam"]})
    assert there["claim"].tolist() == back["claim"].tolist() == list(CLAIMS)
    for name, other in (("better", "worse"), ("worse", "better"), ("equal", "equal"), ("p", "p_worse")):
        np.testing.assert_array_equal(there[name], back[other])
    np.testing.assert_allclose(there["ratio"], 1 / back["ratio"])
    np.testing.assert_allclose(there["ratio_low"], 1 / back["ratio_high"])
