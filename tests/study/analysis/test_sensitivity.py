"""Widths, profiles, runtimes and best of K on made-up trials with known answers."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.analysis import profiles, sensitivity

BUDGET = 1000.0
INF = math.inf


def made_up(hits, *, val=None, workload="digits-mlp", outcome=None, threshold=0.3) -> pd.DataFrame:
    """Trials with N by (optimizer, β), α₀ and seed: ``{("sgd", nan): {0.1: [100, inf], …}, …}``."""
    rows = []
    for (optimizer, beta), by_alpha in hits.items():
        for alpha0, of_seeds in by_alpha.items():
            for seed, hit in enumerate(of_seeds):
                missing = hit is None
                rows.append(
                    {
                        **{"workload": workload, "workload_args": "", "batch_size": 128},
                        **{"drop_last": False, "precision": "float32", "weight_decay": 1e-4},
                        **{"epochs": 20.0, "budget": BUDGET},
                        **{"optimizer": optimizer, "beta": beta, "granularity": "group"},
                        **{"optimizer_args": "", "alpha0": alpha0, "seed": seed, "threshold": threshold},
                        "outcome": "pending" if missing else "reached" if hit < INF else "not_reached",
                        "best_val_loss": math.nan if val is None else val[optimizer, beta][alpha0][seed],
                    }
                )
                for name in ("", "smoothed_"):
                    column = f"{name}iterations_to_threshold"
                    rows[-1][column] = math.nan if missing or math.isinf(hit) else float(hit)
                rows[-1] |= {"seconds_to_threshold": math.nan}
    table = pd.DataFrame(rows)
    return table if outcome is None else table.assign(outcome=outcome)


def sgd(by_alpha):
    return made_up({("sgd", math.nan): by_alpha})


# widths


@pytest.mark.parametrize(
    ("hits", "best", "low", "high", "edge"),
    [
        ([900, 200, 100, 190, 900], (0.01, 100), 0.001, 0.1, False),
        ([900, 201, 100, 200, 900], (0.01, 100), 0.01, 0.1, False),  # 2 × the best still works
        ([900, 900, 100, 190, 150], (0.01, 100), 0.01, 1, True),
        ([100, 900, 900, 900, 900], (0.0001, 100), 0.0001, 0.0001, True),
        ([INF, INF, 100, INF, INF], (0.01, 100), 0.01, 0.01, False),
        ([150, 900, 100, 150, 900], (0.01, 100), 0.01, 0.1, False),  # beyond a gap does not count
        ([100, 900, 100, 150, 900], (0.01, 100), 0.01, 0.1, False),  # of two best, the wider run
    ],
)
def test_the_width_of_alpha0(hits, best, low, high, edge):
    alphas = [0.0001, 0.001, 0.01, 0.1, 1]
    (row,) = sensitivity.alpha0_widths(sgd({a: [n] for a, n in zip(alphas, hits, strict=True)})).to_dict(
        "records"
    )
    assert (row["best_alpha0"], row["best_iterations"]) == best
    assert (row["low"], row["high"], row["edge"]) == (low, high, edge)
    assert row["decades"] == row["decades_mean"] == pytest.approx(math.log10(high / low))
    assert row["tried"] == "0.0001, 0.001, 0.01, 0.1, 1"


@pytest.mark.parametrize(
    ("hits", "at_budget"),
    [
        ([INF, 600, 900], True),  # beside the run N is more than 1000, perhaps less than 1200
        ([INF, 400, 700], False),  # more than 1000, so more than 800
        ([900, 500, 1000], False),
    ],
)
def test_a_width_that_the_budget_cuts_off_is_a_lower_bound(hits, at_budget):
    (row,) = sensitivity.alpha0_widths(
        sgd({0.0001: [INF], **{a: [n] for a, n in zip([0.001, 0.01, 0.1], hits, strict=True)}, 1.0: [INF]})
    ).to_dict("records")
    assert row["at_budget"] == at_budget
    assert not row["edge"]


def test_a_width_is_of_medians_and_its_mean_of_each_seed_s_own():
    trials = sgd({0.001: [300, 100, 150], 0.01: [100, 100, 100], 0.1: [500, 150, 500]})
    (row,) = sensitivity.alpha0_widths(trials).to_dict("records")
    assert (row["low"], row["high"]) == (0.001, 0.01)  # medians 150, 100, 500
    assert row["decades_mean"] == pytest.approx((0 + 2 + 1) / 3)
    assert row["seeds"] == 3


def test_where_nothing_works_there_is_no_width():
    (row,) = sensitivity.alpha0_widths(sgd({0.01: [INF] * 2, 0.1: [INF] * 2})).to_dict("records")
    assert all(math.isnan(row[name]) for name in ("best_alpha0", "low", "high", "decades"))
    assert sensitivity.alpha0_widths(sgd({0.01: [None]})).empty
    assert sensitivity.alpha0_widths(sgd({0.01: [3]}).assign(threshold=math.nan)).empty


def test_an_alpha0_that_has_not_been_run_is_not_bridged():
    (row,) = sensitivity.alpha0_widths(sgd({0.001: [100], 0.01: [None], 0.1: [100], 1: [900]})).to_dict(
        "records"
    )
    assert (row["decades"], row["edge"], row["tried"]) == (0.0, True, "0.001, 0.1, 1")
    assert row["seeds"] == 0
    assert math.isnan(row["decades_mean"])


# the profile over step sizes


def at(table, tau, name="share", **of):
    """The step function's value at τ."""
    for column, value in of.items():
        table = table[table[column] == value]
    below = table[table["tau"] <= tau]
    return below[name].iloc[-1] if len(below) else 0.0


