"""Tables of a study against hand-computed numbers."""

from __future__ import annotations

import math
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.analysis import metrics, tables
from study.analysis.pairing import method_pairs
from study.config.loader import Study, Trial
from study.storage.records import EpochRecord, TrialRecord

THRESHOLD = 0.05


def make_study(**changes) -> Study:
    settings = {
        "name": "made-up",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam", "adam-sgd", "adam-adam"],
        "alpha0": [0.001],
        "beta": 1e-7,
        "seeds": [0, 1, 2],
        "epochs": 2,
        "threshold": THRESHOLD,
    }
    return Study.model_validate(settings | changes)


def record(trial: Trial, losses, status="finished", val=(0.9, 0.8), alpha=None) -> TrialRecord:
    """A trial of epochs with the given minibatch losses, one list per epoch."""
    epochs, first = [], 1
    for number, (loss, val_loss) in enumerate(zip(losses, val, strict=False), start=1):
        alphas = np.full(len(loss), trial.alpha0) if alpha is None else np.array(alpha[number - 1])
        epochs.append(
            EpochRecord(
                number, first, alphas, np.zeros(len(loss)), np.array(loss), val_loss, 1 - val_loss, 1.5
            )
        )
        first += len(loss)
    return TrialRecord(trial, status=status, epochs=tuple(epochs))


def curve(hit: int | None, final: float = 0.4):
    """Two epochs of 10 iterations: at the threshold at ``hit`` alone; the last epoch's mean is ``final``."""
    loss = np.full(20, 2.0)
    loss[10:] = (10 * final - THRESHOLD) / 9 if hit and hit > 10 else final
    if hit:
        loss[hit - 1] = THRESHOLD
    return loss[:10], loss[10:]


def cell_records(study: Study, hits: dict[str, list[int | None]], finals=None) -> list[TrialRecord]:
    finals = finals or {}
    return [
        record(
            trial,
            curve(hits[trial.optimizer][trial.seed], finals.get(trial.optimizer, [0.4] * 20)[trial.seed]),
        )
        for trial in study.trials()
        if trial.optimizer in hits
    ]


def test_trial_table_has_a_row_per_trial_in_the_study_s_order():
    study = make_study()
    records = cell_records(study, {"adam": [3, None, 5], "adam-adam": [1, 2, 3]})
    random.Random(0).shuffle(records)
    stranger = record(Trial("digits-mlp", "sgd", 0.1, None, seed=0, epochs=2), curve(3))
    table = tables.trial_table([*records, stranger], study)
    assert table["key"].tolist() == [trial.key for trial in study.trials()]
    assert table["outcome"].tolist() == ["reached", "not_reached", "reached"] + 3 * ["pending"] + 3 * [
        "reached"
    ]
    assert table["iterations_to_threshold"].tolist()[:3] == pytest.approx([3, math.nan, 5], nan_ok=True)
    assert table["beta"].isna().tolist() == [True] * 3 + [False] * 6
    assert set(table["budget"]) == {20.0}
    assert table["final_train_loss"][0] == pytest.approx(0.4)


def test_two_records_of_one_trial_are_refused():
    study = make_study()
    twice = [TrialRecord(study.trials()[0])] * 2
    with pytest.raises(ValueError, match=r"two records of one trial: adam α₀=0\.001 seed=0"):
        tables.trial_table(twice, study)


