"""What stands in MLflow, read back with MLflow's own client from a SQLite store."""

import dataclasses
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow.parquet as pq
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from study.cli import commands
from study.cli.options import find_run
from study.config.loader import Trial, load_study
from study.config.search_space import SearchState
from study.storage.progress import progress_of
from study.storage.records import EpochRecord, TrialRecord
from study.storage.study_folder import StudyFolder
from study.tracking import TrackingError, embedded_uri, fetch, open_tracker
from study.tracking.mlflow_backend.address import CURVE_POINTS
from study.tracking.mlflow_backend.backend import runs_page
from study.tracking.mlflow_backend.client import open_client
from study.tracking.mlflow_backend.metrics import Sent
from study.tracking.mlflow_backend.ui_server import serving
from study.training.worker import run_bundle

EPOCHS, ITERATIONS = 5, 400


def epochs(seed: int) -> tuple[EpochRecord, ...]:
    random = np.random.default_rng(seed)
    made = []
    for number in range(1, EPOCHS + 1):
        loss = random.random(ITERATIONS).astype(np.float32) + 0.5
        if number == 3:
            loss[123] = 1000.0  # a spike that a thinned curve must keep
        if number == 4:
            loss[7] = 0.25
        made.append(
            EpochRecord(
                epoch=number,
                first_iteration=1 + (number - 1) * ITERATIONS,
                alpha=random.random(ITERATIONS).astype(np.float32),
                hypergradient=random.standard_normal(ITERATIONS).astype(np.float32),
                train_loss=loss,
                val_loss=1.0 / number,
                val_accuracy=number / 10,
                seconds=0.5,
                time_ms=1_700_000_000_000 + 1000 * number,
            )
        )
    return tuple(made)


def record(trial, count=EPOCHS, status="finished", attempt="a") -> TrialRecord:
    return TrialRecord(
        trial,
        status=status,
        epochs=epochs(trial.seed)[:count],
        attempt=attempt,
        machine={"torch": "2.0", "device": "cpu"},
        started_ms=1_700_000_000_000,
        ended_ms=0 if status == "running" else 1_700_000_010_000,
    )


@pytest.fixture
def study(write_study):
    return write_study(epochs=EPOCHS, threshold=0.25)[0]


@pytest.fixture
def opened(study, tmp_path):
    return lambda: open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, study.name))


@pytest.fixture
def client(tmp_path):
    return MlflowClient(tracking_uri=embedded_uri(tmp_path))


def everything(client, tracker):
    """All that the store says of a study's trials, without run ids."""
    found = {}
    for run in client.search_runs([tracker.experiment_id], "tags.role = 'trial'"):
        history = {
            name: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        key = run.data.tags["trial_key"]
        assert key not in found
        found[key] = (run.info.run_name, run.info.status, run.info.end_time, run.data.params, tags, history)
    return found


def test_another_optimizer_is_filtered_by_its_label_and_described_by_its_parameters(write_study, tmp_path):
    optimizer = {"name": "a.B", "label": "mine", "schedule": "cosine", "args": {"n": 2}}
    study, _ = write_study(optimizers=[optimizer], epochs=EPOCHS, seeds=1)
    tracker = open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, study.name))
    tracker.publish(record(study.trials()[0]))
    client = MlflowClient(tracking_uri=embedded_uri(tmp_path))
    (run,) = client.search_runs([tracker.experiment_id], "tags.optimizer = 'mine'")
    assert run.info.run_name == "mine α₀=0.01 seed=0"
    shown = {name: run.data.params.get(name) for name in ("optimizer", "op", "lop", "schedule")}
    assert shown == {"optimizer": "a.B", "op": "a.B", "lop": None, "schedule": "{'name': 'cosine'}"}
    assert run.data.params["optimizer_args"] == "{'n': 2}"


def test_rules_of_one_name_are_told_apart(write_study, tmp_path):
    optimizers = ["adam", "adam-sgdn", {"name": "adam-sgdn", "rule": "cosine", "beta": [0.01, 0.03]}]
    study, _ = write_study(optimizers=optimizers, epochs=EPOCHS, seeds=1)
    tracker = open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, study.name))
    for trial in study.trials():
        tracker.publish(record(trial))
    client = MlflowClient(tracking_uri=embedded_uri(tmp_path))

    def found(query):
        runs = client.search_runs([tracker.experiment_id], query)
        return sorted((run.info.run_name, run.data.params.get("rule")) for run in runs)

    cosine = [(f"adam-sgdn cosine β={beta} α₀=0.01 seed=0", "cosine") for beta in (0.01, 0.03)]
    assert found("tags.optimizer = 'adam-sgdn cosine'") == cosine
    assert found("tags.rule = 'cosine' and params.optimizer = 'adam-sgdn'") == cosine
    assert found("tags.optimizer = 'adam-sgdn'") == [("adam-sgdn β=1e-05 α₀=0.01 seed=0", "additive")]
    assert found("tags.optimizer = 'adam'") == [("adam α₀=0.01 seed=0", None)]


