"""What several test files share. Imports no more than the tests marked ``gpu`` need, on a bare machine."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from study.config.study import Study

# Before torch is imported, here and in processes that tests start. The products here are too small for two
# threads, which wait for each other many times as long as they compute when tests share the processor.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hypothesis would fail an example for being slow; how fast things are is the benchmarks' affair.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

CHROMIUM = shutil.which("chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that start a Ray first: they are the longest, and a last one leaves a process idle."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory, monkeypatch):
    """No test reads or writes the runs, caches or tracking server of whoever runs the tests."""
    for variable in ("HYPERGRAD_STUDY_RUNS", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.setenv(variable, "")  # so that what the code under test sets goes at the end, too
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HYPERGRAD_STUDY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HYPERGRAD_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))


@pytest.fixture(autouse=True)
def _own_modules(tmp_path_factory):
    """No test sees a module that another one wrote, nor a workload made from it."""
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(written):
            del sys.modules[name]
    if registry := sys.modules.get("study.workloads.registry"):
        for key in list(registry._resolved):
            if ":" in json.loads(key)[0]:
                del registry._resolved[key]


@pytest.fixture
def write_study(tmp_path):
    """A function that writes a study file from keyword overrides of a small good one, and loads it."""

    def write(**overrides) -> tuple[Study, Path]:
        import yaml

        from study.config.loader import load_study

        content = {
            "name": "small",
            "description": "A small study",
            "workloads": ["digits-logreg"],
            "optimizers": ["sgd", "sgd-sgd", "adam-adam"],
            "alpha0": [0.01],
            "beta": {"sgd": 1e-3, "adam": 1e-5},
            "seeds": 2,
            "epochs": 2,
            "threshold": 2.0,
            **overrides,
        }
        path = tmp_path / f"{content['name']}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return load_study(path), path

    return write


@pytest.fixture
def searched(write_study):
    """A function that writes and loads a small search; one keyword per key, ``search``'s own go into it."""
    settings = {
        "search": "optuna",
        "alpha0": {"low": 1e-4, "high": 1.0},
        "beta": {"sgd": {"low": 1e-6, "high": 1e-1}, "adam": 1e-5},
    }

    def write(**overrides):
        from study.config.search_section import Search

        own = {name: overrides.pop(name) for name in list(overrides) if name in Search.model_fields}
        return write_study(**{**settings, "search": {"points": 4, **own}, **overrides})[0]

    return write
