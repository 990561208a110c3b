"""Triton's kernels without a GPU: in Triton's interpreter, and compiled ahead of time for three of them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hypergrad import kernels
from hypergrad.kernels import gpu

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
ROOT = Path(__file__).parents[2]


def python(*arguments, **environment):
    # The interpreter's operations are on single tiles: threads would only wait for each other.
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=1500
    )


@needs_triton
@pytest.mark.parametrize("which", ["not triton", pytest.param("triton", marks=pytest.mark.triton)])
@pytest.mark.timeout(1800)
def test_in_the_interpreter(which):
    command = ["-m", "pytest", "-q", "-m", which, "-p", "no:cacheprovider", "--show-capture=no"]
    run = python(*command, "tests/hypergrad/interpreted_triton.py", TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stdout[-6000:]
    assert re.search(r"\d{2,} passed", run.stdout)


def test_a_run_on_a_cpu_does_not_import_triton():
    """Not even with ``fused=True``. (The constructors of torch.optim do, so this uses none.)"""
    script = (
        "import sys, torch\n"
        "from hypergrad import directions, functional, rates\n"
        "p = [torch.ones(3)]\n"
        "state = functional.init(p, rates.SGDN(), lr=0.1)\n"
        "options = functional.StepOptions(0.1, rule='cosine', trace_decay=0.9, fused=True)\n"
        "for _ in range(2):\n"
        "    functional.update(p, p, state, directions.Adam(), rates.SGDN(), options)\n"
        "assert 'triton' not in sys.modules"
    )
    run = python("-c", script)
    assert run.returncode == 0, run.stderr


def test_without_triton_nothing_changes(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    gpu._why_not_on.cache_clear()
    try:
        assert gpu.why_not_on("cpu") == "Triton is not installed"
        from hypergrad import _device_step, functional

        options = functional.StepOptions(fused=True)
        assert not _device_step.wanted(torch.zeros(3), options)
    finally:
        gpu._why_not_on.cache_clear()


def test_off_unless_asked_for(monkeypatch):
    """``fused=True`` asks for the kernels, and so does the variable HYPERGRAD_TRITON; no GPU has run them."""
    from hypergrad import _device_step, functional

    monkeypatch.setattr(gpu, "DEVICES", {"cpu"})
    monkeypatch.setattr(gpu, "_why_not_on", lambda kind, index: None)
    param = torch.zeros(3)
    for fused, foreach, by_default, expected in (
        (None, None, False, False),
        (True, None, False, True),
        (None, None, True, True),
        (None, True, True, False),
        (False, None, True, False),
    ):
        monkeypatch.setattr(gpu, "ON_BY_DEFAULT", by_default)
        options = functional.StepOptions(fused=fused, foreach=foreach)
        assert _device_step.wanted(param, options) is expected
    monkeypatch.setattr(gpu, "NEVER", True)
    assert not _device_step.wanted(param, functional.StepOptions(fused=True))


def test_why_not_says_what_a_device_lacks():
    if not torch.cuda.is_available():
        assert kernels.why_not("cuda") in ("there is no CUDA device", "Triton is not installed")
    assert kernels.why_not("mps") == "there are none for mps"
