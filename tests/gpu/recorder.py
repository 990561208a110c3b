"""A pytest plugin that writes each test's outcome as it ends: a kill loses only the test under way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

OUTCOMES = Path(os.environ["HYPERGRAD_GPU_OUTCOMES"])


def _append(test: str, outcome: str, seconds: float, reason: str) -> None:
    line = json.dumps({"test": test, "outcome": outcome, "seconds": round(seconds, 2), "reason": reason})
    with OUTCOMES.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the call of a test, and a setup or teardown that skipped or failed."""
    if report.when == "call" or report.outcome != "passed":
        _append(report.nodeid, report.outcome, report.duration, report.longreprtext[-3000:])


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a file that cannot be imported."""
    if report.failed:
        _append(report.nodeid, "failed", 0.0, report.longreprtext[-3000:])
