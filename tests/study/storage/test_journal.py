"""The journal: what was appended is what is read, and no damage reads as data."""

import json
import socket
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from study.config.loader import Trial
from study.storage.journal import Journal, mark_failed
from study.storage.journal_reader import JournalReader, OtherTrialError, read
from study.storage.records import EpochRecord

TRIAL = Trial("digits-logreg", "adam-adam", 0.001, 1e-7, seed=0, epochs=3)
MACHINE = {"device": "cpu"}


def epoch(number: int, iterations: int = 4) -> EpochRecord:
    random = np.random.default_rng(number)
    return EpochRecord(
        epoch=number,
        first_iteration=1 + (number - 1) * iterations,
        alpha=random.random(iterations).astype(np.float32),
        hypergradient=random.standard_normal(iterations),
        train_loss=random.random(iterations).astype(np.float32),
        val_loss=1 / 3,
        val_accuracy=0.5,
        seconds=0.25,
        alpha_tensors=random.random((iterations, 2)).astype(np.float32),
    )


def write(path, epochs, *, end=None, repeatable=True, trial=TRIAL):
    with Journal(path, trial, MACHINE, repeatable=repeatable) as journal:
        for number in epochs:
            journal.epoch(epoch(number))
        if end:
            journal.end(end)


def assert_same_arrays(actual: EpochRecord, expected: EpochRecord):
    for name in ("alpha", "hypergradient", "train_loss", "alpha_tensors"):
        np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name))
        assert getattr(actual, name).dtype == getattr(expected, name).dtype


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "folder" / "a.journal"
    write(path, [1, 2], end="finished")
    record = read(path, TRIAL)
    assert (record.status, record.is_complete, record.iterations, record.seconds) == (
        "finished",
        True,
        8,
        0.5,
    )
    assert record.machine == MACHINE
    assert record.budget == 12  # three epochs as long as the first
    for number, kept in enumerate(record.epochs, start=1):
        assert_same_arrays(kept, epoch(number))
        assert kept.val_loss == 1 / 3
    assert 0 < record.started_ms <= record.epochs[0].time_ms <= record.ended_ms


def test_no_journal_is_a_pending_trial(tmp_path):
    record = read(tmp_path / "none", TRIAL)
    assert (record.status, record.epochs, record.progress) == ("pending", (), 0.0)


def test_non_finite_values_survive(tmp_path):
    path = tmp_path / "a"
    arrays = {"alpha": np.array([1.0, np.inf]), "hypergradient": np.array([np.nan, -np.inf])}
    loss = np.array([1.0, np.nan])
    bad = EpochRecord(1, 1, **arrays, train_loss=loss, val_loss=np.nan, val_accuracy=0, seconds=1)
    with Journal(path, TRIAL, MACHINE, repeatable=True) as journal:
        journal.epoch(bad)
        journal.end("diverged")
    record = read(path, TRIAL)
    assert record.epochs[0].diverged
    assert np.isnan(record.epochs[0].val_loss)
    np.testing.assert_array_equal(record.train_loss, [1.0, np.nan])
    np.testing.assert_array_equal(record.hypergradient, [np.nan, -np.inf])


def test_every_prefix_of_the_bytes_is_readable_and_only_grows(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2], end="finished")
    whole = path.read_bytes()
    lengths = set()
    for length in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        reader = JournalReader(path, TRIAL)
        reader.poll()
        assert not reader.damaged
        assert whole[: reader.offset].endswith(b"\n") or reader.offset == 0
        lengths.add(len(reader.record.epochs))
        for number, kept in enumerate(reader.record.epochs, start=1):
            assert_same_arrays(kept, epoch(number))
    assert lengths == {0, 1, 2}


def test_following_a_growing_journal_equals_reading_it_at_the_end(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2, 3], end="finished")
    whole = path.read_bytes()
    path.write_bytes(b"")
    reader = JournalReader(path, TRIAL)
    for start in range(0, len(whole), 50):
        with path.open("ab") as file:
            file.write(whole[start : start + 50])
        reader.poll()
    assert reader.record.status == "finished"
    np.testing.assert_array_equal(reader.record.train_loss, read(path, TRIAL).train_loss)
    assert len(reader.record.epochs) == 3


