"""How studies stand, as `status` and `list` say it: by journals, lock file and process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import pytest

from study.cli import commands
from study.config.loader import load_study
from study.storage.driver_lock import DriverLock, runner
from study.storage.lock_holder import Holder
from study.storage.study_folder import StudyFolder
from study.training.worker import run_bundle

KEPT = Path(__file__).parents[2] / "data" / "version-0.1"
PROGRAM = [sys.executable, "-m", "study"]


@pytest.fixture
def runs(tmp_path):
    return Path(shutil.copytree(KEPT, tmp_path / "runs"))


@pytest.fixture
def say(monkeypatch, capsys):
    """A function that runs a command in this process and returns its output."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert not ended.value.code
        return capsys.readouterr().out

    return run


def last_heard_of(runs, name):
    """When the newest epoch of a study was written, read from the journals' lines."""
    lines = [line for path in (runs / name / "trials").iterdir() for line in path.read_text().splitlines()]
    events = [json.loads(line.partition(" ")[2]) for line in lines]
    return max(event["time_ms"] for event in events if event["event"] == "epoch") / 1000


def test_a_study_that_nobody_runs_is_interrupted_not_running(say, runs):
    at = datetime.fromtimestamp(last_heard_of(runs, "kept-grid"))
    out = say("status", "kept-grid", "--runs", runs)
    assert f"2/6 trials done, 2 interrupted at {at:%Y-%m-%d %H:%M}" in out
    assert "running" not in out
    assert " left" not in out
    found = json.loads(say("status", "kept-grid", "--runs", runs, "--json"))
    assert (found["state"], found["running"], found["driver"]) == ("interrupted", 0, None)
    assert datetime.fromisoformat(found["interrupted_at"]).timestamp() == int(at.timestamp())
    counts = {row["optimizer"]: row for row in found["outcomes"]}
    assert counts["adam-adam"] == {
        "workload": "digits-logreg",
        "optimizer": "adam-adam",
        "total": 2,
        "interrupted": 1,
        "pending": 1,
    }


def test_a_study_that_a_driver_runs_is_running_and_the_driver_is_named(say, runs):
    with DriverLock(runs / "kept-grid" / "driver.lease"):
        found = json.loads(say("status", "kept-grid", "--runs", runs, "--json"))
        assert (found["state"], found["running"], found["interrupted_at"]) == ("running", 2, None)
        assert f"process {os.getpid()}" in found["driver"]
        assert "2 running" in say("status", "kept-grid", "--runs", runs)
    assert json.loads(say("status", "kept-grid", "--runs", runs, "--json"))["state"] == "interrupted"


def test_every_study_is_listed_with_its_outcomes(say, runs):
    out = say("list", "--runs", runs)
    (grid,) = [line for line in out.splitlines() if line.startswith("kept-grid")]
    assert "interrupted at" in grid
    assert "2/6" in grid
    assert "2 interrupted, 2 pending" in grid
    found = json.loads(say("list", "--runs", runs, "--json"))
    assert [(each["name"], each["state"], each["done"]) for each in found] == [
        ("kept-grid", "interrupted", 2),
        ("kept-search", "finished", 16),
    ]


def test_a_study_that_cannot_be_read_does_not_hide_the_others(runs):
    (runs / "broken").mkdir()
    (runs / "broken" / "study.yaml").write_text("name: [")
    done = subprocess.run(
        [*PROGRAM, "list", "--runs", runs], capture_output=True, text=True, timeout=100, check=True
    )
    assert "kept-search" in done.stdout
    assert done.stderr.startswith("error: broken: ")


def test_an_empty_folder_has_no_studies(say, tmp_path):
    assert say("list", "--runs", tmp_path).startswith("no studies in")
    assert json.loads(say("list", "--runs", tmp_path, "--json")) == []


