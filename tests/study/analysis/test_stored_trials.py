"""Records from a summary are those of the journals, and no change of a journal goes unnoticed."""

import dataclasses
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study.analysis import metrics, stored_trials, tables
from study.config.search_space import Point
from study.storage import journal_reader, search_journal
from study.storage.journal import Journal
from study.storage.progress import progress_of
from study.storage.records import EpochRecord
from study.storage.stored_records import ChangedJournalError
from study.storage.study_folder import StudyFolder

FIELDS = (
    *("status", "error", "attempt", "machine", "repeatable", "started_ms", "resumed_ms", "ended_ms", "notes"),
    *(
        "run",
        "suspect",
        "iterations",
        "budget",
        "progress",
        "best_val_loss",
        "seconds",
        "last_ms",
        "epoch_length",
    ),
    *("is_final", "is_complete"),
)
OLD = 1_700_000_000
MACHINE = {"python": "3.11", "device": "cpu"}


def epoch(number: int, loss: float, *, val_loss: float | None = None) -> EpochRecord:
    losses = np.linspace(loss, loss / 2, 5)
    return EpochRecord(
        epoch=number,
        first_iteration=5 * number - 4,
        alpha=np.linspace(0.01, 0.02, 5).astype(np.float32),
        hypergradient=np.ones(5),
        train_loss=losses.astype(np.float32),
        val_loss=loss if val_loss is None else val_loss,
        val_accuracy=0.5,
        seconds=0.25,
    )


def write(path, trial, *losses, end="finished", error=None, **more):
    with Journal(path, trial, MACHINE, repeatable=True, **more) as file:
        for number, loss in enumerate(losses, start=1):
            file.epoch(epoch(number, loss, val_loss=loss))
        if end:
            file.end(end, error)


def age(folder: StudyFolder) -> None:
    """Let all journals be from long ago."""
    for path in folder.path.glob("trials/*.journal"):
        os.utime(path, (OLD, OLD))


@pytest.fixture
def study(write_study):
    return write_study(seeds=3)[0]


@pytest.fixture
def folder(study, tmp_path):
    """The folder of a study whose nine trials stand in all the ways there are; journals are old."""
    folder = StudyFolder(tmp_path / "runs", study.name)
    first, second, third, fourth, fifth, sixth, seventh, *_ = study.trials()
    write(folder.journal(first), first, 4.0, 3.0)
    write(folder.journal(second), second, 5.0, 5.0, notes=["a note"], run="a run")
    write(folder.journal(third), third, 4.0, float("inf"), end="diverged")
    write(folder.journal(fourth), fourth, 4.0, end="failed", error="Traceback …\nValueError: ü")
    write(folder.journal(fifth), fifth, 4.0, end=None)
    write(folder.journal(sixth), sixth, 4.0, 2.5, end="pruned", suspect=True)
    write(folder.journal(seventh), seventh, end="failed", error="at once")
    age(folder)
    return folder


@pytest.fixture
def keys_read(monkeypatch):
    """The keys of the trials whose journals are read, in the order in which they are."""
    keys = []
    read = journal_reader.read

    def noting(place, trial):
        keys.append(trial.key)
        return read(place, trial)

    monkeypatch.setattr(journal_reader, "read", noting)
    return keys


def assert_same(found, expected):
    assert [record.trial for record in found] == [record.trial for record in expected]
    for one, other in zip(found, expected, strict=True):
        for name in FIELDS:
            assert getattr(one, name) == getattr(other, name), name
        assert list(one.machine) == list(other.machine)  # the page shows it in this order
        assert len(one.epochs) == len(other.epochs)
        np.testing.assert_array_equal(one.train_loss, other.train_loss)


def test_records_from_the_summary_are_those_of_the_journals(study, folder, keys_read):
    expected = folder.records(study.trials())
    assert_same(stored_trials.read(study, folder), expected)
    keys_read.clear()
    assert_same(stored_trials.read(study, folder), expected)
    # The trial under way, and then the epochs of all that have some: never those of a trial without any.
    assert keys_read[0] == expected[4].trial.key
    assert sorted(keys_read[1:]) == sorted(record.trial.key for record in expected if record.iterations)


def test_a_journal_that_has_ended_is_read_once(study, folder, keys_read):
    stored_trials.read(study, folder)
    assert len(keys_read) == 7
    for _ in range(2):
        keys_read.clear()
        records = stored_trials.read(study, folder)
        table = tables.trial_table(records, study)
        progress_of(records)
        assert keys_read == [study.trials()[4].key]
        assert list(table["outcome"][:4]) == ["reached", "not_reached", "diverged", "failed"]


