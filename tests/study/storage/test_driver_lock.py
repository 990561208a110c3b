"""The lease between real processes: held, released, killed, suspended, fought over."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from study.storage.journal_reader import read
from study.storage.study_folder import StudyFolder
from study.tracking import embedded_uri
from study.training.worker import run_bundle

DEAD_SECONDS = 1.5
# "Another machine" is a process that believes to be on one.
PRELUDE = f"""
import os, signal, sys, time
from pathlib import Path
from study.storage import driver_lock, lock_holder
if elsewhere := os.environ.get("ELSEWHERE"):
    lock_holder.this_place = lambda: elsewhere
driver_lock.DriverLock.__init__.__kwdefaults__.update(every=0.1, dead_after={DEAD_SECONDS})
"""
HOLD = """
try:
    with driver_lock.DriverLock(Path(sys.argv[1]), print):
        print("held", flush=True)
        sys.stdin.read()
    print("released")
except driver_lock.DriverLockError as error:
    print("refused", error)
    sys.exit(3)
"""
# Holds it so many times and then releases it or, every third process, dies holding it.
FIGHT = """
path, mark = Path(sys.argv[1]), Path(sys.argv[1] + ".mark")
held = 0
while held < 8:
    try:
        with driver_lock.DriverLock(path):
            mark.touch(exist_ok=False)  # raises if another holds it
            time.sleep(0.002)
            mark.unlink()
            held += 1
            if held == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
    except driver_lock.DriverLockError:
        time.sleep(0.001)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small" / "driver.lease"


