"""What is exported is what was measured: read back, or compiled, and never half written."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from study.analysis.claim_table import claim_table
from study.analysis.claims import claims
from study.analysis.tables import summary_table, trial_table
from study.analysis.untuned_claims import untuned_claim_table, untuned_claims
from study.config.loader import Study
from study.report import export
from study.storage.records import EpochRecord, TrialRecord

HOSTILE = r"a_b & 50% #1 {x} \input{y} $z$ ~ ^ <α₀ ≤ β>"


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.model_validate(
        {
            "name": "made-up",
            "workloads": [{"use": "digits-mlp", "kind": HOSTILE}],
            "optimizers": [{"name": name, "default_alpha0": 0.01} for name in ("sgd", "sgd-sgd")],
            "alpha0": [0.01, 1e-7],
            "beta": 1e-7,
            "seeds": 6,
            "epochs": 2,
            "threshold": 0.5,
            "untuned": {"optimizers": "sgd-sgd", "against": "sgd", "within": 2, "rivals": "sgd"},
        }
    )


@pytest.fixture(scope="module")
def records(study):
    """Two epochs of three iterations; sgd at the small α₀ never reaches the threshold, one trial diverges."""
    made = []
    for number, trial in enumerate(study.trials()):
        random = np.random.default_rng(number)
        slow = trial.lop is None and trial.alpha0 < 1e-3
        epochs = []
        for epoch in (1, 2):
            loss = np.full(3, 1.5 if slow else 1.2 - 0.4 * epoch) + 0.01 * random.random(3)
            alpha, h = np.full(3, trial.alpha0), random.standard_normal(3)
            if trial.lop is None:
                h = np.full(3, np.nan)
            epochs.append(EpochRecord(epoch, 3 * epoch - 2, alpha, h, loss, float(loss[-1]), 0.5, 1.0))
        made.append(TrialRecord(trial, status="finished", epochs=tuple(epochs)))
    return made


@pytest.fixture(scope="module")
def tables(study, records):
    """The tables of the study by name, each with rows."""
    trials = trial_table(records, study)
    return {
        "trials": trials,
        "summary": summary_table(trials),
        "claims": claim_table(claims(trials)),
        "untuned_claims": untuned_claim_table(untuned_claims(trials, study.untuned)),
    }


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_curves_hold_every_iteration_of_every_trial(records, tmp_path, form):
    path = tmp_path / f"curves.{form}"
    assert export.write_curves(iter(records), form, path) == 6 * len(records)
    table = pd.read_csv(path) if form == "csv" else pd.read_parquet(path)
    settings = ["workload", "optimizer", "alpha0", "beta", "seed"]
    assert list(table) == ["key", *settings, "iteration", "alpha", "train_loss", "hypergradient"]
    for record in records:
        rows = table[table["key"] == record.trial.key]
        written = record.trial.settings()
        for name in settings:
            (value,) = rows[name].unique()
            assert value == written[name] or (written[name] is None and np.isnan(value))
        assert rows["iteration"].tolist() == [1, 2, 3, 4, 5, 6]
        for name in ("alpha", "train_loss", "hypergradient"):
            np.testing.assert_allclose(rows[name], getattr(record, name), rtol=1e-6)
    plain = table[table["key"] == records[0].trial.key]
    assert plain["hypergradient"].isna().all()


def test_trials_that_have_not_begun_have_no_rows(study, tmp_path):
    waiting = [TrialRecord(trial) for trial in study.trials()]
    assert export.write_curves(waiting, "csv", tmp_path / "c.csv") == 0
    assert pd.read_csv(tmp_path / "c.csv").empty


def test_curves_are_taken_one_trial_at_a_time(records, tmp_path):
    """A trial's record is written before the next one is asked for."""
    sizes = []

    def one_by_one():
        for record in records:
            sizes.append((tmp_path / ".c.csv.new").stat().st_size)
            yield record

    export.write_curves(one_by_one(), "csv", tmp_path / "c.csv")
    assert sizes == sorted(set(sizes))


