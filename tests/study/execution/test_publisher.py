"""What a running study's journals say reaches the tracker: once, all of it, also after an outage."""

import threading
import time

import pytest
from mlflow import MlflowClient

from study.execution.live_records import LiveRecords
from study.execution.publisher import RunPublisher, Uploader
from study.storage import journal, search_journal
from study.storage.study_folder import StudyFolder
from study.tracking import TrackingError, embedded_uri, open_tracker
from study.training.worker import run_bundle, run_side_by_side


class Notes:
    """A tracker that notes what it is sent, and can be away."""

    def __init__(self):
        self.sent, self.searches, self.away, self.seconds, self.senders = [], 0, False, 0.0, 1
        self.whole, self.refused, self.withdrawn = set(), set(), []
        self.before_sending = lambda: None

    def is_complete(self, record):
        return record.trial.key in self.whole

    def publish(self, record):
        self.before_sending()
        if self.away:
            raise TrackingError("the tracker is away")
        if record.trial.seed in self.refused:
            raise TrackingError(f"seed {record.trial.seed} is refused")
        time.sleep(self.seconds)
        self.sent.append((record.trial.seed, record.status, len(record.epochs)))
        if record.is_complete:
            self.whole.add(record.trial.key)

    replay = publish

    def withdraw(self, record):
        self.withdrawn.append(record.trial.seed)

    def log_search(self, *_):
        if self.away:
            raise TrackingError("the tracker is away")
        self.searches += 1


@pytest.fixture
def study(write_study):
    return write_study(optimizers=["sgd"], seeds=3, epochs=3)[0]


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path / "runs", "small")


def train(trials, folder, epochs=None):
    """Train trials to their end, or so many epochs."""
    if epochs is None:
        list(run_bundle(trials, folder))
        return
    steps = run_side_by_side(trials, folder)
    for _ in range(epochs):
        next(steps)
    steps.close()


def test_what_changed_is_sent_once(study, folder):
    live, notes = LiveRecords(study, folder), Notes()
    uploader = Uploader(notes)
    uploader.send(live)
    assert notes.sent == [], "nothing has begun"
    train(study.trials()[:1], folder)
    for _ in range(3):
        live.refresh()
        uploader.send(live, everything=True)
    train(study.trials()[1:2], folder, epochs=1)
    live.refresh()
    uploader.send(live, everything=True)
    assert notes.sent == [(0, "finished", 3), (1, "running", 1)]


def test_what_was_published_in_an_earlier_run_is_not_sent_again(study, folder):
    train(study.trials(), folder)
    notes = Notes()
    notes.whole = {trial.key for trial in study.trials()[:2]}
    Uploader(notes).send(LiveRecords(study, folder))
    assert notes.sent == [(2, "finished", 3)]


def test_after_an_outage_everything_is_sent(study, folder):
    live, notes = LiveRecords(study, folder), Notes()
    uploader = Uploader(notes)
    notes.away = True
    train(study.trials()[:2], folder)
    live.refresh()
    uploader.send(live)
    assert (uploader.error, notes.sent) == ("the tracker is away", [])
    notes.away = False
    uploader.send(live)
    assert (uploader.error, notes.sent) == (None, [(0, "finished", 3), (1, "finished", 3)])


def test_as_many_are_sent_at_a_time_as_the_tracker_takes(study, folder):
    """Each of three senders waits for the two others: fewer would wait in vain, and fail."""
    train(study.trials(), folder)
    notes = Notes()
    notes.senders = 3
    together = threading.Barrier(3, timeout=60)
    notes.before_sending = together.wait
    uploader = Uploader(notes)
    assert not uploader.send(LiveRecords(study, folder))
    assert sorted(notes.sent) == [(seed, "finished", 3) for seed in range(3)]
    assert uploader.unsent == 0


def test_what_one_of_several_senders_could_not_send_is_sent_later(study, folder):
    train(study.trials(), folder)
    notes = Notes()
    notes.senders = 3
    together = threading.Barrier(3, timeout=60)
    notes.before_sending = together.wait
    notes.refused = {1}
    uploader, live = Uploader(notes), LiveRecords(study, folder)
    uploader.send(live)
    assert uploader.error == "seed 1 is refused"
    assert (sorted(notes.sent), uploader.unsent) == ([(0, "finished", 3), (2, "finished", 3)], 1)
    notes.refused, notes.before_sending = set(), lambda: None
    uploader.send(live)
    assert (uploader.error, notes.sent[2:]) == (None, [(1, "finished", 3)])


def test_after_an_error_no_more_is_sent_until_the_next_turn(study, folder):
    train(study.trials(), folder)
    notes = Notes()
    notes.refused = {0}
    uploader = Uploader(notes)
    uploader.send(LiveRecords(study, folder))
    assert (uploader.error, notes.sent, uploader.unsent) == ("seed 0 is refused", [], 3)


def test_a_turn_of_sending_ends_and_the_next_one_sends_the_rest(study, folder, monkeypatch):
    monkeypatch.setattr("study.execution.publisher.TURN_SECONDS", 0.5)
    train(study.trials(), folder)
    notes, live = Notes(), LiveRecords(study, folder)
    notes.seconds = 0.6
    uploader = Uploader(notes)
    assert uploader.send(live)
    assert notes.sent == [(0, "finished", 3)]
    assert uploader.send(live)
    notes.seconds = 0.0
    assert not uploader.send(live)
    assert [seed for seed, _, _ in notes.sent] == [0, 1, 2]