def test_a_flipped_bit_ends_the_record_before_it(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2, 3], end="finished")
    lines = path.read_bytes().splitlines(keepends=True)
    spoiled = bytearray(lines[2])  # the second epoch
    spoiled[len(spoiled) // 2] ^= 1
    path.write_bytes(b"".join([*lines[:2], bytes(spoiled), *lines[3:]]))
    reader = JournalReader(path, TRIAL)
    reader.poll()
    assert reader.damaged
    assert reader.record.status == "running"
    assert [kept.epoch for kept in reader.record.epochs] == [1]


def test_a_repeated_trial_keeps_the_first_stamps_and_adds_what_was_missing(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-5])  # killed in the middle of a line
    before = read(path, TRIAL)
    assert [kept.epoch for kept in before.epochs] == [1]
    write(path, [1, 2, 3], end="finished")
    after = read(path, TRIAL)
    assert [kept.epoch for kept in after.epochs] == [1, 2, 3]
    assert after.epochs[0].time_ms == before.epochs[0].time_ms
    assert (after.attempt, after.started_ms) == (before.attempt, before.started_ms)


def test_a_trial_that_is_not_repeatable_begins_a_new_attempt(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2], repeatable=False)
    before = read(path, TRIAL)
    write(path, [1], repeatable=False)
    after = read(path, TRIAL)
    assert after.attempt != before.attempt
    assert [kept.epoch for kept in after.epochs] == [1]


def test_from_a_checkpoint_a_new_attempt_keeps_the_epochs_up_to_it(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2, 3], repeatable=False)
    before = read(path, TRIAL)
    with Journal(path, TRIAL, MACHINE, repeatable=False, resumed=2) as journal:
        journal.epoch(epoch(3))
    after = read(path, TRIAL)
    assert after.attempt != before.attempt
    assert [kept.epoch for kept in after.epochs] == [1, 2, 3]
    assert [kept.time_ms for kept in after.epochs[:2]] == [kept.time_ms for kept in before.epochs[:2]]


def test_another_machine_begins_a_new_attempt(tmp_path):
    path = tmp_path / "a"
    write(path, [1, 2])
    before = read(path, TRIAL)
    with Journal(path, TRIAL, {"device": "another"}, repeatable=True):
        pass
    after = read(path, TRIAL)
    assert after.attempt != before.attempt
    assert after.epochs == ()


def test_the_host_is_kept_and_a_trial_that_goes_on_elsewhere_continues_its_attempt(tmp_path, monkeypatch):
    path = tmp_path / "a"
    hosts = ["mars", "venus"]
    for host, numbers in zip(hosts, ([1], [1, 2]), strict=True):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        write(path, numbers)
    starts = [json.loads(line[9:]) for line in path.read_text().splitlines() if '"event":"start"' in line]
    assert [event["host"] for event in starts] == hosts
    assert len({event["attempt"] for event in starts}) == 1
    record = read(path, TRIAL)
    assert [each.epoch for each in record.epochs] == [1, 2]
    assert record.machine == MACHINE


def test_a_process_that_wakes_beside_its_replacement_changes_nothing(tmp_path):
    path = tmp_path / "a"
    with Journal(path, TRIAL, MACHINE, repeatable=True) as asleep:
        asleep.epoch(epoch(1))
        with Journal(path, TRIAL, MACHINE, repeatable=True) as replacement:
            for number in (1, 2):
                replacement.epoch(epoch(number))
            asleep.epoch(epoch(2))
            replacement.epoch(epoch(3))
            replacement.end("finished")
        before = read(path, TRIAL)
        asleep.epoch(epoch(3))
        asleep.end("failed", "it woke up")
    after = read(path, TRIAL)
    assert [each.epoch for each in after.epochs] == [1, 2, 3]
    assert (after.status, after.error, after.ended_ms) == ("finished", None, before.ended_ms)
    assert [each.time_ms for each in after.epochs] == [each.time_ms for each in before.epochs]


def test_a_trial_that_no_process_trains_is_marked_as_failed_and_keeps_its_epochs(tmp_path):
    path = tmp_path / "a.journal"
    mark_failed(path, TRIAL, "ValueError: before the start", machine=MACHINE, run="r")
    record = read(path, TRIAL)
    assert (record.status, record.error) == ("failed", "ValueError: before the start")
    assert (record.machine, record.run, record.epochs) == (MACHINE, "r", ())
    write(path, [1, 2], repeatable=False)
    before = read(path, TRIAL)
    mark_failed(path, TRIAL, "ValueError: later")
    record = read(path, TRIAL)
    assert (record.status, record.error, len(record.epochs)) == ("failed", "ValueError: later", 2)
    assert (record.attempt, record.machine) == (before.attempt, MACHINE)
    mark_failed(path, TRIAL, "ValueError: again", machine={"device": "gpu"}, run="second")
    record = read(path, TRIAL)
    assert (record.status, record.error, len(record.epochs)) == ("failed", "ValueError: again", 2)
    assert (record.machine, record.run) == ({"device": "gpu"}, "second")


