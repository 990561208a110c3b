"""One part's failure, overrun or death never takes another's result, nor its own so far."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent

FAKES = {
    "good": "context.results.add('number', value=1.5, odd=float('nan'))",
    "raises": "context.results.add('number', value=2)\n    raise RuntimeError('this part is broken')",
    "attempts": """
    with context.results.attempt('number', which='first'):
        raise ValueError('only this one is broken')
    context.results.add('number', value=3)""",
    "hangs": """
    import signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
    context.results.add('number', value=4, child=child.pid)
    time.sleep(600)""",
    "waits": "import time; context.results.add('number', value=5); time.sleep(600)",
    "killed": "import os; context.results.add('number', value=6); os.kill(os.getpid(), 9)",
    "crashes": "import ctypes; context.results.add('number', value=7); ctypes.string_at(0)",
}

RUNS = """
import json, sys
from pathlib import Path
from gpu.runner import Options, Part, exit_on_sigterm, run_parts

exit_on_sigterm()
wanted, out, total = json.loads(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
parts = [Part(name, f"fakes.{name}", "a part made up for a test", *limits) for name, limits in wanted]
for one in run_parts(parts, Options(out), {"card": None}, total):
    print(json.dumps([one.part, one.status, one.detail, one.seconds, one.limit]))
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that starts the runner on parts of FAKES, each with (seconds, most)."""
    fakes = tmp_path / "fakes"
    fakes.mkdir()
    for name, body in FAKES.items():
        (fakes / f"{name}.py").write_text(f"def main(context):\n    {body}\n")
    (tmp_path / "out").mkdir()
    paths = [str(HERE.parent), str(HERE.parent.parent), str(tmp_path)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    def start(parts, total=100.0):
        command = [sys.executable, "-u", "-c", RUNS, json.dumps(parts), str(tmp_path / "out"), str(total)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    return start


def ends(process):
    """Return how each part ended, by name, and all that was printed."""
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("[")]
    return {part: rest for part, *rest in rows}, printed


def measured(folder: Path, part: str) -> list:
    return [one.get("value") for one in json.loads((folder / f"{part}.json").read_text())["measurements"]]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_no_end_of_a_part_takes_a_result(start, tmp_path):
    out, names = tmp_path / "out", ("raises", "attempts", "hangs", "killed", "crashes", "good")
    begun = time.monotonic()
    found, printed = ends(start([(name, (3, 3) if name == "hangs" else (20, 20)) for name in names]))
    assert time.monotonic() - begun < 60
    assert {name: found[name][:2] for name in names} == {
        "raises": ["failed", "see raises.log"],
        "attempts": ["failed", "see attempts.log"],
        "hangs": ["ran over", "stopped after 3 s"],
        "killed": ["failed", "killed by SIGKILL"],
        "crashes": ["failed", "killed by SIGSEGV"],
        "good": ["ok", ""],
    }
    assert [measured(out, name) for name in names] == [[2], [None, 3], [4], [6], [7], [1.5]]
    assert "this part is broken" in (out / "raises.log").read_text()
    assert "only this one is broken" in (out / "attempts.json").read_text()
    assert "Segmentation fault" in (out / "crashes.log").read_text()
    child = json.loads((out / "hangs.json").read_text())["measurements"][0]["child"]
    assert not is_running(child)

    card = json.loads((out / "cpu.json").read_text())["parts"]
    assert {name: card[name]["status"] for name in names} == {name: found[name][0] for name in names}
    assert card["good"]["results"]["measurements"] == [{"what": "number", "value": 1.5, "odd": "nan"}]
    rows = [line.split() for line in printed.splitlines()]
    for name in names:
        assert [name, *found[name][0].split()] in [row[: 1 + len(found[name][0].split())] for row in rows]


def test_a_part_that_takes_too_long_says_where_it_stood(start, tmp_path):
    found, _ = ends(start([("waits", (2, 2))]))
    assert found["waits"][0] == "ran over"
    assert "waits.py" in (tmp_path / "out" / "waits.log").read_text()


def test_time_that_is_left_over_goes_to_the_parts_that_follow(start):
    found, _ = ends(start([("good", (30, 40)), ("raises", (20, 60)), ("attempts", (10, 500))], total=69))
    limits = {name: limit for name, (*_, limit) in found.items()}
    assert 30 <= limits["good"] < 32
    assert 40 < limits["raises"] <= 51
    assert 40 < limits["attempts"] <= 61


def test_a_part_without_time_is_not_run_and_what_an_earlier_run_measured_stays(start, tmp_path):
    ends(start([("good", (10, 10))]))
    found, _ = ends(start([("waits", (3, 3)), ("good", (10, 10))], total=12))
    assert found["good"][:2] == ["not run", "no time was left"]
    card = json.loads((tmp_path / "out" / "cpu.json").read_text())["parts"]
    assert (card["good"]["status"], card["waits"]["status"]) == ("ok", "ran over")


def test_a_runner_that_is_ended_ends_its_part_and_keeps_what_there_is(start, tmp_path):
    out = tmp_path / "out"
    process = start([("hangs", (60, 60)), ("good", (20, 20))])
    end = time.monotonic() + 30
    while not ((out / "hangs.json").exists() and measured(out, "hangs")):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert not is_running(json.loads((out / "hangs.json").read_text())["measurements"][0]["child"])
    card = json.loads((out / "cpu.json").read_text())["parts"]
    assert card["hangs"]["results"]["measurements"][0]["value"] == 4
    assert (card["hangs"]["detail"], card["good"]["status"]) == ("interrupted", "not run")
    assert "hangs    failed" in printed


def test_the_parts_fit_into_eight_minutes():
    code = "from gpu.runner import *; print(TOTAL_SECONDS, 2 * GRACE + sum(part.seconds for part in PARTS))"
    paths = os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])
    printed = subprocess.check_output([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths})
    total, parts = map(float, printed.split())
    assert parts <= total <= 480
