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
    pd.testing.assert_series_equal(
        table["gradient_evaluations_to_threshold"], table["iterations_to_threshold"], check_names=False
    )


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
    pd.testing.assert_frame_equal(tables.comparisons(shuffled), tables.comparisons(table))


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
    assert tables.comparisons(table)["pairs"].tolist() == [2]


@FEW
@given(HITS.filter(lambda hits: None in hits), st.integers(21, 10_000))
def test_a_hit_after_the_budget_is_the_same_as_none(hits, late):
    study = make_study(optimizers=["adam-sgd", "adam-adam"], seeds=list(range(len(hits))))
    table = tables.trial_table(cell_records(study, {"adam-sgd": [9] * len(hits), "adam-adam": hits}), study)
    later = table.copy()
    for name in ("iterations", "smoothed_iterations", "gradient_evaluations"):
        later[f"{name}_to_threshold"] = later[f"{name}_to_threshold"].fillna(late)
    later["seconds_to_threshold"] = later["seconds_to_threshold"].fillna(99.0)
    pd.testing.assert_frame_equal(tables.summary_table(later), tables.summary_table(table))
    pd.testing.assert_frame_equal(tables.comparisons(later), tables.comparisons(table))


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
    (verdict,) = tables.comparisons(table)["verdict"]
    assert "threshold" not in verdict


# comparisons


def compare(hits, finals=None, **changes) -> pd.DataFrame:
    study = make_study(**changes)
    rows = tables.comparisons(tables.trial_table(cell_records(study, hits, finals), study))
    return rows.set_index("optimizer")


def test_each_optimizer_is_compared_with_its_own_baseline():
    assert {
        **{"sgd-sgd": "sgd", "sgdn-sgd": "sgdn", "adam-sgd": "adam"},
        **{"sgd-sgdn": "sgd-sgd", "sgd-adam": "sgd-sgd", "sgdn-sgdn": "sgdn-sgd"},
        **{"sgdn-adam": "sgdn-sgd", "adam-sgdn": "adam-sgd", "adam-adam": "adam-sgd"},
        **{f"{op}-{lop}": f"{op}-sgd" for op in ("sgd", "sgdn", "adam") for lop in ("adagrad", "lion")},
    } == tables.BASELINES


def test_pairs_share_their_seed_and_losses_are_compared_within_them():
    finals = {"adam-sgd": [1.0, 2.0, 3.0], "adam-adam": [0.5, 1.8, 3.3]}
    rows = compare({"adam-sgd": [3, 3, 3], "adam-adam": [3, 3, 3]}, finals)
    row = rows.loc["adam-adam"]
    assert (row["baseline"], row["pairs"]) == ("adam-sgd", 3)
    assert (row["final_train_loss_better"], row["final_train_loss_worse"]) == (2, 1)
    assert row["final_train_loss_ratio"] == pytest.approx(0.9)  # of 0.5, 0.9, 1.1
    assert "final training loss lower in 2 of 3 pairs (median −10 %)" in row["verdict"].split("; ")
    assert "threshold reached equally soon in 3 of 3 pairs" in row["verdict"].split("; ")


def test_censored_pairs():
    rows = compare(
        {"adam-sgd": [None, 7, None, 4, 9], "adam-adam": [None, None, 5, 4, 3]}, seeds=[0, 1, 2, 3, 4]
    )
    row = rows.loc["adam-adam"]
    counts = [row[f"iterations_to_threshold_{how}"] for how in ("better", "worse", "equal")]
    assert counts == [2, 1, 2]  # better: 5 against none, 3 against 9; equal: none and none, 4 and 4
    assert row["iterations_to_threshold_ratio"] == pytest.approx((1 + 3 / 9) / 2)
    assert row["verdict"].startswith("threshold reached sooner in 2 of 5 pairs, equal in 2 (median −33 %)")


def test_a_threshold_that_neither_reached_is_said_so():
    row = compare({"adam-sgd": [None] * 3, "adam-adam": [None] * 3}).loc["adam-adam"]
    assert row["verdict"].startswith("threshold reached in none of 3 pairs; ")
    assert math.isnan(row["iterations_to_threshold_ratio"])


