"""What a study does not show is said in words, and only when it applies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from study.analysis.sensitivity import alpha0_widths
from study.analysis.tables import summary_table, trial_table
from study.config.loader import Study
from study.report.caveats import limits
from study.storage.records import EpochRecord, TrialRecord

STUDY = Study.model_validate(
    {
        "name": "made-up",
        "workloads": ["digits-logreg"],
        "optimizers": ["adam", "adam-sgd"],
        "alpha0": [0.1, 0.01, 0.001],
        "beta": 1e-7,
        "seeds": 6,
        "epochs": 1,
        "threshold": 0.3,
    }
)


def records(hits, machine=None):
    made = []
    for trial in STUDY.trials():
        loss = np.where(np.arange(1, 101) >= (hits(trial) or 101), 0.2, 2.0)
        epoch = EpochRecord(1, 1, np.full(100, trial.alpha0), np.zeros(100), loss, 1.0, 0.5, 1.0)
        stamp = machine(trial) if machine else {}
        made.append(TrialRecord(trial, status="finished", epochs=(epoch,), machine=stamp))
    return made


def said(trials: pd.DataFrame, made=()) -> str:
    return "\n".join(limits(trials, summary_table(trials), alpha0_widths(trials), made))


def test_pruned_trials_are_counted_named_and_not_called_missing():
    trials = trial_table(records(lambda trial: 10), STUDY)
    trials.loc[trials.index[:2], "outcome"] = "pruned"
    text = said(trials)
    assert "2 trials pruned" in text
    assert ": Adam α₀=0.1 (2 of 6)" in text
    assert "missing" not in text


def test_what_was_not_reached_is_counted_and_cells_without_any_hit_are_named():
    trials = trial_table(records(lambda trial: None if trial.alpha0 == 0.001 else 10), STUDY)
    text = said(trials)
    assert "12 of 36 trials that ended did not reach their threshold within the budget" in text
    assert "none did: Adam α₀=0.001, Adam-HD α₀=0.001 β=1e-07." in text
    assert "did not reach" not in said(trial_table(records(lambda trial: 10), STUDY))


def test_a_width_that_ends_at_the_edge_of_what_was_tried_is_said():
    inside = {0.1: 90, 0.01: 10, 0.001: 90}
    edge = {0.1: 10, 0.01: 10, 0.001: 90}
    trials = trial_table(records(lambda t: edge[t.alpha0] if t.lop else inside[t.alpha0]), STUDY)
    text = said(trials)
    assert "may be wider than it looks, for Adam-HD β 1e-07." in text


def test_trials_of_several_commits_or_versions_are_said():
    made = records(
        lambda trial: 10, lambda trial: {"commit": "aaa" if trial.seed else "bbb", "torch": "2.15"}
    )
    text = said(trial_table(made, STUDY), made)
    assert "Trials ran with 2 commits of this project: aaa, bbb." in text
    assert "versions of torch" not in text
    assert "compiled kernels" not in text


def test_trials_with_and_without_compiled_kernels_are_said():
    made = records(lambda trial: 10, lambda trial: {"kernels": "none" if trial.seed else "compiled"})
    assert "some on machines without a C compiler" in said(trial_table(made, STUDY), made)


def test_trials_of_several_precisions_are_said():
    tf32 = "float32 (tf32 in convolution)"
    made = records(lambda trial: 10, lambda trial: {"precision": tf32 if trial.seed else "float32"})
    assert f"Trials ran with 2 precisions: float32, {tf32}." in said(trial_table(made, STUDY), made)


def test_notes_of_the_journals_are_listed_those_of_most_trials_first():
    made = [
        replace(record, notes=("a smaller pack", f"checkpoint {index} is damaged"))
        for index, record in enumerate(records(lambda trial: 10))
    ]
    text = said(trial_table(made, STUDY), made)
    assert f"{len(made)} trials: a smaller pack." in text
    assert "1 trial: checkpoint 0 is damaged." in text
    assert f"The journals have {len(made) - 4} more notes of this kind." in text
    assert "of this kind" not in said(trial_table(records(lambda trial: 10), STUDY), made[:1])
