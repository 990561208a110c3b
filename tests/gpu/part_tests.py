"""Every test marked ``gpu``: one pytest for each file, since a fault on the GPU spoils the whole process."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gpu.harness import ROOT, Context

DRY_FILTER = "(adam-adam and not compiled) or data or float or worker or sgdn-sgdn-options1"
"""The tests of a dry run, by words of their names: some of every kind."""
TEST_SECONDS = 45
"""For one test, after which its file ends."""


def main(context: Context) -> None:
    """Run the files side by side and record each test as it ends."""
    if importlib.util.find_spec("pytest") is None:
        raise RuntimeError("pytest is missing; README.md says how its wheels can come along")
    files = [str(file.relative_to(ROOT)) for file in marked_files()]
    groups = [files] if context.dry else [[file] for file in files]
    at_once = max(1, (os.cpu_count() or 2) // 2)
    with tempfile.TemporaryDirectory() as folder:
        runs = [_Run(group, Path(folder, f"{index}.jsonl"), context) for index, group in enumerate(groups)]
        waiting = list(runs)
        running: list[_Run] = []
        while (waiting or running) and context.budget.left:
            while waiting and len(running) < at_once:
                running.append(waiting.pop(0).start())
            time.sleep(0.2)
            running = [run for run in running if not run.poll()]
        for run in running:
            run.stop()
        for run in waiting:
            context.results.add("files", files=run.files, status="not run: no time was left")
            context.results.errors += 1


def marked_files() -> list[Path]:
    """Return the test files that have a test marked ``gpu``: those of this folder first."""
    files = sorted((ROOT / "tests").rglob("test_*.py"), key=lambda file: (file.parent.name != "gpu", file))
    return [file for file in files if re.search(r"\bmark\.gpu\b", file.read_text(encoding="utf-8"))]


class _Run:
    """One pytest, of a file or several."""

    def __init__(self, files: list[str], outcomes: Path, context: Context) -> None:
        self.files = files
        self._outcomes, self._context = outcomes, context
        self._read = 0
        self._counts: Counter[str] = Counter()

    def start(self) -> _Run:
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "gpu.recorder", *self.files]
        command += ["-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib --strict-markers"]
        if importlib.util.find_spec("pytest_timeout") is not None:
            command += [f"--timeout={TEST_SECONDS}"]
        if self._context.dry:
            command += ["-k", DRY_FILTER]
        variables = os.environ | {"HYPERGRAD_GPU_OUTCOMES": str(self._outcomes)}
        self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL)
        return self

    def poll(self) -> bool:
        """Record the tests that ended since the last time; return whether all have."""
        ended = self._process.poll() is not None
        lines = self._outcomes.read_text().splitlines() if self._outcomes.exists() else []
        for line in lines[self._read :]:
            test = json.loads(line)
            self._counts[test["outcome"]] += 1
            if test["outcome"] == "failed":
                self._context.results.errors += 1
            # What passed is counted; a line for each of hundreds would hide what did not.
            if test["outcome"] == "failed" or test["seconds"] > 5:
                self._context.results.add("test", show=False, **test)
        self._read = len(lines)
        if ended:
            self._close(f"pytest ended with {self._process.returncode}")
        return ended

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close("stopped: no time was left")

    def _close(self, status: str) -> None:
        code = self._process.returncode
        ok = code == 0 or (code == 5 and self._context.dry)  # 5: the filter left no test
        if not ok and not self._counts["failed"]:
            self._context.results.errors += 1
        self._context.results.add("files", files=self.files, status="ok" if ok else status, **self._counts)
