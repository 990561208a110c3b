"""From journals to the report, `compare` and `export`, as a person calls them; and what is missing."""

import re
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from study.cli import commands
from study.config.loader import load_study
from study.report.lock import only_writer
from study.storage import search_journal
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri, open_tracker
from study.training.worker import run_bundle

STUDY = """
name: small
workloads: [digits-logreg]
optimizers: [adam, adam-sgd]
alpha0: [0.03, 0.003]
beta: 1e-5
seeds: 3
epochs: 2
threshold: 1.0
"""


SEARCH = """
name: searched
workloads: [digits-logreg]
optimizers: [adam]
alpha0: {low: 1e-3, high: 1.0}
seeds: 2
epochs: 2
threshold: 1.0
search: {points: 2, seeds: 1}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs with a study that was trained here and is kept in MLflow."""
    home = tmp_path_factory.mktemp("trained")
    (home / "small.yaml").write_text(STUDY)
    study = load_study(home / "small.yaml")
    folder = StudyFolder(home / "runs", study.name)
    folder.save_study(study)
    list(run_bundle(study.trials(), folder))
    tracker = open_tracker(study, embedded_uri(folder.runs), folder)
    for record in folder.records(study.trials()):
        tracker.publish(record)
    tracker.close(completed=True)
    return home / "runs"


@pytest.fixture
def runs(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def say(monkeypatch, capsys, runs):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", *map(str, arguments), "--runs", str(runs)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return run


def test_a_report_after_two_trials_were_deleted_names_their_cells_and_invents_nothing(say, runs):
    code, _, err = say("report", "small")
    assert code == 0, err
    report = runs / "small" / "report"
    tables = ("trials", "summary", "claims")
    before = {name: pd.read_csv(report / f"{name}.csv") for name in tables}
    assert "missing:" not in (report / "index.html").read_text()

    study = load_study(runs / "small" / "study.yaml")
    folder = StudyFolder(runs, "small")
    gone = [trial for trial in study.trials() if trial.alpha0 == 0.003 and trial.seed == 1]
    assert len(gone) == 2
    for trial in gone:
        folder.journal(trial).unlink()
    for path in (runs / "artifacts").rglob("curve.parquet"):
        path.unlink()

    code, _, err = say("report", "small")
    assert code == 0, err
    page = " ".join(re.sub(r"<[^>]+>", " ", (report / "index.html").read_text()).split())
    assert "2 trials missing" in page
    assert ": Adam α₀=0.003 (1 of 3), Adam-HD α₀=0.003 β=1e-05 (1 of 3)." in page
    assert "10 of 12 ended" in page
    after = {name: pd.read_csv(report / f"{name}.csv") for name in tables}
    lost = after["trials"]["key"].isin([trial.key for trial in gone])
    measured = ["iterations_to_threshold", "best_val_loss", "final_train_loss", "seconds", "iterations"]
    assert after["trials"][lost][measured].isna().all(axis=None)
    assert (after["trials"][lost]["outcome"] == "pending").all()
    pd.testing.assert_frame_equal(after["trials"][~lost], before["trials"][~lost])
    # Cells that lost nothing are as they were; the others are over the seeds that are left.
    whole = after["summary"]["alpha0"] == 0.03
    pd.testing.assert_frame_equal(after["summary"][whole], before["summary"][whole])
    for row in after["summary"][~whole].itertuples():
        left = before["trials"][~lost].query("optimizer == @row.optimizer and alpha0 == 0.003")
        assert (row.seeds, row.missing) == (2, 1)
        assert row.best_val_loss == pytest.approx(left["best_val_loss"].median())
    # A seed that lost a trial is no observation of a claim.
    judged = after["claims"]["seeds"] > 0
    assert (after["claims"]["seeds"] == before["claims"]["seeds"] - before["claims"]["seeds"].gt(0)).all()
    assert (after["claims"][judged]["incomplete"] == 1).all()


def test_compare_prints_optimizers_and_studies_side_by_side(say, runs):
    code, out, err = say("compare", "small:adam", "small:adam-sgd")
    assert code == 0, err
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if "adam-sgd β 1e-05" in line]
    assert len(lines) == 2
    assert all(re.search(r"\d\.\d+ \(.+ – .+\)|1 \(1 – 1\)", line) for line in lines)
    assert say("compare", "small", "--optimizers", "adam,adam-sgd")[1] == out
    other = StudyFolder(runs, "other")
    shutil.copytree(runs / "small", other.path)
    other.study_file.write_text(
        (runs / "small" / "study.yaml").read_text().replace("name: small", "name: other")
    )
    code, out, err = say("compare", "small", "other")
    assert code == 0, err
    assert len([line for line in out.splitlines() if re.search(r"\bother\b", line)]) == 4


