"""Which methods are compared with which: the same setup, and the same settings where both have them."""

from __future__ import annotations

import math

import pytest

from study.analysis import pairing
from study.analysis.pairing import method_pairs
from study.analysis.tables import trial_table
from study.config.loader import Study
from study.config.optimizer_name import OPS, OPTIMIZERS


def table(**changes):
    """The trials of a study, none of which has begun."""
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam", "adam-sgd", "adam-adam"],
        "alpha0": [0.001],
        "beta": 1e-7,
        "seeds": [0, 1, 2],
        "epochs": 2,
        "threshold": 0.05,
    }
    study = Study.model_validate(settings | changes)
    return trial_table([], study)


def pairs(against=None, **changes):
    """The pairs of a study none of whose trials has begun."""
    return list(method_pairs(table(**changes), against))


def names(found):
    return [(pair.method.optimizer, pair.baseline.optimizer) for pair in found]


def test_each_optimizer_has_its_own_baseline():
    assert {
        **{"sgd-sgd": "sgd", "sgdn-sgd": "sgdn", "adam-sgd": "adam"},
        **{"sgd-sgdn": "sgd-sgd", "sgd-adam": "sgd-sgd", "sgdn-sgdn": "sgdn-sgd"},
        **{"sgdn-adam": "sgdn-sgd", "adam-sgdn": "adam-sgd", "adam-adam": "adam-sgd"},
        **{"adamw-sgd": "adamw", "adamw-sgdn": "adamw-sgd", "adamw-adam": "adamw-sgd"},
        **{"muon-sgd": "muon", "muon-sgdn": "muon-sgd", "muon-adam": "muon-sgd"},
        **{f"{op}-{lop}": f"{op}-sgd" for op in OPS for lop in ("adagrad", "lion")},
    } == {name: base for name, (base,) in pairing.baselines(table(optimizers=list(OPTIMIZERS))).items()}


RULE_OPTIMIZERS = [
    *("adam", "adam-sgd", "adam-sgdn"),
    {"name": "adam-sgd", "rule": "cosine"},
    {"name": "adam-sgdn", "rule": "cosine", "beta": [0.01, 0.03]},
    {"name": "adam-sgdn", "rule": "cosine", "args": {"lop_momentum": 0.5}, "beta": 0.03, "label": "gentle"},
    {"name": "adam-lion", "rule": "multiplicative"},
    {"name": "adam", "schedule": "cosine"},
]


def test_a_rule_is_compared_with_hypergradient_descent_by_the_same_rule():
    assert pairing.baselines(table(optimizers=RULE_OPTIMIZERS)) == {
        "adam-sgd": ("adam",),
        "adam-sgdn": ("adam-sgd",),
        "adam-sgd cosine": ("adam",),
        "adam-sgdn cosine": ("adam-sgd cosine",),
        "gentle": ("adam-sgd cosine",),
        "adam-lion multiplicative": ("adam-sgd",),  # there is none by its own rule
    }


def test_without_hypergradient_descent_the_plain_optimizer_is_the_baseline():
    found = pairing.baselines(
        table(optimizers=["adam", {"name": "adam-sgdn", "rule": "cosine"}, "sgd-adam", "adamw", "adamw-sgd"])
    )
    assert found == {"adam-sgdn cosine": ("adam",), "adamw-sgd": ("adamw",)}


def test_a_rules_pairs_are_of_its_own_trials():
    found = pairs(optimizers=RULE_OPTIMIZERS)
    (first, second) = (p for p in found if p.method.optimizer == "adam-sgdn cosine")
    assert [p.method.beta for p in (first, second)] == [0.01, 0.03]
    for pair in found:
        assert set(pair.new["optimizer"]) == {pair.method.optimizer}
        assert set(pair.new["rule"]) <= {"additive", "cosine", "multiplicative"}
        assert pair.new["rule"].nunique() == pair.base["rule"].nunique() == 1


def test_of_variants_with_labels_all_are_baselines():
    variants = [
        {"name": "adam-sgd", "rule": "cosine", "beta": beta, "label": label}
        for label, beta in (("slow", 0.01), ("fast", 0.1))
    ]
    found = pairing.baselines(
        table(optimizers=["adam-adam", *variants, {"name": "adam-lion", "rule": "cosine"}])
    )
    assert found["adam-lion cosine"] == ("slow", "fast")


def test_a_pair_has_the_trials_of_both_under_one_setup():
    found = pairs(workloads=["digits-logreg", "digits-mlp"])
    assert names(found) == [("adam-sgd", "adam"), ("adam-adam", "adam-sgd")] * 2
    for pair in found:
        assert pair.new["seed"].tolist() == pair.base["seed"].tolist() == [0, 1, 2]
        assert set(pair.new["workload"]) == set(pair.base["workload"]) == {pair.setup.workload}
        assert set(pair.new["optimizer"]) == {pair.method.optimizer}
        assert set(pair.base["optimizer"]) == {pair.baseline.optimizer}


def test_another_baseline_can_be_asked_for():
    assert names(pairs({"adam-adam": ["adam"]})) == [("adam-adam", "adam")]


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        ([1e-7, 1e-3], [(1e-7, 1e-7), (1e-3, 1e-3)]),
        ({"adam-sgd": [1e-3], "adam-adam": [1e-7]}, [(1e-7, 1e-3)]),
        ({"adam-sgd": [1e-3, 1e-2], "adam-adam": [1e-7]}, [(1e-7, 1e-3), (1e-7, 1e-2)]),
    ],
)
def test_equal_betas_are_paired_or_else_all(beta, expected):
    found = [pair for pair in pairs(beta=beta) if pair.method.optimizer == "adam-adam"]
    assert [(pair.method.beta, pair.baseline.beta) for pair in found] == expected


def test_every_beta_is_held_against_a_baseline_without_one():
    found = [pair for pair in pairs(beta=[1e-7, 1e-3]) if pair.method.optimizer == "adam-sgd"]
    assert [pair.method.beta for pair in found] == [1e-7, 1e-3]
    assert all(math.isnan(pair.baseline.beta) for pair in found)


def test_every_granularity_is_paired_with_its_own_or_else_with_what_there_is():
    def granularities(optimizers):
        found = [pair for pair in pairs(optimizers=optimizers) if pair.method.optimizer == "adam-adam"]
        return sorted((pair.method.granularity, pair.baseline.granularity) for pair in found)

    optimizers = ["adam-sgd", "adam-adam", {"name": "adam-adam", "granularity": "released"}]
    assert granularities(optimizers) == [("group", "group"), ("released", "group")]
    both = [{"name": "adam-sgd", "granularity": "released"}, *optimizers]
    assert granularities(both) == [("group", "group"), ("released", "released")]


@pytest.mark.parametrize(
    ("threshold", "same"),
    [(0.05, True), ({"adam-adam": 0.05, "adam-sgd": 0.06}, False), ({}, False), ({"adam-adam": 0.05}, False)],
)
def test_a_pair_knows_whether_both_have_the_same_threshold(threshold, same):
    (pair,) = pairs(optimizers=["adam-sgd", "adam-adam"], threshold=threshold)
    assert pair.same_threshold is same