def test_watching_ends_with_the_study(write_study, tmp_path):
    """A driver that another process watches holds the lock; then it trains all, and lets go."""
    study, _ = write_study(epochs=1)
    folder = StudyFolder(tmp_path / "runs", study.name)
    folder.save_study(study)
    with DriverLock(folder.lock_file):
        watching = subprocess.Popen(
            [*PROGRAM, "status", study.name, "--runs", folder.runs, "--watch"],
            stdout=subprocess.PIPE,
            text=True,
        )
        first = watching.stdout.readline()
        list(run_bundle(study.trials(), folder))
        time.sleep(0.1)
        assert watching.poll() is None
    out = first + watching.communicate(timeout=100)[0]
    assert watching.returncode == 0
    assert "0/6 trials done" in out.splitlines()[0]
    assert "6/6 trials done" in out.splitlines()[-5]


def test_ctrl_c_ends_watching(runs):
    with DriverLock(runs / "kept-grid" / "driver.lease"):
        watching = subprocess.Popen(
            [*PROGRAM, "status", "kept-grid", "--runs", runs, "--watch"], stdout=subprocess.PIPE, text=True
        )
        assert "2/6 trials done, 2 running" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=100) == 130


def write(path, holder):
    path.write_text(json.dumps(asdict(holder)))


def test_a_lock_is_a_drivers_only_while_it_lives(tmp_path):
    path = tmp_path / "driver.lease"
    assert runner(path) is None
    here = Holder.here()
    write(path, here)
    assert runner(path) == here
    write(path, replace(here, released=True))
    assert runner(path) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    write(path, replace(here, pid=ended.pid))
    assert runner(path) is None
    elsewhere = replace(here, place="another machine", pid=1)
    write(path, elsewhere)
    assert runner(path) == elsewhere
    long_ago = time.time() - 3600
    os.utime(path, (long_ago, long_ago))
    assert runner(path) is None
    path.write_text("{")
    assert runner(path) is None


def test_init_writes_a_file_that_loads_and_replaces_none(say, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert say("init").startswith("my-study.yaml: edit it, then: ")
    study = load_study(tmp_path / "my-study.yaml")
    assert (study.name, len(study.trials())) == ("my-study", 4 * 3 * 6)
    say("init", "other")
    assert load_study(tmp_path / "other.yaml").name == "other"
    before = (tmp_path / "other.yaml").read_bytes()
    for words, line in ((("other.yaml",), "exists already"), (("a b",), "not the name of a study")):
        monkeypatch.setattr(sys, "argv", ["hypergrad-study", "init", *words])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        assert ended.value.code == 2
        assert line in capsys.readouterr().err
    assert (tmp_path / "other.yaml").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my-study.yaml", "other.yaml"]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_has_a_short_name(say, option):
    assert "Run a study, or resume it." in say("run", option)


def test_the_version_is_printed(say):
    from study import __version__

    assert say("--version") == f"hypergrad-study {__version__}\n"


def test_settings_reach_plan_and_dry_run(say, write_study, tmp_path):
    _, path = write_study()
    settings = ("--set", "seeds=5", "--set", "optimizers=[sgd]", "--runs", tmp_path / "runs")
    planned = say("plan", path, *settings, "--cpus", 1)
    assert "5 trials to run, 0 done already" in planned
    assert say("run", path, *settings, "--cpus", 1, "--dry-run") == planned
    assert not (tmp_path / "runs").exists()


def test_a_shell_completes_presets_files_and_studies(runs, tmp_path, monkeypatch):
    """As bash asks: the words so far in the environment, the proposals on stdout."""
    (tmp_path / "quick.yaml").touch()

    def complete(words):
        asked = {
            "_HYPERGRAD_STUDY_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
            "HYPERGRAD_STUDY_RUNS": str(runs),
        }
        program = Path(sys.executable).with_name("hypergrad-study")
        command = [program] if program.exists() else [*PROGRAM]
        done = subprocess.run(
            command, env={**os.environ, **asked}, capture_output=True, text=True, cwd=tmp_path, timeout=100
        )
        return done.stdout.split()

    assert complete("hypergrad-study run quick") == ["quick.yaml", "quickstart"]
    assert complete("hypergrad-study status kept-s") == ["kept-search"]
    assert complete("hypergrad-study lis") == ["list"]
