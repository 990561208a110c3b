"""The lines of result have the numbers that the trials give, and say what cannot be concluded."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from study.analysis.claims import claims
from study.analysis.formatting import paper_name
from study.analysis.headlines import conclusion, headlines, pilot
from study.analysis.ranking import best_optimizers, best_rows
from study.analysis.stats import mean_interval
from study.analysis.tables import summary_table, trial_table
from study.analysis.untuned_claims import untuned_claims
from study.config.loader import Study
from study.storage.records import EpochRecord, TrialRecord


def make(hits, *, losses=lambda trial: 1.0, **changes):
    """Return a study and its table: trials of 100 iterations that reach the threshold when ``hits`` says."""
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg", "digits-mlp"],
        "optimizers": ["adam", "adam-sgd", "adam-adam"],
        "alpha0": [0.1, 0.01],
        "beta": 1e-4,
        "seeds": 6,
        "epochs": 1,
        "threshold": 0.3,
    }
    study = Study.model_validate(settings | changes)
    records = []
    for trial in study.trials():
        loss = np.where(np.arange(1, 101) >= (hits(trial) or 101), 0.2, 2.0)
        epoch = EpochRecord(1, 1, np.full(100, 0.1), np.zeros(100), loss, losses(trial), 0.5, 1.0)
        records.append(TrialRecord(trial, status="finished", epochs=(epoch,)))
    return study, trial_table(records, study)


def lines(study, trials):
    found = claims(trials, named=study.named_baselines())
    return headlines(found, untuned_claims(trials, study.untuned), summary_table(trials))


def said(study, trials) -> str:
    found = claims(trials, named=study.named_baselines())
    return conclusion(found, untuned_claims(trials, study.untuned), summary_table(trials))


def hits(trial):
    base = 40 + trial.seed + (10 if trial.workload == "digits-mlp" else 0)
    share = {"adam": 1.0, "adam-sgd": 0.5 if trial.alpha0 == 0.1 else 0.7, "adam-adam": 0.9}[trial.optimizer]
    return round(base * share)


def test_the_first_line_is_the_geometric_mean_over_workloads_and_its_interval_over_seeds():
    study, trials = make(hits)
    first = lines(study, trials.sample(frac=1, random_state=0))[0]
    table = trials.pivot_table(
        index=["workload", "alpha0", "seed"], columns="optimizer", values="iterations_to_threshold"
    )
    logs = np.log(table["adam-sgd"] / table["adam"]).groupby("seed").mean()
    low, high = np.exp(mean_interval(logs))
    assert f"{np.exp(logs.mean()):.3f} × the iterations" in first.effect
    assert f"(95 % interval {low:.3f} to {high:.3f}, 6 seeds)" in first.effect
    assert first.effect.startswith("Adam-HD reached the threshold in ")
    each = np.exp(np.log(table["adam-sgd"] / table["adam"]).groupby("workload").mean())
    ends = " to ".join(f"{ratio:.3f} ×" for ratio in sorted(each))
    assert first.detail == f"Better from every α₀; {ends} in 2 comparisons; supported in all."
    assert first.verdict == "supported"
    assert said(study, trials).startswith(first.effect)


def test_starting_points_at_which_it_is_not_better_are_counted():
    study, trials = make(lambda t: 50 if t.optimizer == "adam" or t.alpha0 == 0.01 else 20 + t.seed)
    assert "better from 2 of 4 starting points" in lines(study, trials)[0].text


def test_the_order_is_speed_before_loss_before_sensitivity_and_five_are_the_most():
    study, trials = make(hits, alpha0=[0.1, 0.01, 0.001])
    found = [line.effect for line in lines(study, trials)]
    assert len(found) == 5
    whats = [
        "reached the threshold",
        "reached the threshold",
        "validation loss",
        "validation loss",
        "range of",
    ]
    assert all(what in line for what, line in zip(whats, found, strict=True))


def test_too_few_seeds_are_a_pilot_and_its_conclusion_is_a_direction():
    study, trials = make(hits, seeds=3)
    found = claims(trials)
    early = pilot(found)
    assert (early.seeds, early.needed) == (3, 5)  # of one comparison in each family: 2⁻⁵ < 0.05
    assert "Pilot: 3 seeds, directions only." in early.text
    assert "undecided" not in " ".join(line.text for line in lines(study, trials))
    assert said(study, trials).endswith("This is a direction, not a finding: 3 seeds cannot decide it.")
    assert pilot(claims(make(hits)[1])) is None


def test_seeds_that_do_not_agree_conclude_nothing():
    study, trials = make(
        lambda t: 50 + (-1) ** t.seed * (5 if t.optimizer == "adam-sgd" else 0),
        optimizers=["adam", "adam-sgd"],
    )
    assert said(study, trials).endswith("undecided in all. So nothing can be concluded.")


def test_a_study_without_comparisons_says_so_and_names_the_lowest_loss():
    losses = {"adam": 0.5, "sgd": 0.25}
    study, trials = make(
        lambda t: 50, losses=lambda t: losses[t.optimizer] + t.seed / 100, optimizers=["adam", "sgd"]
    )
    assert pilot(claims(trials)) is None
    first = lines(study, trials)[0]
    assert first.effect == (
        "On digits-logreg, SGD had the lowest validation loss, 0.275 (0.250 – 0.300 over 6 seeds), "
        "from α₀ = 0.1"
    )
    assert "next Adam, 0.525" in first.text
    assert said(study, trials).startswith(
        "Nothing is compared, so nothing can be concluded. On digits-logreg"
    )


def test_claims_of_the_study_itself_come_first():
    study, trials = make(
        lambda t: 50,
        optimizers=["adam", "sgd"],
        losses=lambda t: {"adam": 0.9, "sgd": 1.0}[t.optimizer] * (2 if t.workload == "digits-mlp" else 1),
        untuned={"optimizers": "adam", "against": "sgd", "within": 1.05},
    )
    first = lines(study, trials)[0]
    assert first.effect.startswith("From its worst α₀, Adam had 0.900 × the final validation loss of SGD")
    assert first.detail == "That it is within 1.05 ×: supported in all of 2 workloads."


def test_nothing_ended_concludes_nothing():
    study, trials = make(hits)
    pending = trials.assign(outcome="pending", best_val_loss=np.nan)
    assert said(study, pending) == "Nothing can be concluded: no trial has ended."


def test_optimizers_are_ranked_by_their_best_point_over_workloads():
    losses = {
        ("digits-logreg", "adam"): {0.1: 9, 0.01: 1},
        ("digits-logreg", "adam-sgd"): {0.1: 2, 0.01: 2},
        ("digits-logreg", "adam-adam"): {0.1: 3, 0.01: 3},
        ("digits-mlp", "adam"): {0.1: 9, 0.01: 50},
        ("digits-mlp", "adam-sgd"): {0.1: 70, 0.01: 60},
        ("digits-mlp", "adam-adam"): {0.1: 80, 0.01: 8},
    }
    _, trials = make(lambda t: 50, losses=lambda t: losses[t.workload, t.optimizer][t.alpha0])
    shuffled = trials.sample(frac=1, random_state=0)
    # Ranks 1 and 2, 2 and 3, 3 and 1.
    assert best_optimizers(shuffled, 5) == ["adam", "adam-adam", "adam-sgd"]
    assert best_optimizers(shuffled, 1) == ["adam"]
    assert best_optimizers(pd.DataFrame(trials.iloc[:0]), 5) == []


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("sgd", "SGD"),
        ("sgdn-sgd", "SGDN-HD"),
        ("adam-adam", "Adam–Adam"),
        ("adamw-sgdn cosine slow", "AdamW–SGDN cosine slow"),
        ("muon-lion multiplicative", "Muon–Lion multiplicative"),
        ("adam cosine", "Adam cosine"),
        ("torch.optim.AdamW", "torch.optim.AdamW"),
        ("SGD schedule-free", "SGD schedule-free"),
    ],
)
def test_names_are_those_of_papers(name, paper):
    assert paper_name(name) == paper


def test_the_best_rows_are_those_of_the_lowest_losses_in_the_order_of_the_summary():
    summary = pd.DataFrame(
        {
            "workload": ["a"] * 5 + ["b"],
            "workload_args": "",
            "optimizer": ["sgd"] * 4 + ["adam", "sgd"],
            "best_val_loss": [3.0, math.nan, 1.0, 2.0, 9.0, math.nan],
        }
    )
    assert list(best_rows(summary, 2).index) == [2, 3, 4, 5]
    assert list(best_rows(summary, 9).index) == [0, 1, 2, 3, 4, 5]