def test_the_progress_is_reported_while_the_last_results_are_sent(study, folder, monkeypatch):
    monkeypatch.setattr("study.execution.publisher.TURN_SECONDS", 0.5)
    train(study.trials(), folder)
    notes, sent = Notes(), []
    notes.seconds = 0.6
    publisher = RunPublisher(
        LiveRecords(study, folder), Uploader(notes), lambda progress: sent.append(len(notes.sent))
    )
    publisher.finish()
    assert sent[:2] == [1, 2]
    assert sent[-1] == 3


def test_a_driver_that_lost_its_study_sends_nothing(study, folder):
    train(study.trials(), folder)
    notes, mine = Notes(), True
    uploader = Uploader(notes, lambda: mine)
    mine = False
    live = LiveRecords(study, folder)
    uploader.send(live, everything=True)
    assert notes.sent == []
    mine = True
    uploader.send(live, everything=True)
    assert len(notes.sent) == 3


def test_a_driver_that_lost_its_study_while_it_sent_withdraws_that_record(study, folder):
    train(study.trials(), folder)
    notes = Notes()
    uploader = Uploader(notes, lambda: not notes.sent)
    uploader.send(LiveRecords(study, folder), everything=True)
    assert [seed for seed, *_ in notes.sent] == notes.withdrawn
    assert len(notes.withdrawn) == 1


def test_trials_under_way_wait_for_their_share_of_the_time_and_those_that_ended_do_not(study, folder):
    first, second, third = study.trials()
    live, notes = LiveRecords(study, folder), Notes()
    uploader = Uploader(notes)
    notes.seconds = 1.0  # so that nothing under way is sent in the 19 s that follow
    train([first], folder, epochs=1)
    live.refresh()
    uploader.send(live)
    notes.seconds = 0.0
    train([second], folder, epochs=2)
    train([third], folder)
    live.refresh()
    uploader.send(live)
    assert notes.sent == [(0, "running", 1), (2, "finished", 3)]
    uploader.send(live, everything=True)
    assert notes.sent[2:] == [(1, "running", 2)]


def test_a_search_is_sent_when_it_has_found_something(write_study, folder):
    study, _ = write_study(
        optimizers=["sgd"], alpha0={"low": 1e-3, "high": 1.0}, search={"points": 3, "seeds": 1}, epochs=1
    )
    (arm,) = study.arms()
    live, notes = LiveRecords(study, folder), Notes()
    uploader = Uploader(notes)
    assert len(live.all_records) == len(study.planned_trials()) == 3 + 2
    point = arm.point(0, {"alpha0": 0.1})
    search_journal.ask(folder.search_journal, [point])
    train(arm.trials(point, study.search.seeds), folder)
    for _ in range(3):
        live.refresh()
        uploader.send(live)
    assert notes.searches == 1
    assert [status for _, status, _ in notes.sent] == ["finished"]
    assert len(live.all_records) == 5
    assert len(live.records) == 1


def test_a_journal_that_cannot_be_read_now_is_read_the_next_time(study, folder):
    trial = study.trials()[0]
    live = LiveRecords(study, folder)
    folder.journal(trial).mkdir(parents=True)  # reading a folder raises an OSError
    live.refresh()
    folder.journal(trial).rmdir()
    train([trial], folder)
    live.refresh()
    assert live.record(trial.key).status == "finished"


def test_the_publisher_reports_progress_and_ends_with_all_that_there_is(study, folder):
    notes, seen, done = Notes(), [], threading.Event()

    def on_progress(progress):
        seen.append((progress.done, progress.total))
        if progress.done == 2:
            done.set()

    publisher = RunPublisher(LiveRecords(study, folder), Uploader(notes), on_progress)
    publisher.start(slots=1)
    train(study.trials()[:2], folder)
    assert done.wait(60)
    notes.away = True
    train(study.trials()[2:], folder)
    progress = publisher.finish()
    assert (progress.done, progress.total, progress.tracking_error) == (3, 3, "the tracker is away")
    assert seen[0] == (0, 3)
    assert seen[-1] == (3, 3)
    assert (2, "finished", 3) not in notes.sent


def test_in_mlflow_every_trial_is_a_run_that_has_ended(study, folder):
    folder.runs.mkdir()
    tracker = open_tracker(study, embedded_uri(folder.runs), folder)
    tracker.begin()
    publisher = RunPublisher(LiveRecords(study, folder), Uploader(tracker), lambda progress: None)
    publisher.start(slots=1)
    train(study.trials()[:2], folder)
    failed = study.trials()[2]
    journal.mark_failed(folder.journal(failed), failed, "Traceback (most recent call last):\nValueError: no")
    progress = publisher.finish()
    assert (progress.done, progress.failed, progress.tracking_error) == (2, 1, None)
    client = MlflowClient(tracking_uri=embedded_uri(folder.runs))
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], "tags.role = 'trial'")
    statuses = {run.data.tags["trial_key"]: run.info.status for run in runs}
    assert statuses == {
        trial.key: status
        for trial, status in zip(study.trials(), ["FINISHED", "FINISHED", "FAILED"], strict=True)
    }
