"""Results from Python are those of the journals, of a study of version 0.1 and of one that runs here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.figure import Figure

import study
from study.storage import journal_reader
from study.storage.study_folder import StudyFolder
from study.tracking.mlflow_backend.ui_server import serving

KEPT = Path(__file__).parents[2] / "data" / "version-0.1"
SPEC = {
    "name": "small",
    "workloads": ["digits-logreg", "digits-mlp"],
    "optimizers": ["sgd", "sgd-sgd"],
    "alpha0": np.array([0.01, 0.1]),
    "beta": 1e-3,
    "seeds": (0, 1, 2),
    "epochs": np.int64(2),
    "threshold": 2.0,
}
TRIALS = 2 * 2 * 2 * 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ran(runs):
    return study.run(SPEC, runs=runs, local=True, progress=False)


@pytest.fixture
def kept(tmp_path):
    """Runs of version 0.1, in a folder that may be written."""
    return shutil.copytree(KEPT, tmp_path / "kept")


@pytest.fixture
def again(ran, tmp_path):
    """The folder of runs again; its journals are from long ago, so that the summary may keep them."""
    shutil.copytree(ran.path, tmp_path / "again" / "small")
    for path in (tmp_path / "again").glob("*/trials/*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return tmp_path / "again"


@pytest.fixture
def keys_read(monkeypatch):
    """The keys of the trials whose journals are read."""
    keys = []
    read = journal_reader.read

    def noting(place, trial):
        keys.append(trial.key)
        return read(place, trial)

    monkeypatch.setattr(journal_reader, "read", noting)
    return keys


def test_importing_study_brings_in_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import study; study.__version__; dir(study);"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(out.stdout.split()) - set(sys.stdlib_module_names) == {"study"}


def test_a_study_of_version_0_1_is_loaded_as_its_journals_have_it(kept):
    results = study.load("kept-grid", runs=kept)
    assert (results.progress.finished, results.progress.running, results.progress.total) == (2, 2, 6)
    assert results.trials["outcome"].value_counts()["pending"] == 2
    folder = StudyFolder(kept, "kept-grid")
    for trial in results.study.trials():
        record = journal_reader.read(folder.journal(trial), trial)
        if record.epochs:
            rows = results.curves(optimizer=trial.label, seed=trial.seed)
            for name in ("alpha", "train_loss", "hypergradient"):
                np.testing.assert_allclose(rows[name], getattr(record, name), rtol=1e-6)
            epochs = results.epochs(optimizer=trial.label, seed=trial.seed)
            assert epochs["val_loss"].tolist() == [epoch.val_loss for epoch in record.epochs]
    assert isinstance(results.figure1(), Figure)


def test_a_search_of_version_0_1_shows_its_best_points(kept):
    results = study.load("kept-search", runs=kept)
    assert set(results.trials["seed"]).isdisjoint(results.study.search.seeds)
    assert set(results.curves()["key"]) == set(results.trials["key"])


def test_figures_of_a_search_show_the_points_that_were_tried(kept):
    """Version 0.1 left six trials of adam-sgd: three points on two seeds."""
    results = study.load("kept-search", runs=kept)
    says = "too few points: 3 with a finite score, 10 needed"
    importance = results.figures()["Importance of α₀ and β"]
    assert says in [text.get_text() for text in importance.axes[0].texts]
    assert says in (results.report().parent / "search-importance.svg").read_text()


def test_what_is_not_asked_for_is_not_read(ran, again, keys_read):
    expected = ran.epochs()
    keys_read.clear()
    study.load("small", runs=again)
    assert len(keys_read) == TRIALS
    keys_read.clear()
    results = study.load("small", runs=again)
    pd.testing.assert_frame_equal(results.trials, ran.trials)
    pd.testing.assert_frame_equal(results.summary, ran.summary)
    pd.testing.assert_frame_equal(results.claims, ran.claims)
    assert results.progress.finished == TRIALS
    assert results.failures == []
    results.step_sizes()
    assert keys_read == []
    for _ in range(2):
        curves = results.curves(optimizer="sgd", alpha0=0.1, seed=[0, 2])
        assert sorted(keys_read) == sorted(set(curves["key"]))
    pd.testing.assert_frame_equal(results.epochs(), expected)
    assert sorted(keys_read) == sorted(ran.trials["key"])


def test_results_of_a_study_that_runs_stay_as_they_were_loaded(ran, again):
    key = ran.trials["key"][0]
    path = again / "small" / "trials" / f"{key}.journal"
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))  # its start and its first epoch
    results = study.load("small", runs=again)
    assert (results.progress.finished, results.progress.running) == (TRIALS - 1, 1)
    path.write_bytes(whole)
    assert results.trials["outcome"][0] == "running"
    epochs, curves = (table[table["key"] == key] for table in (results.epochs(), results.curves()))
    assert epochs["epoch"].tolist() == [1]
    assert len(curves) == results.trials["iterations"][0] == epochs["iteration"].item()
    newer = study.load("small", runs=again)
    assert newer.progress.finished == TRIALS
    pd.testing.assert_frame_equal(newer.epochs(), ran.epochs())


def test_a_journal_that_went_after_the_results_were_loaded_is_an_error(again):
    results = study.load("small", runs=again)
    (again / "small" / "trials" / f"{results.trials['key'][0]}.journal").unlink()
    assert len(results.summary) == TRIALS / 3
    with pytest.raises(OSError, match="load the study again"):
        results.curves()


def test_a_study_that_ran_has_all_its_trials_and_their_settings_in_every_table(ran):
    trials = ran.trials
    assert len(trials) == TRIALS
    assert set(trials["outcome"]) <= {"reached", "not_reached"}
    assert len(ran.summary) == TRIALS / 3
    curves = ran.curves()
    assert (
        curves.groupby("key").size().tolist() == trials.set_index("key")["iterations"].sort_index().tolist()
    )
    settings = ["workload", "optimizer", "alpha0", "beta", "seed"]
    told = curves.drop_duplicates("key").set_index("key")[settings]
    pd.testing.assert_frame_equal(
        told.sort_index(), trials.set_index("key")[settings].sort_index(), check_dtype=False
    )
    last = ran.epochs().groupby("key")["train_loss"].last()
    expected = trials.set_index("key")["final_train_loss"]
    np.testing.assert_allclose(last.sort_index(), expected.sort_index(), rtol=1e-6)


def test_tables_are_the_callers_own(ran):
    table = ran.trials
    table["outcome"] = "spoilt"
    assert "spoilt" not in set(ran.trials["outcome"])


def test_curves_are_selected_by_any_setting(ran):
    some = ran.curves(optimizer=["sgd-sgd"], alpha0=[0.1], seed=(0, 2), workload="digits-mlp", beta=1e-3)
    assert some.groupby("seed").ngroups == 2
    assert {*some["optimizer"], *some["workload"]} == {"sgd-sgd", "digits-mlp"}
    assert ran.curves(alpha0=0.1 + 1e-16)["alpha0"].unique().tolist() == [0.1]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"alpha0": 0.5}, "no trial has alpha0=0.5; there are 0.01, 0.1"),
        ({"optimizer": "adam"}, "no trial has optimizer='adam'; there are sgd, sgd-sgd"),
        ({"beta": [1e-3, 7]}, "no trial has beta=7; there are 0.001"),
        ({"seed": 9}, "no trial has seed=9; there are 0, 1, 2"),
    ],
)
def test_a_value_that_no_trial_has_is_refused(ran, wanted, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ran.curves(**wanted)


def test_every_figure_of_the_report_can_be_had(ran):
    figures = ran.figures()
    assert "Learning rate and losses" in figures
    named = [ran.figure1(0.1), ran.step_sizes(), ran.best_of_k(), ran.runtime()]
    for figure in [*named, *figures.values()]:
        assert isinstance(figure, Figure)
    assert "α₀ = 0.1" in ran.figure1(0.1).get_suptitle()


def test_a_figure_of_one_workload_has_its_trials_alone(ran, kept):
    figure = ran.sensitivity("digits-mlp")
    best = ran.summary.query("workload == 'digits-mlp'")["final_train_loss"]
    drawn = [
        line.get_ydata() for axes in figure.axes[-1:] for line in axes.lines if len(line.get_ydata()) > 1
    ]
    assert sorted(np.concatenate(drawn)) == pytest.approx(sorted(best))
    with pytest.raises(ValueError, match="several workloads; give workload= one of digits-logreg, digits"):
        ran.sensitivity()
    with pytest.raises(ValueError, match="there are no finished trials that this figure can show"):
        study.load("kept-grid", runs=kept).sensitivity()


def test_a_notebook_sees_how_the_study_stands_and_its_best_points_first(ran):
    page = ran._repr_html_()
    assert f"{TRIALS}/{TRIALS} trials done" in page
    best = ran.summary.sort_values(["workload", "best_val_loss"])
    rows = page.split("<tbody>")[1].split("</tr>")
    assert f"<td>{best['optimizer'].iloc[0]}</td>" in rows[0]
    assert f"<td>{best['alpha0'].iloc[0]:g}</td>" in rows[0]
    assert len(rows) - 1 == len(best)
    assert repr(ran).startswith(f"<Results of small: {TRIALS}/{TRIALS} trials done")


def test_a_study_file_scores_the_results_again(ran, runs, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text((runs / "small" / "study.yaml").read_text().replace("threshold: 2.0", "threshold: 1e-6"))
    assert (study.load(file, runs=runs).trials["outcome"] == "not_reached").all()


def test_claims_include_the_baselines_that_the_study_file_names(ran, runs, tmp_path):
    text = (runs / "small" / "study.yaml").read_text()
    content = yaml.safe_load(text)
    content["optimizers"] = [{"name": "sgd", "against": ["sgd-sgd"]}, "sgd-sgd"]
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    claims = study.load(file, runs=runs).claims
    named = claims[claims["family"] == "against what the study names"]
    assert {*named["optimizer"], *named["baseline"]} == {"sgd", "sgd-sgd"}
    assert (named["optimizer"] == "sgd").all()
    assert "against what the study names" not in set(ran.claims["family"])


def test_untuned_claims_are_those_of_the_losses_in_the_journals(ran, runs, tmp_path):
    """The numbers are worked out here from ``epochs``, seed by seed."""
    content = yaml.safe_load((runs / "small" / "study.yaml").read_text())
    content["optimizers"] = [{"name": name, "default_alpha0": 0.01} for name in ("sgd", "sgd-sgd")]
    content["untuned"] = {"optimizers": "sgd-sgd", "against": "sgd", "within": 1.2, "rivals": "sgd"}
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    results = study.load(file, runs=runs)
    claims = results.untuned_claims
    questions = ["needs no tuning", "reaches the tuned loss at its default", "better at its default"]
    assert claims["claim"].tolist() == questions * 2
    assert set(claims["optimizer"]) == {"sgd-sgd"}
    assert set(claims["against"]) == {"sgd"}
    last = ran.epochs().query("epoch == 2").set_index(["workload", "optimizer", "alpha0", "seed"])["val_loss"]
    best = ran.epochs().groupby(["workload", "optimizer", "alpha0", "seed"])["val_loss"].min()
    for workload, rows in claims.set_index("claim").groupby("workload"):
        plain = last[workload, "sgd"].unstack("alpha0")
        tuned = np.array([plain.loc[seed, plain.drop(seed).mean().idxmin()] for seed in (0, 1, 2)])
        at_default = best[workload, "sgd-sgd", 0.01].to_numpy() / tuned
        rival = (last[workload, "sgd-sgd", 0.01] / last[workload, "sgd", 0.01]).to_numpy()
        untuned = {alpha0: last[workload, "sgd-sgd", alpha0].to_numpy() / tuned for alpha0 in (0.01, 0.1)}
        worst = untuned[rows.loc["needs no tuning", "alpha0"]]
        assert (worst < 1.2).sum() == min((ratios < 1.2).sum() for ratios in untuned.values())
        for question, bar, ratios in zip(questions, (1.2, 1, 1), (worst, at_default, rival), strict=True):
            row = rows.loc[question]
            assert (row["bar"], row["seeds"], row["below"]) == (bar, 3, (ratios < bar).sum())
            assert row["ratio"] == pytest.approx(np.exp(np.log(ratios).mean()))
            assert row["p"] == {0: 1, 1: 7 / 8, 2: 4 / 8, 3: 1 / 8}[(ratios < bar).sum()]
            assert row["verdict"] == "undecided"  # three seeds decide nothing
    written = pd.read_csv(results.report(tmp_path / "report").parent / "untuned_claims.csv")
    pd.testing.assert_frame_equal(written, claims.replace("", np.nan), check_dtype=False)


def test_a_study_that_claims_nothing_about_tuning_has_no_untuned_claims(ran):
    assert ran.untuned_claims.empty
    assert {"claim", "optimizer", "against", "ratio", "p", "verdict", "text"} <= {*ran.untuned_claims}


def test_what_is_not_there_is_said(runs, tmp_path):
    with pytest.raises(study.ConfigError, match="none: no study of that name was run under"):
        study.load("none", runs=tmp_path)
    with pytest.raises(study.ConfigError, match="'sqlite:///x' is not a server's address"):
        study.load("small", tracking="sqlite:///x")


def test_the_same_comes_from_a_server_alone(ran, runs, monkeypatch, tmp_path, tmp_path_factory):
    server = tmp_path_factory.mktemp("server")
    monkeypatch.chdir(server)
    with serving(f"sqlite:///{server / 'mlflow.db'}", 0) as address:
        monkeypatch.chdir(tmp_path)
        study.run(SPEC, runs=runs, local=True, tracking=address, report=False, progress=False)
        results = study.load("small", tracking=address)
        best = study.load("small", tracking=address).progress.best
        with pytest.raises(study.ConfigError, match=f"none: {address} has no study of that name"):
            study.load("none", tracking=address)
    assert list(tmp_path.iterdir()) == []
    pd.testing.assert_frame_equal(results.trials, ran.trials)
    pd.testing.assert_frame_equal(results.curves(), ran.curves())
    pd.testing.assert_frame_equal(results.claims, ran.claims)
    place = results.path
    assert place.is_dir()
    assert best.best_val_loss == results.progress.best_val_loss == ran.progress.best_val_loss
    assert len(best.epochs) == 2  # although its folder is gone
    del results
    assert not place.exists()
