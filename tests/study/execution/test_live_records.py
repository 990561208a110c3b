"""Records of a run: those of earlier runs as they were left, and the others as they grow."""

import os

import numpy as np
import pytest

from study.execution.live_records import LiveRecords
from study.storage import journal_reader
from study.storage.journal import Journal
from study.storage.journal_reader import JournalReader
from study.storage.records import EpochRecord
from study.storage.study_folder import StudyFolder


def write(folder, trial, epochs, end=None):
    with Journal(folder.journal(trial), trial, {"device": "cpu"}, repeatable=True) as file:
        for number in range(1, epochs + 1):
            ones = np.ones(3) * number
            file.epoch(EpochRecord(number, 3 * number - 2, ones, ones, ones, 1.0, 0.5, 0.1))
        if end:
            file.end(end)


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "runs", "small")


def test_what_earlier_runs_left_is_there_with_its_epochs_and_counts_as_changed(write_study, folder):
    study, _ = write_study(optimizers=["sgd"], seeds=3)
    finished, diverged, _ = study.trials()
    write(folder, finished, 2, "finished")
    write(folder, diverged, 1, "diverged")
    live = LiveRecords(study, folder)
    assert [record.status for record in live.records] == ["finished", "diverged", "pending"]
    assert live.take_changed() == [finished.key, diverged.key]
    live.refresh()
    assert live.take_changed() == []
    np.testing.assert_array_equal(live.record(finished.key).alpha, [1, 1, 1, 2, 2, 2])


def test_trials_under_way_and_those_that_failed_are_followed(write_study, folder):
    study, _ = write_study(optimizers=["sgd"], seeds=2)
    running, failed = study.trials()
    write(folder, running, 1)
    write(folder, failed, 1, "failed")
    live = LiveRecords(study, folder)
    live.take_changed()
    write(folder, running, 2, "finished")
    write(folder, failed, 2, "finished")
    live.refresh()
    assert live.take_changed() == [running.key, failed.key]
    assert [(record.status, record.iterations) for record in live.records] == [("finished", 6)] * 2


def test_a_journal_that_ended_long_ago_is_not_read(write_study, folder, monkeypatch):
    study, _ = write_study(optimizers=["sgd"], seeds=2)
    for trial in study.trials():
        write(folder, trial, 2, "finished")
        os.utime(folder.journal(trial), (1e9, 1e9))
    LiveRecords(study, folder)

    def fail(self):
        raise AssertionError("read")

    monkeypatch.setattr(JournalReader, "poll", fail)
    records = LiveRecords(study, folder).records
    assert [record.iterations for record in records] == [6, 6]
    monkeypatch.undo()
    assert [len(record.epochs) for record in records] == [2, 2]
    trial = records[0].trial
    assert journal_reader.read(folder.journal(trial), trial).attempt == records[0].attempt
