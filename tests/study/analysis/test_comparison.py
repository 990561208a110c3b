"""Side by side: equal points meet, ratios are to the first on the same seeds, and differences are said."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.console import Console

from study.analysis.comparison import Side, compare, parse
from study.analysis.tables import trial_table
from study.cli import display
from study.config.loader import ConfigError, Study
from study.storage.records import EpochRecord, TrialRecord


def trials(hits, **changes):
    """Trials of 100 iterations that reach the threshold when ``hits`` says; validation loss is hit / 100."""
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam", "adam-sgd"],
        "alpha0": [0.1, 0.01],
        "beta": 1e-4,
        "seeds": 4,
        "epochs": 1,
        "threshold": 0.3,
    }
    study = Study.model_validate(settings | changes)
    records = []
    for trial in study.trials():
        hit = hits(trial)
        loss = np.where(np.arange(1, 101) >= (hit or 101), 0.2, 2.0)
        val = (hit or 100) / 100
        epoch = EpochRecord(1, 1, np.full(100, trial.alpha0), np.zeros(100), loss, val, 0.5, 1.0)
        records.append(TrialRecord(trial, status="finished", epochs=(epoch,)))
    return trial_table(records, study)


def doubling(trial):
    return 8 * 2**trial.seed if trial.lop is None else 4 * 2**trial.seed


def test_rules_of_one_name_are_sides_of_their_own():
    entry = {"name": "adam-sgdn", "rule": "cosine"}
    table = trials(
        lambda trial: {"additive": 40, "cosine": 10}[trial.rule],
        optimizers=["adam-sgdn", entry, entry | {"beta": 0.3, "label": "bold"}],
    )
    found = compare([Side("a", table, "adam-sgdn"), Side("a", table, "adam-sgdn cosine")])
    assert found.rows["who"].tolist() == ["adam-sgdn β 0.0001", "adam-sgdn cosine β 0.02"] * 2
    assert found.rows["iterations_ratio"].iloc[1] == pytest.approx(0.25)
    assert parse(["a"], "adam-sgdn, adam-sgdn cosine, bold") == [
        ("a", name) for name in ("adam-sgdn", "adam-sgdn cosine", "bold")
    ]
    assert len(compare([Side("a", table)]).rows) == 6


def test_optimizers_meet_at_equal_alpha0_and_are_held_against_the_first_seed_by_seed():
    table = trials(doubling)
    found = compare([Side("a", table, "adam"), Side("a", table, "adam-sgd")])
    assert not found.of_studies
    assert found.notes == []
    assert found.rows["who"].tolist() == ["adam", "adam-sgd β 0.0001"] * 2
    assert found.rows["alpha0"].tolist() == [0.1, 0.1, 0.01, 0.01]
    learned = found.rows.iloc[1]
    # Half on every seed: the ratio is exact, whatever the spread over seeds.
    assert (learned["iterations_ratio"], learned["loss_ratio"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert [learned[f"iterations_ratio_{end}"] for end in ("low", "high")] == pytest.approx([0.5, 0.5])
    assert learned["iterations_median"] == 12
    assert learned["hit_rate"] == 1


def test_pairs_in_which_one_did_not_get_there_are_left_out_of_the_ratio_and_counted():
    table = trials(lambda trial: None if trial.lop and trial.seed == 3 else doubling(trial))
    row = compare([Side("a", table, "adam"), Side("a", table, "adam-sgd")]).rows.iloc[1]
    assert (row["iterations_pairs"], row["loss_pairs"], row["seeds"]) == (3, 4, 4)
    assert row["hit_rate"] == 0.75


def test_one_study_is_taken_as_its_optimizers_and_several_method_by_method():
    table, other = trials(doubling), trials(lambda trial: 2 * doubling(trial), alpha0=[0.1, 0.5])
    alone = compare([Side("a", table)])
    assert set(alone.rows["who"]) == {"adam", "adam-sgd β 0.0001"}
    both = compare([Side("a", table), Side("b", other)])
    assert both.of_studies
    assert both.rows["who"].tolist() == ["a", "b"] * 2
    assert both.rows["optimizer"].tolist() == ["adam", "adam", "adam-sgd", "adam-sgd"]
    assert both.rows[both.rows["who"] == "b"]["iterations_ratio"].tolist() == pytest.approx([2, 2])
    assert both.notes == ["4 more points are on one side only"]


def test_several_beta_are_held_against_the_same_or_else_the_first():
    table = trials(lambda trial: {None: 40, 1e-3: 20, 1e-4: 10}[trial.beta], beta=[1e-3, 1e-4], alpha0=[0.1])
    other = trials(lambda trial: {None: 40, 1e-3: 10, 1e-4: 20}[trial.beta], beta=[1e-4, 1e-3], alpha0=[0.1])
    found = compare([Side("a", table, "adam-sgd"), Side("b", other, "adam-sgd")]).rows
    ratios = dict(zip(found["who"], found["iterations_ratio"], strict=True))
    assert ratios == {
        "a: adam-sgd β 0.001": pytest.approx(1),
        "a: adam-sgd β 0.0001": pytest.approx(1),
        "b: adam-sgd β 0.0001": pytest.approx(2),
        "b: adam-sgd β 0.001": pytest.approx(0.5),
    }


def test_thresholds_that_differ_are_said_and_not_compared():
    differently = {"batch_size": 64, "drop_last": True, "precision": "bf16"}
    table, other = trials(doubling), trials(doubling, threshold=1.0, **differently)
    found = compare([Side("a", table), Side("b", other)])
    assert math.isnan(found.rows.iloc[1]["iterations_ratio"])
    assert found.rows.iloc[1]["loss_ratio"] == pytest.approx(1)
    assert "thresholds differ: a 0.3, b 1" in found.notes
    assert "batch sizes differ: a 128, b 64" in found.notes
    assert "values of drop_last differ: a false, b true" in found.notes
    assert "precisions differ: a float32, b bf16" in found.notes


@pytest.mark.parametrize(
    ("words", "optimizers", "sides"),
    [
        (["a"], None, [("a", None)]),
        (["a", "b"], None, [("a", None), ("b", None)]),
        (["a:adam", "b:torch.optim.AdamW"], None, [("a", "adam"), ("b", "torch.optim.AdamW")]),
        (["a", "b"], "adam, sgd", [("a", "adam"), ("a", "sgd"), ("b", "adam"), ("b", "sgd")]),
    ],
)
def test_the_command_line_names_sides(words, optimizers, sides):
    assert parse(words, optimizers) == sides


@pytest.mark.parametrize(
    ("words", "says"), [(["a", "b:adam"], "name an optimizer of every study"), (["a", "a"], "a: named twice")]
)
def test_sides_that_make_no_sense_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        parse(words, None)


def test_what_is_not_there_is_said_with_what_is():
    table = trials(doubling)
    with pytest.raises(ConfigError, match="a: no optimizer 'adm'; there are adam, adam-sgd"):
        compare([Side("a", table, "adm"), Side("a", table, "adam")])
    with pytest.raises(
        ConfigError, match="nothing to compare: no workload, α₀ and optimizer is on two sides"
    ):
        compare([Side("a", table), Side("b", trials(doubling, alpha0=[7.0]))])


def test_the_table_is_printed_whole_however_narrow_the_place():
    table = trials(lambda trial: None if trial.lop and trial.seed else doubling(trial))
    found = compare([Side("a", table, "adam"), Side("a", table, "adam-sgd")])
    printed = []
    for terminal in (False, True):
        file = io.StringIO()
        display.show_comparison(Console(width=60, file=file, force_terminal=terminal), found)
        printed.append(next(line for line in file.getvalue().splitlines() if "adam-sgd β 0.0001" in line))
    piped, narrow = printed
    for said in ("> 100 (4 – > 100)", "1/4", "0.5 [1 pair]"):
        assert said in piped
    assert "> 100 (" not in narrow
    assert "…" not in piped + narrow