@pytest.fixture
def start():
    """A function that starts a process which runs a script; it is ended with all below it."""
    started = []

    def start(script, *arguments, elsewhere=""):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(PRELUDE + script), *map(str, arguments)],
            env={**os.environ, "ELSEWHERE": elsewhere, "USER": "ada", "LOGNAME": "ada"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for pid in reversed(descendants(process.pid)) if process.poll() is None else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def hold(start, path):
    """A function that starts a process that takes the lease; returns it with what it said at first."""

    def hold(elsewhere="", lines=1):
        process = start(HOLD, path, elsewhere=elsewhere)
        return process, "".join(process.stdout.readline() for _ in range(lines)).strip()

    return hold


def name_of(process):
    return f"ada on {socket.gethostname()} (process {process.pid}: "


def test_a_second_driver_is_refused_with_who_holds_it_and_since_when(hold, path):
    first, said = hold()
    assert said == "held"
    second, said = hold()
    assert said.startswith(f"refused is being run by {name_of(first)}-c {path}), since 20")
    assert second.wait() == 3


def test_one_on_another_machine_is_refused_when_the_heartbeat_is_seen(hold):
    first, _ = hold()
    second, said = hold(elsewhere="mars", lines=2)
    waiting, refusal = said.splitlines()
    assert waiting.startswith("it was run by ada on ")
    assert refusal.startswith(f"refused is being run by {name_of(first)}")
    assert second.wait() == 3


@pytest.mark.parametrize("elsewhere", ["", "mars"])
def test_a_released_lease_is_free_at_once(hold, elsewhere):
    first, _ = hold()
    assert "released" in first.communicate("")[0]
    assert hold(elsewhere)[1] == "held"


def test_one_killed_on_this_machine_is_followed_at_once(hold):
    first, _ = hold()
    first.kill()
    first.wait()
    second, said = hold()
    assert said == "held"
    assert hold()[1].startswith(f"refused is being run by {name_of(second)}")


def test_one_killed_on_another_machine_is_followed_when_its_heartbeat_stays_away(hold):
    first, _ = hold()
    first.kill()
    begun = time.monotonic()
    _, said = hold(elsewhere="mars", lines=2)
    assert said.splitlines()[0].endswith(f"looking for up to {DEAD_SECONDS:g} s whether that is still so")
    assert said.splitlines()[1] == "held"
    assert time.monotonic() - begun >= DEAD_SECONDS


def test_a_suspended_one_on_this_machine_keeps_it_and_is_said_to_be_suspended(hold):
    first, _ = hold()
    first.send_signal(signal.SIGSTOP)
    _, said = hold()
    assert said.startswith(f"refused is being run by {name_of(first)}")
    assert said.endswith("; that process is suspended")
    first.send_signal(signal.SIGCONT)
    assert "released" in first.communicate("")[0]


def test_a_suspended_one_that_was_followed_stops_when_it_wakes(hold):
    first, _ = hold()
    first.send_signal(signal.SIGSTOP)
    second, said = hold(elsewhere="mars", lines=2)
    assert said.endswith("held")
    first.send_signal(signal.SIGCONT)
    said = first.stdout.read()  # its stdin is open: the heartbeat ended it
    assert first.wait() == 3
    assert said.startswith(f"refused was taken over by {name_of(second)}")
    assert len(said.splitlines()) == 1
    # The follower's lease is unharmed by the one that woke.
    assert (
        hold(elsewhere="venus", lines=2)[1]
        .splitlines()[1]
        .startswith("refused is being run by " + name_of(second))
    )
    assert "released" in second.communicate("")[0]


def test_a_holder_whose_folder_is_removed_stops(hold, path):
    first, _ = hold()
    path.unlink()
    assert f"{path} is gone" in first.stdout.read()
    assert first.wait() == 3


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 4097, b'{"id": "half', b'["a list"]', b'{"id": "x", "new": 1}']
)
def test_a_damaged_lease_is_followed_when_nothing_renews_it(hold, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    assert hold(lines=2)[1].endswith("held")
    assert json.loads(path.read_bytes())["user"] == "ada"


def test_a_password_in_an_address_does_not_get_into_the_file(path):
    script = """
    sys.argv = ["hypergrad-study", "run", "--tracking-uri", "https://me:secret@host:5000"]
    with driver_lock.DriverLock(Path(os.environ["LEASE"])):
        print(Path(os.environ["LEASE"]).read_text())
    """
    path.parent.mkdir()
    program = textwrap.dedent(PRELUDE) + textwrap.dedent(script)
    environment = {**os.environ, "LEASE": str(path)}
    said = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    assert "https://host:5000" in said
    assert "secret" not in said


def test_many_that_fight_for_it_and_die_never_hold_it_two_at_a_time(start, path):
    fighters = [start(FIGHT, path, 3 if number % 2 else 0) for number in range(6)]
    said = [fighter.communicate(timeout=200)[0] for fighter in fighters]
    assert [fighter.returncode for fighter in fighters] == [0, -signal.SIGKILL] * 3, said
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


SENDS_WHEN_TOLD = """
import sys, time
from pathlib import Path
from study.cli.commands import main
from study.tracking.mlflow_backend.trial_runs import TrialRuns

asked, told = Path(sys.argv[1], "asked"), Path(sys.argv[1], "told")
create = TrialRuns._start

def create_when_told(*args):
    asked.touch()
    while not told.exists():
        time.sleep(0.01)
    return create(*args)

TrialRuns._start = create_when_told
sys.argv = ["study", *sys.argv[2:]]
main()
"""
"""A driver that is suspended just before it creates a run: the worst moment."""


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_study_whose_driver_sleeps_is_run_by_another_and_the_sleeper_leaves_it_alone(
    start, write_study, tmp_path
):
    study, file = write_study(optimizers=["adam-adam"], seeds=2, epochs=200, pack=1)
    folder = StudyFolder(tmp_path / "runs", "small")
    main = "from study.cli.commands import main; main()"
    words = ["run", file, "--runs", folder.runs, "--cpus", 1]
    sleeper = start(SENDS_WHEN_TOLD, tmp_path, *words)
    deadline = time.monotonic() + 200
    asked = tmp_path / "asked"
    while not asked.exists() or not any(
        place.stat().st_size > 20_000 for place in folder.path.glob("trials/*")
    ):
        assert time.monotonic() < deadline
        assert sleeper.poll() is None, sleeper.communicate()
        time.sleep(0.1)
    asleep = descendants(sleeper.pid)
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    refused = start(main, *words)
    said, _ = refused.communicate(timeout=100)
    assert refused.returncode == 2
    assert f"error: the study 'small' is being run by {name_of(sleeper)}" in said
    follower = start(main, *words, elsewhere="mars")
    said, _ = follower.communicate(timeout=400)
    assert follower.returncode == 0, said
    assert "2/2 trials done" in said
    (tmp_path / "told").touch()
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    said, _ = sleeper.communicate(timeout=120)
    assert sleeper.returncode == 2
    assert said.splitlines()[-1].startswith(f"error: the study 'small' was taken over by {name_of(follower)}")
    assert "Traceback" not in said

    client = MlflowClient(tracking_uri=embedded_uri(folder.runs))
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    calm = StudyFolder(tmp_path / "calm", "small")
    list(run_bundle(study.trials(), calm))
    for trial in study.trials():
        found, expected = read(folder.journal(trial), trial), read(calm.journal(trial), trial)
        assert found.status == "finished"
        assert found.train_loss.tobytes() == expected.train_loss.tobytes()
        assert found.alpha.tobytes() == expected.alpha.tobytes()
