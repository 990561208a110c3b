"""Databases that MLflow cannot use, each with one line that says what would help, and none changed."""

import shlex
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from urllib.parse import quote

import mlflow
import mlflow.store.db.utils as mlflow_database
import pytest
import sqlalchemy
from alembic import command
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from study.cli import commands
from study.storage.sqlite import sqlite_uri
from study.storage.study_folder import StudyFolder
from study.tracking import TrackingError, embedded_uri, open_tracker
from study.tracking.mlflow_backend import client as mlflow_client

SECRET = "s3cret"


def upgrade(uri, revision):
    """Make a database's tables as the MLflow with this schema did."""
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        InitialBase.metadata.create_all(connection)
        config = mlflow_database._get_alembic_config(uri)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def revisions(uri):
    """The revisions of MLflow's schema, the newest first."""
    script = ScriptDirectory.from_config(mlflow_database._get_alembic_config(uri))
    return [revision.revision for revision in script.walk_revisions()]


def tables(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master")}


@pytest.fixture
def problem(write_study, tmp_path, monkeypatch, capsys):
    """A function that returns the line that every command ends with, which is the same for all."""
    study, _ = write_study()
    StudyFolder(tmp_path / "runs", "small").save_study(study)
    monkeypatch.chdir(tmp_path)

    def refused(uri, *more):
        lines = set()
        for words in (["report", "small"], ["ui"], *more):
            monkeypatch.setattr(sys, "argv", ["hypergrad-study", *words, "--tracking-uri", uri])
            with pytest.raises(SystemExit) as ended:
                commands.main()
            said = capsys.readouterr().err.splitlines()
            assert ended.value.code == 2, said
            assert len(said) == 1, said
            lines.add(said[0])
        (line,) = lines
        return line

    return refused


def test_an_older_schema_is_not_upgraded_unasked(problem, tmp_path):
    path = tmp_path / "old place" / "old.db"
    path.parent.mkdir()
    uri = f"sqlite:///{path}"
    older = revisions(uri)[10]
    upgrade(uri, older)
    before = tables(path)
    assert problem(uri) == (
        f"error: MLflow's database at {uri} was made by an older MLflow (schema {older}); make a copy of it, "
        f"then run: mlflow db upgrade {shlex.quote(uri)}"
    )
    assert tables(path) == before


def test_what_would_help_an_older_schema_does(problem, write_study, tmp_path, monkeypatch):
    path = tmp_path / "old place" / "old.db"
    path.parent.mkdir()
    uri = f"sqlite:///{path}"
    upgrade(uri, revisions(uri)[10])
    words = shlex.split(problem(uri).partition("run: ")[2])
    from mlflow.cli import cli

    with pytest.raises(SystemExit) as ended:
        cli.main(words[1:])
    assert ended.value.code == 0
    study, _ = write_study()
    open_tracker(study, uri, StudyFolder(tmp_path, "small")).begin()


def test_a_newer_schema(problem, tmp_path):
    path = tmp_path / "new.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'fedcba987654'")
    line = problem(f"sqlite:///{path}")
    assert f"new.db was made by a newer MLflow than {mlflow.__version__} (schema fedcba987654)" in line
    assert line.endswith("; upgrade MLflow: pip install --upgrade mlflow")


def test_a_database_that_is_not_mlflow_s_is_left_alone(problem, tmp_path):
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table orders (number)")
    assert problem(f"sqlite:///{path}", ["run", "small.yaml"]) == (
        f"error: the database at sqlite:///{path} is not MLflow's: it has other tables, such as orders; give "
        "another --tracking-uri"
    )
    assert tables(path) == {"orders"}