def test_a_torn_journal_is_marked_as_failed_after_its_last_whole_event(tmp_path):
    path = tmp_path / "a.journal"
    write(path, [1, 2])
    path.write_bytes(path.read_bytes()[:-9])
    mark_failed(path, TRIAL, "ValueError: x")
    record = read(path, TRIAL)
    assert (record.status, len(record.epochs)) == ("failed", 1)


def test_the_run_and_what_it_suspects_are_those_of_the_last_start(tmp_path):
    path = tmp_path / "a.journal"
    Journal(path, TRIAL, MACHINE, repeatable=True, run="first", suspect=True).close()
    assert (read(path, TRIAL).run, read(path, TRIAL).suspect) == ("first", True)
    Journal(path, TRIAL, MACHINE, repeatable=True).close()
    assert (read(path, TRIAL).run, read(path, TRIAL).suspect) == ("", False)


def test_a_journal_of_another_trial_is_refused(tmp_path):
    path = tmp_path / "a"
    write(path, [1])
    other = Trial("digits-logreg", "adam-adam", 0.001, 1e-7, seed=1, epochs=3)
    with pytest.raises(ValueError, match=TRIAL.key):
        read(path, other)
    with pytest.raises(ValueError, match=TRIAL.key):
        write(path, [1], trial=other)


SAME_FOLDER = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150
)
EVENTS = ("start", "epoch", "end", "other")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def signed(event):
    text = json.dumps(event).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def good_events(folder):
    path = folder / "good.journal"
    path.unlink(missing_ok=True)
    write(path, [1, 2, 3], end="finished")
    return [json.loads(line.partition(b" ")[2]) for line in path.read_bytes().splitlines()]


def assert_readable(path):
    """It reads as some beginning of a trial, and a writer can go on from there."""
    reader = JournalReader(path, TRIAL)
    try:
        reader.poll()
    except OtherTrialError:
        return
    record = reader.record
    assert [kept.epoch for kept in record.epochs] == list(range(1, len(record.epochs) + 1))
    assert len(record.train_loss) == len(record.alpha) == record.iterations
    with Journal(path, TRIAL, MACHINE, repeatable=True) as journal:
        for number in range(1, len(record.epochs) + 2):
            journal.epoch(epoch(number))
    again = JournalReader(path, TRIAL)
    again.poll()
    assert not again.damaged
    assert again.offset == path.stat().st_size


@SAME_FOLDER
@given(line=st.integers(0, 4), name=st.text("adehikmnoprstuvy_", max_size=12) | st.none(), value=VALUES)
@example(line=1, name="alpha", value={"dtype": "|O", "shape": [1], "data": "AAAAAAAAAAA="})
@example(line=1, name="train_loss", value={"dtype": "<f4", "shape": [-1], "data": ""})
@example(line=1, name="first_iteration", value=10**400)
@example(line=2, name="epoch", value=7)
@example(line=0, name="kept", value=-3)
def test_a_signed_event_with_any_value_in_it(tmp_path, line, name, value):
    events = good_events(tmp_path)
    names = sorted(events[line])
    events[line][name if name is not None else names[hash(str(value)) % len(names)]] = value
    path = tmp_path / "bad.journal"
    path.write_bytes(b"".join(map(signed, events)))
    assert_readable(path)


@SAME_FOLDER
@given(events=st.lists(VALUES | st.fixed_dictionaries({"event": st.sampled_from(EVENTS)}), max_size=3))
@example(events=[[[]] * 3])
def test_signed_lines_of_any_json(tmp_path, events):
    path = tmp_path / "bad.journal"
    path.write_bytes(b"".join(map(signed, events)))
    assert_readable(path)


@SAME_FOLDER
@given(data=st.binary(max_size=200), cut=st.integers(0, 3000))
def test_any_bytes_after_any_prefix(tmp_path, data, cut):
    path = tmp_path / "bad.journal"
    path.write_bytes(b"".join(map(signed, good_events(tmp_path)))[:cut] + data)
    assert_readable(path)


def test_nesting_without_end(tmp_path):
    path = tmp_path / "bad.journal"
    text = b"[" * 200_000
    path.write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    assert_readable(path)