def test_the_best_points_of_a_search_are_told_apart(write_study, tmp_path):
    entry = {"name": "adam-sgdn", "rule": "cosine", "beta": {"low": 0.001, "high": 0.1}}
    study, _ = write_study(
        optimizers=["sgd", "adam-sgdn", entry], alpha0={"low": 1e-3, "high": 0.1}, search={"points": 1}
    )
    tracker = open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, study.name))
    points = tuple(
        arm.point(0, dict.fromkeys(arm.space, 0.01 * (1 + i))) for i, arm in enumerate(study.arms())
    )
    tracker.log_search(SearchState(points, tuple((point.arm, 0) for point in points)))
    tags = MlflowClient(tracking_uri=embedded_uri(tmp_path)).get_run(tracker.parent_id).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("best.")} == {
        "best.sgd": "α₀=0.01",
        "best.adam-sgdn": "α₀=0.02 β=1e-05",
        "best.adam-sgdn cosine": "α₀=0.03 β=0.03",
    }


def test_a_trial_becomes_a_child_run_with_names_people_filter_by(study, opened, client):
    tracker, trial = opened(), study.trials()[-1]
    tracker.publish(record(trial))
    assert tracker.is_complete(record(trial))
    parent = client.get_run(tracker.parent_id)
    assert (parent.info.run_name, parent.info.status) == ("small", "RUNNING")
    (run,) = client.search_runs([tracker.experiment_id], "tags.optimizer = 'adam-adam'")
    assert run.info.run_name == "adam-adam seed=1 α₀=0.01 β=1e-05"
    assert run.data.tags["mlflow.parentRunId"] == tracker.parent_id
    assert run.data.tags["trial_key"] == trial.key
    assert run.data.tags["outcome"] == "reached"
    assert run.data.tags["machine.torch"] == "2.0"
    assert run.data.params["alpha0"] == "0.01"
    assert run.data.params["workload"] == "digits-logreg"
    assert (run.data.params["op"], run.data.params["lop"], run.data.params["seed"]) == ("adam", "adam", "1")
    assert run.data.metrics["iterations_to_threshold"] == 3 * ITERATIONS + 8
    assert run.data.metrics["best_val_loss"] == 1 / EPOCHS
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_010_000)
    tracker.close(completed=True)
    assert client.get_run(tracker.parent_id).info.status == "FINISHED"


def test_curves_are_thinned_with_their_extremes_and_whole_in_an_artifact(study, opened, client, tmp_path):
    tracker, trial = opened(), study.trials()[-1]
    full = record(trial)
    tracker.publish(full)
    (run,) = client.search_runs([tracker.experiment_id], "tags.role = 'trial'")
    curve = client.get_metric_history(run.info.run_id, "train_loss")
    assert len(curve) <= 322
    points = {m.step: m.value for m in curve}
    assert points[2 * ITERATIONS + 124] == 1000.0
    assert points[3 * ITERATIONS + 8] == 0.25
    assert {1, EPOCHS * ITERATIONS} <= points.keys()
    assert all(points[step] == full.train_loss[step - 1] for step in points)
    stamps = {m.step: m.timestamp for m in curve}
    assert stamps[1] == full.epochs[0].time_ms
    assert stamps[2 * ITERATIONS + 124] == full.epochs[2].time_ms
    by_epoch = client.get_metric_history(run.info.run_id, "val_loss")
    assert [(m.step, m.value) for m in by_epoch] == [(n, 1 / n) for n in range(1, EPOCHS + 1)]
    path = client.download_artifacts(run.info.run_id, "curve.parquet", str(tmp_path))
    table = pq.read_table(path)
    for name in ("alpha", "hypergradient", "train_loss"):
        np.testing.assert_array_equal(table[name].to_numpy(), getattr(full, name))
    assert table["iteration"].to_pylist() == list(range(1, EPOCHS * ITERATIONS + 1))
    assert table["epoch"][ITERATIONS].as_py() == 2