def test_a_diverged_trial_is_behind_one_that_is_not():
    study = make_study(optimizers=["adam-sgd", "adam-adam"], threshold={})
    records = []
    for trial in study.trials():
        losses = (
            [[1.0, 1.0], [0.001, math.nan]] if trial.optimizer == "adam-adam" else [[1.0, 1.0], [0.9, 0.9]]
        )
        diverged = trial.optimizer == "adam-adam" and trial.seed < 2
        records.append(record(trial, losses if diverged else [[1.0, 1.0], [0.9, 0.9]]))
        if diverged:
            records[-1] = TrialRecord(trial, status="diverged", epochs=records[-1].epochs)
    (row,) = tables.comparisons(tables.trial_table(records, study)).to_dict("records")
    assert [row[f"final_train_loss_{how}"] for how in ("better", "worse", "equal")] == [0, 2, 1]
    assert (row["diverged"], row["baseline_diverged"]) == (2, 0)
    assert row["verdict"].endswith("diverged in 2, the baseline in 0 of 3 pairs")


def test_trials_that_have_not_ended_make_no_pairs():
    study = make_study()
    records = cell_records(study, {"adam-sgd": [3] * 3, "adam-adam": [3] * 3})
    records = [
        TrialRecord(r.trial, status="running", epochs=r.epochs[:1]) if r.trial.seed == 1 else r
        for r in records
    ]
    assert tables.comparisons(tables.trial_table(records, study))["pairs"].tolist() == [2]
    assert tables.comparisons(tables.trial_table([], study)).empty


def test_equal_betas_are_paired_and_unequal_ones_named():
    hits = {"adam": [3] * 3, "adam-sgd": [3] * 3, "adam-adam": [3] * 3}

    def pairs(beta):
        rows = compare(hits, beta=beta).loc["adam-adam"]
        rows = rows.to_frame().T if isinstance(rows, pd.Series) else rows
        return sorted(zip(rows["beta"], rows["baseline_beta"], rows["pairs"], strict=True))

    assert pairs([1e-7, 1e-3]) == [(1e-7, 1e-7, 3), (1e-3, 1e-3, 3)]
    assert pairs({"adam-sgd": [1e-3], "adam-adam": [1e-7]}) == [(1e-7, 1e-3, 3)]
    against_plain = compare(hits, beta=[1e-7, 1e-3]).loc["adam-sgd"]
    assert against_plain["beta"].tolist() == [1e-7, 1e-3]
    assert against_plain["baseline_beta"].isna().all()


def test_every_granularity_is_paired_with_its_own_or_else_with_what_there_is():
    optimizers = ["adam-sgd", "adam-adam", {"name": "adam-adam", "granularity": "released"}]
    rows = compare({"adam-sgd": [3] * 3, "adam-adam": [3] * 3}, optimizers=optimizers)
    assert rows["granularity"].tolist() == ["group", "released"]
    assert rows["baseline_granularity"].tolist() == ["group", "group"]
    both = [{"name": "adam-sgd", "granularity": "released"}, *optimizers]
    rows = compare({"adam-sgd": [3] * 3, "adam-adam": [3] * 3}, optimizers=both)
    assert sorted(zip(rows["granularity"], rows["baseline_granularity"], strict=True)) == [
        ("group", "group"),
        ("released", "released"),
    ]


def test_another_baseline_can_be_asked_for():
    study = make_study()
    table = tables.trial_table(cell_records(study, {"adam": [5] * 3, "adam-adam": [3] * 3}), study)
    (row,) = tables.comparisons(table, {"adam-adam": "adam"}).to_dict("records")
    assert (row["optimizer"], row["baseline"], row["iterations_to_threshold_better"]) == (
        "adam-adam",
        "adam",
        3,
    )


def test_iterations_to_different_thresholds_are_not_compared():
    study = make_study(threshold={"adam": 0.05, "adam-adam": 0.06})
    table = tables.trial_table(cell_records(study, {"adam": [5] * 3, "adam-adam": [3] * 3}), study)
    (row,) = tables.comparisons(table, {"adam-adam": "adam"}).to_dict("records")
    assert "threshold" not in row["verdict"]


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
    compared = tables.comparisons(table)
    assert list(zip(compared["optimizer"], compared["baseline"], strict=True)) == [("adam-sgd", "adam")]
    assert compared["final_train_loss_ratio"].item() == pytest.approx(0.8)