@pytest.mark.parametrize("what", ["summary", "trials", "curves", "claims"])
def test_export_writes_a_file_and_says_where(say, tmp_path, what):
    code, out, err = say("export", "small", "--what", what)
    assert code == 0, err
    path = tmp_path / f"small-{what}.csv"
    rows = len(pd.read_csv(path))
    assert out.split() == [f"small-{what}.csv:", str(rows), "rows"]
    assert rows == {"summary": 4, "trials": 12, "curves": 12 * 24, "claims": 3}[what]
    target = tmp_path / "elsewhere.parquet"
    assert say("export", "small", "--what", what, "--format", "parquet", "-o", target)[0] == 0
    assert len(pd.read_parquet(target)) == rows


def test_export_writes_the_claims_about_tuning_that_the_study_file_makes(say, runs, tmp_path):
    assert say("export", "small", "--what", "untuned_claims")[1] == "small-untuned_claims.csv: 0 rows\n"
    file = runs / "small" / "study.yaml"
    content = yaml.safe_load(file.read_text())
    content["untuned"] = {"optimizers": "adam-sgd", "against": "adam", "within": 1.5, "rivals": "adam"}
    content["optimizers"] = [{"name": name, "default_alpha0": 0.003} for name in ("adam", "adam-sgd")]
    file.write_text(yaml.safe_dump(content))
    for form in ("csv", "parquet", "latex"):
        code, out, err = say("export", "small", "--what", "untuned_claims", "--format", form)
        assert code == 0, err
        assert out.endswith(": 3 rows\n")
    assert say("report", "small")[0] == 0
    reported = pd.read_csv(runs / "small" / "report" / "untuned_claims.csv")
    assert reported["claim"][0] == "needs no tuning"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "small-untuned_claims.csv"), reported)
    assert (tmp_path / "small-untuned_claims.tex").read_text().count("Adam-HD") == 3


def test_commands_tell_of_a_search_its_best_points_alone(say, runs, tmp_path):
    """Conclusions are drawn from the best points; ``status`` and the curves have the others as well."""
    (tmp_path / "searched.yaml").write_text(SEARCH)
    study = load_study(tmp_path / "searched.yaml")
    folder = StudyFolder(runs, study.name)
    folder.save_study(study)
    (arm,) = study.arms()
    points = [arm.point(0, {"alpha0": 0.001}), arm.point(1, {"alpha0": 0.03})]
    search_journal.ask(folder.search_journal, points)
    search_journal.choose(folder.search_journal, points[1])
    list(run_bundle([t for p in points for t in arm.trials(p, [1000])], folder))
    list(run_bundle(arm.trials(points[1], [0, 1]), folder))

    code, out, err = say("status", "searched")
    assert code == 0, err
    assert "4/4 trials done" in out
    assert re.search(r"^adam +0\.03 +– +0\.2\d* +2$", out, re.M), "the arm's best of 2 points"
    assert say("export", "searched", "--what", "trials")[0] == 0
    table = pd.read_csv(tmp_path / "searched-trials.csv")
    assert list(zip(table["alpha0"], table["seed"], strict=True)) == [(0.03, 0), (0.03, 1)]
    assert set(table["outcome"]) == {"reached"}
    assert say("export", "searched", "--what", "curves")[0] == 0
    assert pd.read_csv(tmp_path / "searched-curves.csv")["key"].nunique() == 4
    code, out, err = say("compare", "searched:adam", "small:adam")
    assert code == 0, err
    assert re.search(r"0\.03 +searched: adam .* 2/2 ", out)
    code, out, err = say("report", "searched")
    assert code == 0, err
    assert re.search(r"^adam +0\.03 +– +0\.2\d* +2$", out, re.M)
    assert re.search(r"^adam +0\.03 .* 5\.5 \(5 – 6\) +2$", out, re.M), "one cell, of two seeds"
    assert (folder.report / "figure1.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compare", "small:adma", "small:adam"), "no optimizer 'adma'; there are adam, adam-sgd"),
        (("compare", "small", "never-run"), "never-run: no study of that name was run"),
        (("compare", "small", "small:adam"), "name an optimizer of every study"),
        (("compare", "small:adam"), "nothing to compare"),
        (("export", "never-run"), "never-run: no study of that name was run"),
        (("export", "small", "--format", "xlsx"), "xlsx: no such format; choose csv, parquet, latex"),
        (("export", "small", "--what", "all"), "all: there is no such table; choose summary, trials"),
        (("export", "small", "--what", "curves", "--format", "latex"), "choose csv or parquet"),
        (("export", "small", "-o", "no/where.csv"), "there is no folder no; name a file to write"),
        (("export", "small", "-o", "."), "is a folder"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(say, tmp_path, arguments, says):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, _, err = say(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error:")
    assert says in line
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_report_waits_for_another_program_that_writes_it(runs):
    command = [sys.executable, "-m", "study", "report", "small", "--runs", str(runs)]
    report = runs / "small" / "report"
    with only_writer(report):
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert "another program is writing this report; waiting for it\n" in iter(waiting.stdout.readline, "")
        assert not report.exists()
    waiting.communicate()
    assert waiting.returncode == 0
    assert (report / "index.html").is_file()