def test_each_curve_of_a_large_study_keeps_fewer_points(study, opened, client, monkeypatch):
    monkeypatch.setattr("study.tracking.mlflow_backend.trial_runs._STUDY_POINTS", 130 * len(study.trials()))
    tracker = opened()
    trial = study.trials()[2]
    tracker.publish(record(trial))
    (run,) = [
        r for r in client.search_runs([tracker.experiment_id]) if r.data.tags.get("trial_key") == trial.key
    ]
    for name in ("alpha", "train_loss", "hypergradient"):
        assert 100 < len(client.get_metric_history(run.info.run_id, name)) <= 132


def test_a_curve_sent_as_it_grows_is_the_curve_sent_at_once(study, opened, client, tmp_path):
    trials = study.trials()
    grown = opened()
    for trial in trials:
        for count in range(EPOCHS + 1):
            grown.publish(record(trial, count, status="running"))
        grown.publish(record(trial))
    at_once = open_tracker(
        study, embedded_uri(tmp_path / "other"), StudyFolder(tmp_path / "other", study.name)
    )
    for trial in trials:
        at_once.publish(record(trial))
    other = MlflowClient(tracking_uri=at_once.location)
    assert everything(client, grown) == everything(other, at_once)
    assert len(everything(client, grown)) == len(trials)


def test_trials_sent_to_a_server_at_a_time_are_the_trials_sent_one_after_the_other(
    study, opened, client, tmp_path, monkeypatch
):
    """All begin at once with nothing there: they make one experiment and one parent run."""
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts by default
    trials = study.trials()
    alone = opened()
    for trial in trials:
        alone.publish(record(trial))
    (tmp_path / "other").mkdir()
    with serving(embedded_uri(tmp_path / "other"), port=0) as server:
        tracker = open_tracker(study, server, StudyFolder(tmp_path / "other", study.name))
        assert tracker.senders > 1
        begin = threading.Barrier(len(trials), timeout=60)

        def publish(trial):
            begin.wait()
            tracker.publish(record(trial, 2, status="running"))
            tracker.publish(record(trial))

        with ThreadPoolExecutor(len(trials)) as pool:
            list(pool.map(publish, trials))
        there = MlflowClient(tracking_uri=server)
        runs = there.search_runs([tracker.experiment_id])
        assert sorted(run.data.tags["role"] for run in runs) == ["study"] + ["trial"] * len(trials)
        assert everything(there, tracker) == everything(client, alone)
        for run in runs:
            if run.data.tags["role"] == "trial":
                names = {file.path for file in there.list_artifacts(run.info.run_id)}
                assert names >= {"curve.parquet"}


def test_a_trial_that_has_ended_is_six_requests_to_a_server(write_study, tmp_path, monkeypatch):
    """A run, its data set, one batch, the curve's file, the journal, the run's end."""
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts by default
    study, _ = write_study(optimizers=["adam-adam"], seeds=2)
    folder = StudyFolder(tmp_path / "runs", study.name)
    list(run_bundle(study.trials(), folder))
    first, second = folder.records(study.trials())
    with serving(embedded_uri(tmp_path), port=0) as server:
        tracker = open_tracker(study, server, folder)
        tracker.publish(first)
        asked, request = [], requests.Session.request

        def noted(session, method, url, **options):
            asked.append((method, url.rpartition("/")[2].partition("?")[0]))
            return request(session, method, url, **options)

        monkeypatch.setattr(requests.Session, "request", noted)
        tracker.publish(second)
    assert sorted(asked) == [
        ("POST", "create"),
        ("POST", "log-batch"),
        ("POST", "log-inputs"),
        ("POST", "update"),
        ("PUT", "curve.parquet"),
        ("PUT", "trial.journal"),
    ]


def test_a_new_driver_that_sends_everything_again_doubles_nothing(study, opened, client):
    trial = study.trials()[-1]
    first = opened()
    first.publish(record(trial, 3, status="running"))
    second = opened()
    assert second.parent_id == first.parent_id
    assert not second.is_complete(record(trial))
    second.publish(record(trial, 4, status="running"))
    second.publish(record(trial))
    once = everything(client, second)
    third = opened()
    assert third.is_complete(record(trial))
    third.publish(record(trial))
    assert everything(client, third) == once
    for _, _, _, _, _, history in once.values():
        for points in history.values():
            assert len(points) == len(set(points))