def test_an_export_that_fails_leaves_the_old_file_as_it_was(records, tmp_path):
    path = tmp_path / "curves.parquet"
    path.write_text("old")

    def breaking():
        yield records[0]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        export.write_curves(breaking(), "parquet", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_tables_come_back_as_they_were(tables, tmp_path, form):
    assert {*tables} == {*export.WHATS} - {"curves"}
    for what, table in tables.items():
        assert len(table)
        path = tmp_path / f"{what}.{form}"
        export.write_table(table, what, form, path)
        back = pd.read_csv(path) if form == "csv" else pd.read_parquet(path)
        assert list(back) == list(table)
        for name in table.select_dtypes("number"):
            np.testing.assert_allclose(back[name].astype(float), table[name].astype(float), err_msg=name)


def test_the_latex_summary_says_medians_intervals_and_what_was_not_reached(study, records):
    text = export.latex(summary_table(trial_table(records, study)), "summary")
    lines = [line for line in text.splitlines() if "&" in line]
    slow = next(line for line in lines if "$10^{-7}$ & --" in line)
    assert "$>$ 6 & 0/6" in slow
    reached = next(line for line in lines if " & 0.01 & --" in line)
    assert " & 4 & 6/6" in reached
    assert (
        r"a\_b \& 50\% \#1 \{x\} \textbackslash \textbackslash input\{y\} \$z\$ \textasciitilde " in reached
    )
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1


def test_the_latex_claims_about_tuning_say_ratio_bar_and_seeds(tables):
    """In every seed and from both α₀, sgd-sgd ends near the loss of sgd tuned, so below 2 × it."""
    text = export.latex(tables["untuned_claims"], "untuned_claims")
    (row,) = (line for line in text.splitlines() if line.startswith("needs no tuning"))
    _, _, optimizer, against, alpha0, ratio, *rest = row.removesuffix(r" \\").split(" & ")[-10:]
    assert (optimizer, against) == ("SGD-HD", "SGD")
    assert alpha0 in ("0.01", "$10^{-7}$")
    assert 0.9 < float(ratio.partition(" ")[0]) < 1.1
    assert rest == ["2", "6/6", "0.016", "supported"]  # p = 1 / 2⁶


def test_the_latex_table_of_a_claim_that_is_not_judged_has_dashes(study, records):
    """One seed decides nothing."""
    trials = trial_table(records, study).query("seed == 0")
    text = export.latex(untuned_claim_table(untuned_claims(trials, study.untuned)), "untuned_claims")
    (row,) = (line for line in text.splitlines() if line.startswith("needs no tuning"))
    assert row.endswith(r" & SGD-HD & SGD & -- & -- & 2 & -- & -- & undecided \\")


@pytest.mark.parametrize("what", ["summary", "trials", "claims", "untuned_claims"])
def test_latex_tables_use_the_names_of_papers(tables, what):
    text = export.latex(tables[what], what)
    assert " & SGD-HD & " in text
    assert " & SGD & " in text
    assert " sgd" not in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX; Debian: texlive-latex-recommended")
@pytest.mark.parametrize("what", ["summary", "trials", "claims", "untuned_claims"])
def test_latex_compiles(tables, tmp_path, what):
    export.write_table(tables[what], what, "latex", tmp_path / "table.tex")
    document = (
        "\\documentclass{article}\\usepackage{booktabs,longtable}"
        "\\begin{document}\\input{table}\\end{document}"
    )
    (tmp_path / "main.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "main.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Missing character" not in done.stdout + (tmp_path / "main.log").read_text(errors="replace")


def test_a_place_that_cannot_be_written_is_said(records, tmp_path):
    with pytest.raises(OSError, match=r"there is no folder .*nowhere; name a file to write with --output"):
        export.write_curves(records, "csv", tmp_path / "nowhere" / "c.csv")
    with pytest.raises(OSError, match="is a folder"):
        export.write_curves(records, "csv", tmp_path)
    with pytest.raises(ValueError, match="curves are too long for LaTeX; choose csv or parquet"):
        export.write_curves(records, "latex", tmp_path / "c.tex")