def test_a_trial_that_diverged_in_its_first_epoch_has_the_budget_of_its_siblings():
    study = make_study(optimizers=["adam"])
    trials = study.trials()
    records = [record(trials[0], [[2.0, math.nan]], "diverged"), record(trials[1], curve(3))]
    assert tables.trial_table(records, study)["budget"].tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("hits", "median", "span", "text"),
    [
        ([3, 9, 5], 5, (3, 9), "5 (3 – 9)"),
        ([3, None, 5], 5, (3, math.nan), "5 (3 – > 20)"),
        ([None, None, 5], math.nan, (5, math.nan), "> 20 (5 – > 20)"),
        ([None, None, None], math.nan, (math.nan, math.nan), "> 20"),
        ([4, 4, 4], 4, (4, 4), "4"),
        ([4, 7], 5.5, (4, 7), "5.5 (4 – 7)"),
        ([4, None], math.nan, (4, math.nan), "> 20 (4 – > 20)"),  # (4 + ∞) / 2
    ],
)
def test_the_median_over_seeds_keeps_what_is_censored_censored(hits, median, span, text):
    study = make_study(optimizers=["adam"], seeds=list(range(len(hits))))
    row = tables.summary_table(tables.trial_table(cell_records(study, {"adam": hits}), study)).iloc[0]
    assert row["iterations_median"] == pytest.approx(median, nan_ok=True)
    assert (row["iterations_min"], row["iterations_max"]) == pytest.approx(span, nan_ok=True)
    assert row["iterations_text"] == text
    assert (row["seeds"], row["reached"]) == (len(hits), sum(hit is not None for hit in hits))


def test_summary_over_seeds():
    study = make_study(optimizers=["adam-adam"], seeds=[0, 1, 2, 3, 4])
    trials = study.trials()
    records = [
        record(trials[0], curve(3, 0.3), val=(0.9, 0.5)),
        record(trials[1], curve(9, 0.1), val=(0.4, 0.8)),
        record(trials[2], [[2.0] * 10, [THRESHOLD, math.nan]], "diverged", val=(0.7, math.nan)),
        record(trials[3], [[0.1] * 10], "running"),
        TrialRecord(trials[4], status="failed"),
    ]
    row = tables.summary_table(tables.trial_table(records, study)).iloc[0]
    assert (row["seeds"], row["missing"], row["diverged"], row["reached"]) == (3, 2, 1, 3)
    assert row["iterations_text"] == "9 (3 – 11)"
    final = [row[f"final_train_loss{end}"] for end in ("", "_min", "_max")]
    assert final == pytest.approx([0.2, 0.1, 0.3])  # of the two that did not diverge
    assert [row[f"best_val_loss{end}"] for end in ("", "_min", "_max")] == pytest.approx([0.5, 0.4, 0.7])
    assert row["seconds"] == 3.0


def test_tables_do_not_depend_on_the_order_of_rows():
    study = make_study(alpha0=[0.001, 0.01])
    hits = {"adam": [3, None, 5], "adam-sgd": [2, 9, None], "adam-adam": [1, 9, 3]}
    table = tables.trial_table(cell_records(study, hits), study)
    shuffled = table.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(tables.summary_table(shuffled), tables.summary_table(table))


FEW = settings(max_examples=15, deadline=None)
HITS = st.lists(st.one_of(st.none(), st.integers(1, 20)), min_size=1, max_size=8)


@FEW
@given(HITS)
def test_the_summary_of_a_cell_is_what_its_definitions_say(hits):
    study = make_study(optimizers=["adam"], seeds=list(range(len(hits))))
    row = tables.summary_table(tables.trial_table(cell_records(study, {"adam": hits}), study)).iloc[0]
    reached = [hit for hit in hits if hit is not None]
    ordered = sorted(math.inf if hit is None else hit for hit in hits)
    assert row["hit_rate"] == pytest.approx(len(reached) / len(hits))
    assert row["mean_iterations"] == pytest.approx(
        (sum(reached) + 20 * (len(hits) - len(reached))) / len(hits)
    )
    assert (row["iterations_low"], row["iterations_high"]) == (ordered[0], ordered[-1])  # up to 8 seeds
    assert row["coverage"] == pytest.approx(1 - 2 ** (1 - len(hits)))