def test_the_profile_is_the_share_of_alpha0_within_tau():
    trials = made_up(
        {
            ("sgd", math.nan): {0.01: [100, 200], 0.1: [150, 200], 1: [INF, 800]},
            ("adam", math.nan): {0.01: [50, 400], 0.1: [100, 400], 1: [INF, INF]},
        }
    )
    profile = profiles.step_size_profile(trials)
    own = {"sgd": [1, 1.5, INF, 1, 1, 4], "adam": [1, 2, INF, 1, 1, INF]}
    overall = {"sgd": [2, 3, INF, 1, 1, 4], "adam": [1, 2, INF, 2, 2, INF]}
    for name, tau in product(own, [1, 1.2, 1.5, 1.99, 2, 3, 4, 100]):
        assert at(profile, tau, optimizer=name) == pytest.approx(np.mean(np.array(own[name]) <= tau))
        assert at(profile, tau, "share_overall", optimizer=name) == pytest.approx(
            np.mean(np.array(overall[name]) <= tau)
        )


def test_the_profile_leaves_out_seeds_that_lack_an_alpha0():
    profile = profiles.step_size_profile(sgd({0.01: [100, 100], 0.1: [100, None]}))
    assert profile["seeds"].tolist() == [1]
    assert profile["share"].tolist() == [1.0]


def test_methods_with_another_threshold_are_no_measure_of_speed():
    fast = made_up({("adam", math.nan): {0.01: [1]}}, threshold=0.1)
    profile = profiles.step_size_profile(pd.concat([sgd({0.01: [100]}), fast], ignore_index=True))
    assert at(profile, 1, "share_overall", optimizer="sgd") == 1.0


# runtimes


def test_the_runtime_distribution_is_the_empirical_one():
    hits = [100, 100, 300, INF, INF, 900]
    table = profiles.runtime_distribution(sgd({0.01: hits[:3], 0.1: hits[3:]}))
    assert table["iterations"].tolist() == [100, 300, 900, BUDGET]
    assert table["share"].tolist() == pytest.approx([2 / 6, 3 / 6, 4 / 6, 4 / 6])
    assert profiles.runtime_distribution(sgd({0.01: [INF]}))["share"].tolist() == [0.0]


# best of K


def test_best_of_k_counts_beta_as_tuned_and_gives_all_the_same_k():
    trials = made_up(
        {
            ("sgd", math.nan): {0.01: [100, 100], 0.1: [300, 300]},
            ("sgd-sgd", 1e-3): {0.01: [50, 70], 0.1: [150, 170]},
            ("sgd-sgd", 1e-2): {0.01: [90, 110], 0.1: [INF, INF]},
        }
    )
    table = profiles.best_of_k(trials)
    hits = table[table["measure"] == "iterations_to_threshold"].set_index(["optimizer", "k"])
    assert sorted(hits.index) == [("sgd", 1), ("sgd", 2), ("sgd-sgd", 1), ("sgd-sgd", 2)]
    assert hits["points"].to_dict() == {("sgd", 1): 2, ("sgd", 2): 2, ("sgd-sgd", 1): 4, ("sgd-sgd", 2): 4}
    assert hits.loc[("sgd", 1), "value"] == pytest.approx(200)
    assert hits.loc[("sgd", 2), "value"] == pytest.approx(100)
    means = [60, 160, 100, BUDGET]  # ordered alike on both seeds
    assert hits.loc[("sgd-sgd", 1), "value"] == pytest.approx(np.mean(means))
    assert hits.loc[("sgd-sgd", 2), "value"] == pytest.approx((3 * 60 + 2 * 100 + 1 * 160) / 6)
    assert hits["held_out"].all()