@pytest.mark.parametrize("ended", [False, True])
def test_a_driver_that_another_succeeded_leaves_no_second_run(study, opened, client, ended):
    trial = study.trials()[-1]
    sleeper, follower = opened(), opened()
    sleeper.begin()
    follower.begin()
    follower.publish(record(trial, 3, status="running"))
    if ended:
        follower.publish(record(trial))
    expected = everything(client, follower)
    sleeper.publish(record(trial, 2, status="running"))
    assert len(client.search_runs([follower.experiment_id], "tags.role = 'trial'")) == 2
    sleeper.withdraw(record(trial, 2, status="running"))
    assert everything(client, follower) == expected


def test_a_run_that_another_driver_goes_on_with_is_kept(study, opened, client):
    trial = study.trials()[-1]
    sleeper = opened()
    sleeper.publish(record(trial, 2, status="running"))
    follower = opened()
    follower.begin()
    sleeper.withdraw(record(trial, 2, status="running"))
    follower.publish(record(trial))
    ((_, status, *_),) = everything(client, follower).values()
    assert status == "FINISHED"


class Interruption:
    """Lets call number ``when`` raise: before it does anything, or after, its answer lost."""

    def __init__(self, when, *, lost):
        self._left, self._lost = when, lost

    def call(self, function, *args, **kwargs):
        self._left -= 1
        if self._left == 0 and not self._lost:
            raise MlflowException("gone")
        answer = function(*args, **kwargs)
        if self._left == 0:
            raise MlflowException("gone")
        return answer


class Interrupted:
    """A client, or a store of artifacts, with an interruption."""

    def __init__(self, inner, interruption):
        self._inner, self._interruption = inner, interruption

    def __getattr__(self, name):
        found = getattr(self._inner, name)
        return partial(self._interruption.call, found) if callable(found) else found


@pytest.mark.parametrize("lost", [False, True])
def test_wherever_mlflow_goes_away_all_arrives_once_it_is_back(study, tmp_path, client, lost, monkeypatch):
    trial = study.trials()[-1]
    whole_client = open_client(embedded_uri(tmp_path), print, tmp_path.as_uri())

    def kept(name, when):
        """What is kept of a trial that is told three times, the call number ``when`` failing."""
        named = study.model_copy(update={"name": name})
        tracker = open_tracker(named, embedded_uri(tmp_path), StudyFolder(tmp_path, name))
        interruption = Interruption(when, lost=lost)

        def interrupted(*args, **kwargs):
            return Interrupted(get_artifact_repository(*args, **kwargs), interruption)

        tracker._opened = Interrupted(whole_client, interruption)
        failures = 0
        with monkeypatch.context() as patch:
            patch.setattr("study.tracking.mlflow_backend.trial_runs.get_artifact_repository", interrupted)
            for told in (
                record(trial, 1, status="running"),
                record(trial, 3, status="running"),
                record(trial),
            ):
                try:
                    tracker.publish(told)
                except TrackingError:
                    failures += 1
        tracker._opened = whole_client
        if failures:
            tracker.publish(record(trial))
        tracker.close(completed=True)
        ((_, status, end, params, tags, history),) = everything(client, tracker).values()
        return failures, (status, end, params, {k: v for k, v in tags.items() if k != "study"}, history)

    _, whole = kept("whole", 0)
    when = 1
    while True:
        failures, found = kept(f"call-{when}", when)
        if not failures:
            break
        assert found == whole
        when += 1
    assert when > 10, "every call of the replays was hit"


def test_another_attempt_replaces_the_run(study, opened, client):
    tracker, trial = opened(), study.trials()[-1]
    tracker.publish(record(trial, 2, status="running", attempt="first"))
    tracker.publish(record(trial, 1, status="running", attempt="second"))
    (run,) = client.search_runs([tracker.experiment_id], "tags.role = 'trial'")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val_loss")] == [1]


