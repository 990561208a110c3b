"""The optimizers work in other frameworks: the examples run there, and α is learned and not overwritten."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
START = 1e-3
"""α₀, the default of ``hypergrad.AdamW``."""


def run(name: str, folder: Path, *needs: str, **environment: str) -> str:
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}; make test-examples installs them")
    path, *arguments = name.split()
    out = subprocess.run(
        [sys.executable, ROOT / "examples" / path, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert out.returncode == 0, out.stderr
    return out.stdout


def number(pattern: str, text: str) -> float:
    return float(re.findall(rf"{pattern}\D*?(\d[\d.e-]*)", text)[-1])


def test_lightning(tmp_path):
    out = run("lightning_classifier.py", tmp_path, "lightning")
    assert number("'train_loss'", out) < 0.3
    assert number("'alpha'", out) > 3 * START


def test_the_trainer_of_hugging_face(tmp_path):
    out = run("hugging_face_trainer.py", tmp_path, "transformers", "accelerate")
    assert number("'loss'", out) < 0.3
    assert number("'learning_rate'", out) < 0.1  # the schedule's factor at the end
    assert number("alpha", out) > 3 * START


def test_accelerate(tmp_path):
    out = run("accelerate_loop.py", tmp_path, "accelerate")
    assert number("epoch 4  loss", out) < 0.3
    assert number("alpha", out) > 3 * START


def test_tensorboard(tmp_path):
    run("log_alpha.py", tmp_path, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs-tensorboard"))
    events.Reload()
    alphas = [event.value for event in events.Scalars("alpha")]
    assert [event.step for event in events.Scalars("hypergradient")] == list(range(0, 100, 10))
    assert alphas[-1] > 3 * START


def test_weights_and_biases(tmp_path):
    run("log_alpha.py wandb", tmp_path, "wandb", WANDB_MODE="offline")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