def test_tables_and_progress_are_those_of_the_journals(study, folder):
    expected = folder.records(study.trials())
    stored_trials.read(study, folder)
    found = stored_trials.read(study, folder)
    pd.testing.assert_frame_equal(tables.trial_table(found, study), tables.trial_table(expected, study))
    for record, plain in zip(found, expected, strict=True):
        limit = study.threshold(record.trial)
        assert metrics.summarise(record, limit) == metrics.summarise(plain, limit)
        assert metrics.outcome(record, limit) == metrics.outcome(plain, limit)
    seen, known = progress_of(found), progress_of(expected)
    assert seen.best.trial == known.best.trial
    assert dataclasses.replace(seen, best=None) == dataclasses.replace(known, best=None)


def resume(path, trial):
    write(path, trial, 4.0, 3.0, end=None)


def tear(path, trial):
    """Cut the end off, as of a file that was copied with its time and not whole."""
    path.write_bytes(path.read_bytes()[:-7])
    os.utime(path, (OLD, OLD))


def remove(path, trial):
    path.unlink()


def damage(path, trial):
    """Change bytes in the middle, but neither the size nor, by much, the time."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, (OLD, OLD + 0.001))


def replace(path, trial):
    path.unlink()
    write(path, trial, 9.0, end="diverged")


@pytest.mark.parametrize("change", [resume, tear, remove, damage, replace])
@pytest.mark.parametrize("place", [0, 2, 3, 5, 6])
def test_a_journal_that_changed_is_read_again(study, folder, change, place):
    stored_trials.read(study, folder)
    trial = study.trials()[place]
    change(folder.journal(trial), trial)
    found, expected = stored_trials.read(study, folder), folder.records(study.trials())
    assert_same(found, expected)
    pd.testing.assert_frame_equal(tables.trial_table(found, study), tables.trial_table(expected, study))
    assert_same(stored_trials.read(study, folder), expected)


def test_a_journal_that_changed_just_now_is_not_kept(study, folder, keys_read):
    trial = study.trials()[0]
    os.utime(folder.journal(trial))
    stored_trials.read(study, folder)
    keys_read.clear()
    stored_trials.read(study, folder)
    assert trial.key in keys_read


@pytest.mark.parametrize(
    "content", ["nothing", "half", "noise", "a flipped bit", "a folder", "other columns"]
)
def test_a_damaged_summary_is_as_good_as_none(study, folder, content):
    expected = folder.records(study.trials())
    stored_trials.read(study, folder)
    whole = folder.summary.read_bytes()
    folder.summary.unlink()
    match content:
        case "nothing":
            folder.summary.touch()
        case "half":
            folder.summary.write_bytes(whole[: len(whole) // 2])
        case "noise":
            folder.summary.write_bytes(np.random.default_rng(0).bytes(5000))
        case "a flipped bit":
            folder.summary.write_bytes(bytes([*whole[:1000], whole[1000] ^ 1, *whole[1001:]]))
        case "a folder":
            folder.summary.mkdir()
        case "other columns":
            np.savez(folder.summary, version=np.array(stored_trials.MEASURES.version), key=np.array([b"a"]))
    for _ in range(2):
        assert_same(stored_trials.read(study, folder), expected)
    assert not list(folder.path.glob("summary.npz.*"))


def test_a_summary_of_other_code_does_not_count(study, folder, keys_read, monkeypatch, tmp_path):
    stored_trials.read(study, folder)
    keys_read.clear()
    changed = tmp_path / "metrics.py"
    changed.write_bytes(stored_trials.MEASURES.code[0].read_bytes() + b"\n")
    monkeypatch.setattr(
        stored_trials, "MEASURES", dataclasses.replace(stored_trials.MEASURES, code=(changed,))
    )
    stored_trials.read(study, folder)
    assert len(keys_read) == 7


@pytest.mark.parametrize(
    "name",
    ["summary_file", "stored_records", "journal", "journal_reader", "records", "trial_files", "metrics"],
)
def test_a_change_of_any_code_that_makes_a_summary_gives_another_version(name, monkeypatch):
    before = dataclasses.replace(stored_trials.MEASURES).version
    assert dataclasses.replace(stored_trials.MEASURES).version == before
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read_bytes(path) + b"#" * (path.stem == name))
    assert dataclasses.replace(stored_trials.MEASURES).version != before


def test_another_threshold_measures_anew(study, folder, write_study):
    stored_trials.read(study, folder)
    other = write_study(seeds=3, threshold=3.9)[0]
    assert [trial.key for trial in other.trials()] == [trial.key for trial in study.trials()]
    found = tables.trial_table(stored_trials.read(other, folder), other)
    expected = tables.trial_table(folder.records(other.trials()), other)
    pd.testing.assert_frame_equal(found, expected)
    first = tables.trial_table(stored_trials.read(study, folder), study)
    assert found["iterations_to_threshold"][0] != first["iterations_to_threshold"][0]
    # Records that were read for one study are scored by another as that one's file says.
    scored = tables.trial_table(stored_trials.read(study, folder), other)
    pd.testing.assert_frame_equal(scored, expected)


def test_a_smaller_and_a_larger_study_find_their_trials(study, folder, write_study):
    for seeds in (3, 1, 4, 2):
        other = write_study(seeds=seeds)[0]
        assert_same(stored_trials.read(other, folder), folder.records(other.trials()))


def test_a_study_that_has_not_begun_has_no_summary(study, tmp_path):
    folder = StudyFolder(tmp_path / "none", study.name)
    assert {record.status for record in stored_trials.read(study, folder)} == {"pending"}
    assert not folder.path.exists()


def test_a_search_has_its_trials_and_those_ahead(searched, tmp_path):
    study = searched()
    folder = StudyFolder(tmp_path / "runs", study.name)
    arm = study.arms()[0]
    search_journal.ask(folder.search_journal, [Point(arm.key, 0, 0.5, None)])
    known = study.trials(folder.search_state())
    write(folder.journal(known[0]), known[0], 4.0, 3.0)
    age(folder)
    for _ in range(2):
        assert_same(stored_trials.read_planned(study, folder), folder.planned_records(study))
        assert_same(stored_trials.read(study, folder), folder.records(known))


def train_on(path, trial):
    """Append epochs to the journal of a trial under way."""
    with Journal(path, trial, MACHINE, repeatable=True) as file:
        file.epoch(epoch(2, 3.0))
        file.epoch(epoch(3, 2.0))
        file.end("finished")


def train_anew(path, trial):
    """Start an attempt that keeps none of the epochs."""
    with Journal(path, trial, {"device": "another"}, repeatable=True) as file:
        file.epoch(epoch(1, 9.0))


@pytest.mark.parametrize(("change", "epochs"), [(train_on, 3), (train_anew, 1)])
@pytest.mark.parametrize("summarised", [False, True])
def test_epochs_are_those_of_the_record_also_if_its_trial_runs_on(study, folder, change, epochs, summarised):
    if summarised:
        stored_trials.read(study, folder)
    found, expected = stored_trials.read(study, folder), folder.records(study.trials())
    for place in (0, 4):  # a finished trial, and one under way
        trial = study.trials()[place]
        change(folder.journal(trial), trial)
    assert_same(found, expected)
    again = stored_trials.read(study, folder)
    assert (len(again[0].epochs), len(again[4].epochs)) == (epochs, epochs)


@pytest.mark.parametrize("change", [remove, damage, replace])
def test_a_journal_that_lost_the_epochs_of_a_record_is_an_error(study, folder, change):
    found = stored_trials.read(study, folder)
    trial = study.trials()[0]
    change(folder.journal(trial), trial)
    with pytest.raises(ChangedJournalError, match=rf"{trial.key}\.journal: .* load the study again"):
        _ = found[0].epochs
    assert found[0].best_val_loss == 3.0
    assert len(found[1].epochs) == 2


def test_a_part_of_the_records_is_measured_without_reading_journals(study, folder, keys_read):
    stored_trials.read(study, folder)
    found, whole = stored_trials.read(study, folder)[:3], folder.records(study.trials())
    keys_read.clear()
    table = tables.trial_table(found, study)
    assert keys_read == []
    pd.testing.assert_frame_equal(table, tables.trial_table(whole[:3], study))
    assert_same(found, whole[:3])


def test_a_record_travels_to_another_process_whole_and_alone(study, folder):
    stored_trials.read(study, folder)
    for record, expected in zip(
        stored_trials.read(study, folder), folder.records(study.trials()), strict=True
    ):
        content = pickle.dumps(record)
        assert len(content) < 1.1 * len(pickle.dumps(expected))
        assert_same([pickle.loads(content)], [expected])


def test_a_summary_moves_with_its_folder(study, folder, keys_read, tmp_path):
    stored_trials.read(study, folder)
    shutil.copytree(folder.path, tmp_path / "there" / study.name)  # keeps times, as cp -a and rsync -a do
    keys_read.clear()
    stored_trials.read(study, StudyFolder(tmp_path / "there", study.name))
    assert len(keys_read) == 1