def test_diverged_and_failed_trials_say_so(study, opened, client):
    tracker, (first, second, *_) = opened(), study.trials()
    (bad,) = epochs(0)[:1]
    loss = np.append(bad.train_loss[:50], np.nan).astype(np.float32)
    bad = dataclasses.replace(bad, train_loss=loss, alpha=bad.alpha[:51], hypergradient=loss, val_loss=np.nan)
    tracker.publish(dataclasses.replace(record(first), status="diverged", epochs=(bad,)))
    error = "Traceback\nValueError: no"
    fails = dataclasses.replace(record(second, 0), status="failed", error=error)
    tracker.publish(fails)
    found = client.search_runs([tracker.experiment_id], "tags.role = 'trial'")
    runs = {run.data.tags["trial_key"]: run for run in found}
    diverged, failed = runs[first.key], runs[second.key]
    assert (diverged.info.status, diverged.data.tags["outcome"]) == ("FINISHED", "diverged")
    assert "val_loss" not in diverged.data.metrics
    assert all(m.value < 10 for m in client.get_metric_history(diverged.info.run_id, "train_loss"))
    assert (failed.info.status, failed.data.tags["outcome"]) == ("FAILED", "failed")
    assert [file.path for file in client.list_artifacts(failed.info.run_id)] == ["error.txt"]
    assert not tracker.is_complete(fails)