def test_a_file_that_is_no_database(problem, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, " * 100)
    assert problem(f"sqlite:///{path}") == (
        f"error: MLflow's database at sqlite:///{path}: file is not a database; repair the file, or give "
        "another --tracking-uri"
    )


def test_a_folder_of_files(problem, tmp_path):
    for uri in (f"file://{tmp_path}/mlruns", "./mlruns"):
        assert problem(uri, ["run", "small.yaml"]) == (
            f"error: {uri}: MLflow no longer keeps runs in a folder of files; give a database such as "
            "sqlite:///mlflow.db, or leave --tracking-uri out for one in the folder of runs"
        )
    assert not (tmp_path / "mlruns").exists()


def test_a_kind_of_address_that_there_is_not(problem):
    line = problem(f"mongodb://me:{SECRET}@host/db")
    assert line.startswith(
        "error: mongodb://me@host/db: no such kind of tracking URI; known are http, https,"
    )


def test_a_driver_that_is_not_installed(problem):
    try:
        import MySQLdb  # noqa: F401
    except ModuleNotFoundError:
        assert problem(f"mysql://me:{SECRET}@host/db") == (
            "error: MLflow at mysql://me@host/db needs the Python package 'MySQLdb', which is not installed; "
            "pip install mysqlclient"
        )
    else:
        pytest.skip("the driver is installed")


def test_a_place_where_no_file_can_be_made(write_study, tmp_path):
    study, _ = write_study()
    for path in ("/proc/mlflow.db", "/proc/none/mlflow.db", f"{tmp_path}/small.yaml/mlflow.db"):
        tracker = open_tracker(study, f"sqlite:///{path}", StudyFolder(tmp_path, "small"))
        with pytest.raises(TrackingError, match=f"MLflow.* at sqlite:///{path}: ") as caught:
            tracker.begin()
        assert len(str(caught.value).splitlines()) == 1


def test_a_database_that_may_only_be_read(write_study, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder "file:" in the current one
    study, _ = write_study()
    path = tmp_path / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    uri = f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true"
    tracker = open_tracker(study, uri, StudyFolder(tmp_path, "small"))
    with pytest.raises(
        TrackingError, match="readonly database; ask for the permission to write to it"
    ) as caught:
        tracker.begin()
    assert len(str(caught.value).splitlines()) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_database_that_is_locked_is_waited_for_with_a_line(write_study, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_client, "RETRY_SECONDS", 0.05)
    study, _ = write_study()
    uri = embedded_uri(tmp_path)
    MlflowClient(tracking_uri=uri).search_experiments()
    other = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    said = []

    def say(line):
        said.append(line)
        threading.Timer(0.5, other.close).start()

    tracker = open_tracker(study, uri, StudyFolder(tmp_path, "small"), say)
    tracker.begin()
    assert said == [
        f"MLflow's database at {uri}: database is locked; another program is writing to it; waiting for it"
    ]


def test_tables_that_another_program_is_making_are_waited_for(write_study, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow_client, "RETRY_SECONDS", 0.05)
    study, _ = write_study()
    uri = embedded_uri(tmp_path)
    engine = sqlalchemy.create_engine(uri)
    InitialBase.metadata.create_all(engine)  # what MLflow does first
    said = []

    def say(line):
        said.append(line)
        mlflow_database._upgrade_db(engine)

    open_tracker(study, uri, StudyFolder(tmp_path, "small"), say).begin()
    (line,) = said
    assert "has no version: another program is making its tables" in line
    assert line.endswith("; waiting for it")


def test_programs_that_make_a_database_at_the_same_time_all_get_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from study.tracking import embedded_uri\n"
        "from study.tracking.mlflow_backend.client import open_client\n"
        "folder = Path(sys.argv[1]); (folder / f'ready-{sys.argv[2]}').touch()\n"
        "while len(list(folder.glob('ready-*'))) < 3: time.sleep(0.01)\n"
        "client = open_client(embedded_uri(folder), print, folder.as_uri())\n"
        "client.create_experiment(sys.argv[2])\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen([*words, name], stderr=subprocess.PIPE, text=True) for name in "abc"]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
    found = MlflowClient(tracking_uri=embedded_uri(tmp_path)).search_experiments()
    assert {experiment.name for experiment in found} == {"Default", "a", "b", "c"}
    assert not list(tmp_path.glob(".mlflow*"))


def test_a_new_database_keeps_nothing_in_the_working_folder(write_study, tmp_path, monkeypatch):
    """MLflow would put artifacts of its default experiment there."""
    monkeypatch.chdir(tmp_path)
    study, _ = write_study()
    open_tracker(study, embedded_uri(tmp_path / "runs"), StudyFolder(tmp_path / "runs", "small")).begin()
    client = MlflowClient(tracking_uri=embedded_uri(tmp_path / "runs"))
    default = client.get_experiment_by_name("Default")
    assert default.artifact_location.startswith((tmp_path / "runs" / "artifacts").as_uri())


def test_reading_makes_no_database(write_study, tmp_path):
    study, _ = write_study()
    (trial, *_) = study.trials()
    for name, uri in (("a", embedded_uri(tmp_path / "a")), ("b", sqlite_uri(tmp_path / "b" / "mlflow.db"))):
        (tmp_path / name).mkdir()
        tracker = open_tracker(study, uri, StudyFolder(tmp_path / "a", "small"))
        tracker.check()
        assert not list((tmp_path / name).iterdir())
    tracker = open_tracker(study, embedded_uri(tmp_path / "a"), StudyFolder(tmp_path / "a", "small"))
    assert tracker.trial_link(trial.key) is None
    assert tracker.optimizer_link("digits-logreg", "adam-adam") is None
    tracker.log_report(tmp_path)
    assert not list((tmp_path / "a").iterdir())


def test_reading_makes_no_experiment(write_study, tmp_path):
    study, _ = write_study()
    (trial, *_) = study.trials()
    client = MlflowClient(tracking_uri=embedded_uri(tmp_path))
    before = [dict(experiment) for experiment in client.search_experiments()]
    tracker = open_tracker(study, embedded_uri(tmp_path), StudyFolder(tmp_path, "small"))
    tracker.check()
    assert tracker.trial_link(trial.key) is None
    tracker.log_report(tmp_path)
    assert [dict(experiment) for experiment in client.search_experiments()] == before