def test_the_smoothed_measure_has_the_same_columns():
    study = make_study(optimizers=["adam"], threshold=0.5)
    falling = [[2.0] * 4 + [0.1] * 6, [0.1] * 10]
    records = [
        record(trial, falling if trial.seed < 2 else [[2.0] * 10, [1.9] * 10]) for trial in study.trials()
    ]
    row = tables.summary_table(tables.trial_table(records, study)).iloc[0]
    d = metrics.SMOOTHING
    averages = [0.1 + 1.9 * d ** (t - 4) * (1 - d**4) / (1 - d**t) for t in range(5, 21)]
    hit = 5 + next(i for i, value in enumerate(averages) if value <= 0.5)
    assert hit > row["iterations_median"] == 5
    assert (row["smoothed_iterations_median"], row["smoothed_hit_rate"]) == (hit, pytest.approx(2 / 3))
    assert (row["smoothed_iterations_low"], row["smoothed_iterations_high"]) == (hit, math.inf)
    assert row["smoothed_mean_iterations"] == pytest.approx((2 * hit + 20) / 3)
    assert row["smoothed_iterations_text"] == f"{hit} ({hit} – > 20)"
    assert row["seconds_to_threshold"] == pytest.approx(1.5 * 5 / 10)


def test_a_pruned_trial_is_counted_and_enters_nothing_else():
    study = make_study(optimizers=["adam-sgd", "adam-adam"])
    table = tables.trial_table(cell_records(study, {"adam-sgd": [3, 4, 5], "adam-adam": [2, 2, 2]}), study)
    table.loc[(table["optimizer"] == "adam-adam") & (table["seed"] == 0), "outcome"] = "pruned"
    row = tables.summary_table(table).set_index("optimizer").loc["adam-adam"]
    assert (row["seeds"], row["pruned"], row["missing"], row["reached"]) == (2, 1, 0, 2)
    (pair,) = method_pairs(tables.ended(table))
    assert (len(pair.new), len(pair.base)) == (2, 3)


@FEW
@given(HITS.filter(lambda hits: None in hits), st.integers(21, 10_000))
def test_a_hit_after_the_budget_is_the_same_as_none(hits, late):
    study = make_study(optimizers=["adam-sgd", "adam-adam"], seeds=list(range(len(hits))))
    table = tables.trial_table(cell_records(study, {"adam-sgd": [9] * len(hits), "adam-adam": hits}), study)
    later = table.copy()
    for name in ("iterations", "smoothed_iterations"):
        later[f"{name}_to_threshold"] = later[f"{name}_to_threshold"].fillna(late)
    later["seconds_to_threshold"] = later["seconds_to_threshold"].fillna(99.0)
    pd.testing.assert_frame_equal(tables.summary_table(later), tables.summary_table(table))


@FEW
@given(HITS, HITS)
def test_a_new_seed_changes_no_other_seed_s_row(old, new):
    hits = old + new
    few, more = (make_study(optimizers=["adam"], seeds=list(range(count))) for count in (len(old), len(hits)))
    before, after = (tables.trial_table(cell_records(study, {"adam": hits}), study) for study in (few, more))
    pd.testing.assert_frame_equal(after.iloc[: len(old)], before)


def test_no_threshold_no_iterations():
    study = make_study(threshold={})
    table = tables.trial_table(cell_records(study, {"adam": [3] * 3, "adam-sgd": [3] * 3}), study)
    assert set(table["outcome"]) == {"completed", "pending"}
    assert set(tables.summary_table(table)["iterations_text"]) == {""}


def test_what_only_a_schedule_or_a_label_tells_apart_are_rows_of_their_own():
    """And no other optimizer stands in for a baseline of the report's."""
    study = make_study(
        optimizers=[
            *("adam", "adam-sgd", {"name": "adam", "schedule": "cosine"}, "torch.optim.Adam"),
            {"name": "torch.optim.AdamW", "label": "W"},
        ]
    )
    finals = {"adam": 0.5, "adam-sgd": 0.4, "adam cosine": 0.3, "Adam": 0.2, "W": 0.1}
    records = [record(trial, curve(12, finals[trial.label])) for trial in study.trials()]
    table = tables.trial_table(records, study)
    summary = tables.summary_table(table)
    assert dict(zip(summary["optimizer"], summary["final_train_loss"].round(9), strict=True)) == finals
    assert set(summary["seeds"]) == {3}
    (pair,) = method_pairs(table)
    assert (pair.method.optimizer, pair.baseline.optimizer) == ("adam-sgd", "adam")