def test_a_server_that_is_away_is_said_at_once(study, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tracker = open_tracker(study, f"http://127.0.0.1:{port}", StudyFolder(tmp_path, study.name))
    with pytest.raises(TrackingError, match=f"no MLflow server answers at .*:{port} .*--tracking-uri"):
        tracker.check()


def test_a_study_run_elsewhere_is_had_from_its_server(write_study, tmp_path, monkeypatch):
    """Trained in one folder, kept by a real server, fetched into another: the same records."""
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts by default
    study, _ = write_study(optimizers=["adam-adam"], seeds=2)
    there, here = StudyFolder(tmp_path / "there", study.name), StudyFolder(tmp_path / "here", study.name)
    trials = study.trials()
    list(run_bundle(trials, there))
    with serving(embedded_uri(tmp_path), port=0) as server:
        tracker = open_tracker(study, server, there)
        for kept in there.records(trials):
            tracker.publish(kept)
        tracker.close(completed=True)
        fetch(server, StudyFolder(tmp_path / "none", "unknown"))
        assert not (tmp_path / "none").exists()
        fetch(server, here)
        before = here.journal(trials[0]).stat().st_mtime_ns
        fetch(server, here)
        assert here.journal(trials[0]).stat().st_mtime_ns == before
    fetched, folder = find_run(study.name, here.runs)
    assert fetched == study
    for ours, theirs in zip(folder.records(trials), there.records(trials), strict=True):
        assert ours.status == theirs.status == "finished"
        assert ours.epochs[-1].time_ms == theirs.epochs[-1].time_ms
        np.testing.assert_array_equal(ours.train_loss, theirs.train_loss)


def test_from_another_machine_trials_under_way_are_seen_while_their_driver_lives(
    write_study, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # where the server keeps artifacts by default
    study, _ = write_study(optimizers=["adam-adam"], seeds=4, epochs=EPOCHS + 1)
    budget = {"epochs": None, "iterations": 2 * ITERATIONS * EPOCHS}
    short, _ = write_study(name="short", optimizers=["adam-adam"], seeds=1, **budget)
    with serving(embedded_uri(tmp_path), port=0) as server:

        def status(name):
            words = ["status", name, "--runs", tmp_path / "here", "--tracking-uri", server]
            monkeypatch.setattr(sys, "argv", ["hypergrad-study", *map(str, words)])
            with pytest.raises(SystemExit):
                commands.main()
            return capsys.readouterr().out

        there = open_tracker(study, server, StudyFolder(tmp_path / "there", "small"))
        there.begin()
        first, second, third, _ = study.trials()
        there.publish(record(first, 2, status="running"))
        there.publish(record(second, EPOCHS, status="running"))
        there.publish(record(third, 1, status="failed"))
        here = StudyFolder(tmp_path / "here", "small")
        expected = {first.key: 2 / (EPOCHS + 1), second.key: EPOCHS / (EPOCHS + 1)}
        assert fetch(server, here) == pytest.approx(expected)
        assert not list(here.path.glob("trials/*"))
        assert "0/4 trials done, 2 running" in status("small")
        progress = progress_of(here.records(study.trials()), elsewhere=expected)
        assert progress.share == pytest.approx(sum(expected.values()) / 4)

        # A budget in iterations: the last point of the thinned curve is near the end.
        shorter = open_tracker(short, server, StudyFolder(tmp_path / "there", "short"))
        shorter.begin()
        (trial,) = short.trials()
        shorter.publish(record(trial, EPOCHS, status="running"))
        share = fetch(server, StudyFolder(tmp_path / "here", "short"))[trial.key]
        assert share == pytest.approx(ITERATIONS * EPOCHS / trial.iterations, abs=0.01)

        there.close(completed=False)
        assert fetch(server, here) == {}
        assert "running" not in status("small")


def test_only_the_driver_that_begins_changes_what_the_study_is(write_study, client, tmp_path):
    def kept(tracker):
        place = client.download_artifacts(tracker.parent_id, "study.yaml", str(tmp_path))
        return load_study(place).seeds, client.get_run(tracker.parent_id).data.tags["mlflow.note.content"]

    def opened(**overrides):
        changed, _ = write_study(**overrides)
        return open_tracker(changed, embedded_uri(tmp_path), StudyFolder(tmp_path, "small"))

    assert kept(opened()) == ((0, 1), "A small study")
    other = opened(seeds=3, description="Grown")
    assert kept(other) == ((0, 1), "A small study")
    other.begin()
    assert kept(other) == ((0, 1, 2), "Grown")


def test_the_page_of_the_runs_is_not_the_page_of_traces(opened, tmp_path):
    tracker = opened()
    assert tracker.parent_id  # without the saved views, which begin stores
    page = runs_page(tracker.location, "small")
    assert page.startswith(f"#/experiments/{tracker.experiment_id}/runs?workflowType=machine_learning&")
    assert "searchFilter=tags.role%20%3D%20%27trial%27" in page
    with pytest.raises(TrackingError, match="no experiment 'none'"):
        runs_page(tracker.location, "none")


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(min_value=20, max_value=3000),
    places=st.lists(st.integers(min_value=0, max_value=10**6), min_size=3, max_size=3),
    epochs=st.integers(min_value=1, max_value=7),
    data=st.data(),
)
def test_each_curve_keeps_its_own_spikes_however_it_grew(total, places, epochs, data):
    """One spike per curve, each at a place of its own, up or down: every one is among the points sent."""
    trial = Trial("digits-logreg", "adam-adam", 0.01, 1e-5, seed=0, iterations=total)
    random = np.random.default_rng(total)
    curves = {name: random.random(total) for name in ("alpha", "train_loss", "hypergradient")}
    spikes = {}
    for (name, values), place in zip(curves.items(), places, strict=True):
        spikes[name] = place % total, data.draw(st.sampled_from([-50.0, 50.0]))
        values[spikes[name][0]] = spikes[name][1]
    cuts = np.unique([*np.linspace(0, total, epochs + 1).astype(int)])
    made = tuple(
        EpochRecord(
            number,
            int(start) + 1,
            *(curves[name][start:end] for name in ("alpha", "hypergradient", "train_loss")),
            1.0,
            0.5,
            1.0,
        )
        for number, (start, end) in enumerate(pairwise(cuts), start=1)
    )
    sent = Sent(CURVE_POINTS)
    points = []
    for count in range(1, len(made) + 1):
        status = "finished" if count == len(made) else "running"
        points += sent.fresh(TrialRecord(trial, status=status, epochs=made[:count]))
    for name, (place, value) in spikes.items():
        kept = {point.step: point.value for point in points if point.key == name}
        assert kept[place + 1] == value
        assert len(kept) <= 322


def test_rates_are_params_on_a_logarithmic_scale_too(write_study, tmp_path):
    study, _ = write_study(optimizers=["sgd", "adam-adam"], alpha0=[0.01, 0], seeds=1, epochs=EPOCHS)
    tracker = open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, study.name))
    for trial in study.trials():
        tracker.publish(record(trial))
    runs = MlflowClient(tracking_uri=tracker.location).search_runs(
        [tracker.experiment_id], "tags.role = 'trial'"
    )
    params = {(run.data.params["optimizer"], run.data.params["alpha0"]): run.data.params for run in runs}
    assert params["adam-adam", "0.01"]["log10_alpha0"] == "-2"
    assert params["adam-adam", "0.01"]["log10_beta"] == "-5"
    assert "log10_beta" not in params["sgd", "0.01"]
    assert "log10_alpha0" not in params["sgd", "0.0"]


def test_a_search_link_finds_the_runs_in_the_ui(opened):
    link = opened().search_link("tags.optimizer = 'adam'")
    assert link.startswith("http://127.0.0.1:5000/#/experiments/1/runs?")
    assert "searchFilter=tags.optimizer%20%3D%20%27adam%27&" in link
