"""Studies that version 0.1 left are read, resumed, reported and grown.

``tests/data/version-0.1`` has two of them: ``kept-grid``, with two trials finished, two interrupted after two
of four epochs, and two not begun; and ``kept-search``, finished.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from study.config.loader import load_study
from study.storage.study_folder import StudyFolder
from study.training.worker import WorkerOptions, run_bundle

KEPT = Path(__file__).parents[1] / "data" / "version-0.1"


@pytest.fixture
def runs(tmp_path):
    """A copy of the folder of runs."""
    return Path(shutil.copytree(KEPT, tmp_path / "runs"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.path.glob("trials/*.journal")}


def by_status(records):
    found = {}
    for record in records:
        found.setdefault(record.status, []).append(record)
    return found


def command(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "study", *words], cwd=cwd, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_journal_is_read(runs):
    grid = StudyFolder(runs, "kept-grid")
    found = by_status(grid.planned_records(load_study(grid.study_file)))
    assert {status: len(records) for status, records in found.items()} == {
        "finished": 2,
        "running": 2,
        "pending": 2,
    }
    assert [len(record.epochs) for record in found["running"]] == [2, 2]
    search = StudyFolder(runs, "kept-search")
    found = by_status(search.planned_records(load_study(search.study_file)))
    assert {status: len(records) for status, records in found.items()} == {"finished": 16}


@pytest.mark.parametrize("pack", [1, None])
def test_interrupted_trials_resume_and_finished_ones_are_left_alone(runs, tmp_path, pack):
    """The curves are those of a run that nothing interrupted, up to the rounding of another machine."""
    folder, calm = StudyFolder(runs, "kept-grid"), StudyFolder(tmp_path / "calm", "kept-grid")
    trials = load_study(folder.study_file).trials()
    before, files = folder.records(trials), contents(folder)
    options = WorkerOptions(pack=pack)
    assert {status for _, status in run_bundle(trials, folder, options)} == {"finished"}
    list(run_bundle(trials, calm, options))
    for old, new, undisturbed in zip(before, folder.records(trials), calm.records(trials), strict=True):
        if old.status == "finished":
            name = folder.journal(old.trial).name
            assert contents(folder)[name] == files[name]
        # What was recorded up to the checkpoint is not trained again.
        assert [e.time_ms for e in new.epochs[: len(old.epochs)]] == [e.time_ms for e in old.epochs]
        assert new.notes == ()
        assert [epoch.epoch for epoch in new.epochs] == [1, 2, 3, 4]
        for curve in ("train_loss", "alpha", "hypergradient"):
            ours, theirs = getattr(new, curve), getattr(undisturbed, curve)
            scale = np.nanmax(np.abs(theirs), initial=0.0)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale, err_msg=curve)
        for mine, other in zip(new.epochs, undisturbed.epochs, strict=True):
            assert mine.val_loss == pytest.approx(other.val_loss, rel=1e-5)
    assert not list(folder.path.glob("checkpoints/*"))


def test_the_grid_grows_by_a_seed(runs):
    folder = StudyFolder(runs, "kept-grid")
    path = runs / "grown.yaml"
    text = folder.study_file.read_text()
    assert "seeds: [0, 1]" in text
    path.write_text(text.replace("seeds: [0, 1]", "seeds: [0, 1, 2]"))
    grown, before = load_study(path), contents(folder)
    trials = grown.trials()
    assert {trial.key for trial in load_study(folder.study_file).trials()} < {trial.key for trial in trials}
    list(run_bundle(trials, folder, WorkerOptions.of(grown, None)))
    assert [record.status for record in folder.records(trials)] == ["finished"] * 9
    finished = by_status(StudyFolder(KEPT, "kept-grid").records(trials))["finished"]
    for record in finished:
        name = folder.journal(record.trial).name
        assert contents(folder)[name] == before[name]


@pytest.mark.parametrize("name", ["kept-grid", "kept-search"])
def test_it_is_reported(runs, tmp_path, name):
    folder = StudyFolder(runs, name)
    before = contents(folder)
    command("report", name, "--runs", str(runs), cwd=tmp_path)
    assert "A grid that" in page(folder) if name == "kept-grid" else "A search that" in page(folder)
    assert (folder.report / "figure1.png").stat().st_size > 1000
    assert contents(folder) == before


def page(folder):
    return (folder.report / "index.html").read_text(encoding="utf-8")


@pytest.mark.ray
def test_the_search_grows_by_a_point(runs, tmp_path):
    """One more point for each of two arms, on two seeds; and the best points anew, if they are others now."""
    folder = StudyFolder(runs, "kept-search")
    before = contents(folder)
    asked = folder.search_journal.read_bytes()
    path = tmp_path / "grown.yaml"
    path.write_text(folder.study_file.read_text().replace("points: 3", "points: 4"))
    command("run", str(path), "--runs", str(runs), cwd=tmp_path)
    study = load_study(folder.study_file)
    records = folder.planned_records(study)
    assert {record.status for record in records} == {"finished"}
    points = {(r.trial.optimizer, r.trial.alpha0) for r in records if study.is_search_trial(r.trial)}
    assert len(points) == 8
    assert contents(folder).items() >= before.items()
    assert folder.search_journal.read_bytes().startswith(asked)