def test_best_of_k_reports_the_validation_loss_of_what_other_seeds_chose():
    hits = {("sgd", math.nan): {0.01: [1, 1, 1], 0.1: [1, 1, 1]}}
    val = {("sgd", math.nan): {0.01: [0.1, 0.2, 0.9], 0.1: [0.5, 0.5, 0.5]}}
    table = profiles.best_of_k(made_up(hits, val=val)).set_index(["measure", "k"])
    row = table.loc[("best_val_loss", 2)]
    # chosen by the others: 0.55 against 0.5, 0.5 against 0.5 (a tie), 0.15 against 0.5
    assert row["value"] == pytest.approx((0.5 + (0.2 + 0.5) / 2 + 0.9) / 3)
    assert row["low"] <= row["value"] <= row["high"]


def test_a_pruned_trial_leaves_its_optimizer_out_of_best_of_k():
    trials = made_up({("sgd", math.nan): {0.01: [100]}, ("adam", math.nan): {0.01: [50]}})
    trials.loc[trials["optimizer"] == "adam", "outcome"] = "pruned"
    assert set(profiles.best_of_k(trials)["optimizer"]) == {"sgd"}


def test_one_seed_is_said_not_to_be_held_out():
    table = profiles.best_of_k(sgd({0.01: [100], 0.1: [300]}))
    assert not table["held_out"].any()
    assert table["low"].isna().all()


# performance profiles


def workloads(times):
    """One α₀ and two equal seeds per workload; times by optimizer."""
    return pd.concat(
        [
            made_up(
                {(name, math.nan): {0.01: [hits[place]] * 2} for name, hits in times.items()},
                workload=f"module:workload{place}",
            )
            for place in range(len(next(iter(times.values()))))
        ],
        ignore_index=True,
    )


def test_the_performance_profile_by_hand():
    times = {"sgd": [100, 100, 100, INF, 400], "adam": [200, 50, 100, 100, INF]}
    profile = profiles.performance_profile(workloads(times))
    ratios = {"sgd": [1, 2, 1, INF, 1], "adam": [2, 1, 1, 1, INF]}
    for name, tau in product(ratios, [1, 1.5, 2, 50]):
        assert at(profile, tau, optimizer=name) == pytest.approx(np.mean(np.array(ratios[name]) <= tau))
    assert set(profile["workloads"]) == {5}


def test_four_workloads_or_two_thresholds_make_no_performance_profile():
    times = {"sgd": [100] * 5, "adam": [200] * 5}
    trials = workloads(times)
    assert profiles.performance_profile(trials[trials["workload"] != "module:workload0"]).empty
    trials.loc[trials["optimizer"] == "adam", "threshold"] = 0.2
    assert profiles.performance_profile(trials).empty


# properties

hit = st.one_of(st.just(INF), st.integers(1, int(BUDGET)), st.none())
grids = st.integers(1, 3).flatmap(
    lambda seeds: st.fixed_dictionaries(
        {
            method: st.fixed_dictionaries(
                {alpha0: st.lists(hit, min_size=seeds, max_size=seeds) for alpha0 in (0.01, 0.1, 1.0)}
            )
            for method in (("sgd", math.nan), ("sgd-sgd", 0.1), ("sgd-sgd", 0.2))
        }
    )
)
MEASURES = [
    sensitivity.alpha0_widths,
    profiles.step_size_profile,
    profiles.runtime_distribution,
    profiles.best_of_k,
]


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=10, deadline=None)
@given(grids, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(measure, grid, random):
    trials = made_up(grid)
    shuffled = trials.loc[random.sample(list(trials.index), len(trials))]
    pd.testing.assert_frame_equal(measure(shuffled), measure(trials))


@pytest.mark.parametrize("measure", MEASURES)
@settings(max_examples=10, deadline=None)
@given(grids, st.integers(int(BUDGET) + 1, 10**6))
def test_a_hit_after_the_budget_is_the_same_as_none(measure, grid, late):
    trials = made_up(grid)
    later = trials.copy()
    missed = trials["outcome"] == "not_reached"
    later.loc[missed, "iterations_to_threshold"] = float(late)
    pd.testing.assert_frame_equal(measure(later), measure(trials))


@settings(max_examples=10, deadline=None)
@given(grids, st.lists(hit, min_size=3, max_size=3))
def test_a_new_seed_changes_no_other_seed_s_width(grid, new):
    by_alpha = grid["sgd", math.nan]
    more = {alpha: [*hits, extra] for (alpha, hits), extra in zip(by_alpha.items(), new, strict=True)}
    before, after = sensitivity.seed_widths(sgd(by_alpha)), sensitivity.seed_widths(sgd(more))
    pd.testing.assert_frame_equal(after.loc[before.index], before)
