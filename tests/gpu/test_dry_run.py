"""The whole of ``tests/gpu/run`` on the CPU, from a copy of the repository on a machine without packages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PARTS = ("tests", "step", "packs", "vgg", "mlp")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A copy of the repository; Python processes started from here see torch, pytest and their needs only."""
    site, copy = tmp_path / "site", tmp_path / "copy"
    site.mkdir()
    shutil.copy(HERE / "bare_machine.py", site / "sitecustomize.py")
    for name in ("hypergrad", "study", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for variable in (
        "PYTEST_ADDOPTS",
        "PYTEST_XDIST_WORKER",
        "HYPERGRAD_STUDY_CACHE",
        "HYPERGRAD_STUDY_DATA",
    ):
        monkeypatch.delenv(variable, raising=False)
    return copy


@pytest.mark.timeout(600)  # 40 s of processor time, but other tests may keep the processors busy
def test_every_part_runs_on_a_bare_machine(bare, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, bare / "tests/gpu/run", out, "--dry", "--bundle", tmp_path / "all.tar.gz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=560, check=False)
    logs = "\n".join(path.read_text() for path in sorted(out.glob("*.log")))
    assert done.returncode == 0, done.stdout + done.stderr + logs

    import torch

    lines = done.stdout.splitlines()
    assert ["torch", torch.__version__] in [line.split() for line in lines[: lines.index("")]]
    table = [line.split() for line in lines[lines.index("part     status    seconds  limit") + 1 :]]
    assert [row[:2] for row in table[: len(PARTS)]] == [[part, "ok"] for part in PARTS]

    found = {part: json.loads((out / f"{part}.json").read_text()) for part in PARTS}
    assert all(one["finished"] for one in found.values())
    assert not [m for one in found.values() for m in one["measurements"] if "error" in m]
    (tests,) = (m for m in found["tests"]["measurements"] if m["what"] == "files")
    assert {Path(file).name for file in tests["files"]} >= {
        *("test_captured_packs.py", "test_packs.py", "test_trials.py", "test_data.py", "test_device.py")
    }
    assert tests["passed"] > 30
    steps = found["step"]["measurements"]
    assert {(m["optimizer"], m["granularity"]) for m in steps} >= {
        *(("torch adam", ""), ("adam-adam", "released"), ("sgdn-sgdn", "tensor"), ("sgd-sgd", "group"))
    }
    assert all(m["ms"] > 0 and m["x_floor"] > 0 for m in steps)
    packs = [m for m in found["packs"]["measurements"] if m["what"] == "pack"]
    assert {(m["workload"], m["captured"]) for m in packs} == {
        (name, captured) for name in ("mnist-logreg", "mnist-mlp") for captured in (True, False)
    }
    assert {m["members"] for m in packs} == {1, 3}
    assert [m["processes"] for m in found["packs"]["measurements"] if m.get("answered")] == [1, 2, 1, 2]
    vggs = [m for m in found["vgg"]["measurements"] if m["what"] == "pack"]
    assert [(m["members"], m["precision"]) for m in vggs] == [(1, "float32"), (2, "bf16")]
    assert all(m["per_s"] > 0 for m in vggs)
    for part in ("vgg", "mlp"):
        curves = [m for m in found[part]["measurements"] if m["what"] == "curve"]
        assert curves[0]["optimizer"] == "adam-adam"
        assert all(len(m["alpha"]) == len(m["val_loss"]) == 1 for m in curves)
    assert "made up" in found["vgg"]["notes"]["pictures"]
    assert "made up" in found["mlp"]["notes"]["data"]

    card = json.loads((out / "cpu.json").read_text())
    assert {name: part["results"] for name, part in card["parts"].items()} == found
    tables = subprocess.check_output(
        [sys.executable, "-m", "gpu.tables", out / "cpu.json"], cwd=bare / "tests", text=True
    )
    assert tables.count("| 10k | ") == len(steps)
    assert tables.count("| mnist-mlp | 3 | ") == 2
    with tarfile.open(tmp_path / "all.tar.gz") as bundle:
        assert {"cpu.json", "vgg.json", "vgg.log"} <= set(bundle.getnames())


TRAINS = """
import importlib.util, sys
import torch
from study.config.trial import Trial
from study.training import worker
from study.training.packed_trainer import PackTraining
from study.training.trainer import Training
from study.workloads import registry
from study.workloads.base import Data

absent = "ray mlflow optuna pydantic yaml typer rich pandas sklearn scipy pyarrow platformdirs matplotlib"
assert not [name for name in absent.split() if importlib.util.find_spec(name)]
random = torch.Generator().manual_seed(0)
inputs, targets = torch.randn(60, 784, generator=random), torch.randint(10, (60,), generator=random)
data = Data(inputs[:40], targets[:40], inputs[40:], targets[40:])
workload, cpu = registry.resolve("mnist-logreg", {}), torch.device("cpu")
trials = [Trial("mnist-logreg", "adam-adam", 1e-3, 1e-7, seed, epochs=2, batch_size=16) for seed in (0, 1)]
(one, two) = Training(trials[0], workload, data, cpu).epochs()
*_, records = PackTraining(trials, workload, data, cpu).epochs()
assert abs(records[0][1].val_loss - two.val_loss) < 1e-5
print(two.val_loss)
"""


def test_training_needs_torch_numpy_and_filelock_alone(bare):
    done = subprocess.run(
        [sys.executable, "-c", TRAINS], capture_output=True, text=True, cwd=bare, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["step"], "torch sees no CUDA device here; --dry tries the script out on the CPU"),
        (["stepp", "--dry"], "there is no part 'stepp'; parts are tests, step, packs, vgg, mlp"),
        (["--dry", "--data", "nowhere"], "--data: nowhere does not exist"),
        (["--dry", "--bundle", "nowhere/all.tar.gz"], "--bundle: "),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, said, tmp_path):
    done = subprocess.run(
        [sys.executable, HERE / "run", tmp_path / "out", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert f"error: {said}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
