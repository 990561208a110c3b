"""What a workload sets for the whole process is in force for that workload alone."""

import os
import random
import textwrap

import numpy as np
import pytest
import torch

from study.workloads import datasets, registry, torch_settings
from study.workloads.torch_settings import in_force, keeping, kept

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _unchanged(monkeypatch):
    """Every test leaves the process as it found it."""
    monkeypatch.chdir(os.getcwd())
    before = torch_settings._read()
    yield
    monkeypatch.undo()
    after = torch_settings._read()
    torch_settings._write(before, after)
    assert before == after


CHANGES = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": 'torch.set_default_device("meta")',
    "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "gradients": "torch.set_grad_enabled(False)",
    "deterministic": "torch.use_deterministic_algorithms(True, warn_only=True)",
    "anomalies": "torch.autograd.set_detect_anomaly(True)",
    "cudnn": "torch.backends.cudnn.benchmark = True",
    "matmul": "torch.set_float32_matmul_precision('medium')",
    "matmul, older": "torch.backends.cuda.matmul.allow_tf32 = True",
    "matmul, newer": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "convolutions": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "convolutions, older": "torch.backends.cudnn.allow_tf32 = True",
    "working folder": "os.chdir('/')",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_put_back_and_is_there_again_the_next_time(change):
    changes = kept()
    before = torch_settings._read()
    with in_force(changes):
        clean = torch_settings._read()
        exec(change)
        changed = torch_settings._read()
    assert torch_settings._read() == before
    assert changed != clean
    with in_force(changes):
        assert torch_settings._read() == changed
    with in_force(kept()):
        assert torch_settings._read() == clean
    assert torch_settings._read() == before


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_put_back_after_an_exception(change):
    before = torch_settings._read()
    with pytest.raises(ZeroDivisionError), in_force(kept()):
        exec(f"{change}; 1 / 0")
    assert torch_settings._read() == before


def test_both_of_torchs_ways_to_ask_for_the_precision_answer():
    """torch raises where they contradict each other, as in ``torch.backends.cudnn.flags``."""
    ways = [
        lambda: torch.backends.cudnn.allow_tf32,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.get_float32_matmul_precision(),
    ]
    before = [way() for way in ways]
    changes = kept()
    with in_force(changes):
        assert [way() for way in ways] == [False, False, "highest"]
        with torch.backends.cudnn.flags(enabled=False):
            pass
    with in_force(changes):
        torch.set_float32_matmul_precision("high")
    assert [way() for way in ways] == before


def test_the_precision_is_described_for_the_device_in_use():
    cuda = torch.device("cuda", 0)
    changes = kept()
    with in_force(changes):
        assert torch_settings.describe_precision(cuda) == "float32"
        torch.backends.cudnn.allow_tf32 = True
        assert torch_settings.describe_precision(cuda) == "float32 (tf32 in convolution, tf32 in rnn)"
        assert torch_settings.describe_precision(CPU) == "float32"
    with in_force(kept()):
        torch.set_float32_matmul_precision("high")
        assert torch_settings.describe_precision(cuda) == "float32 (tf32 in matmul)"


def test_random_generators_are_put_back():
    def draws():
        return torch.rand(1).item(), np.random.rand(), random.random()

    before = [*torch.get_rng_state().tolist(), *np.random.get_state()[1], *random.getstate()[1]]
    with keeping("some module"):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        draws()
    after = [*torch.get_rng_state().tolist(), *np.random.get_state()[1], *random.getstate()[1]]
    assert after == before


@pytest.fixture
def write(tmp_path, monkeypatch):
    """A function that writes a module of a user's into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, **statements):
        lines = dict.fromkeys(("top", "load", "build", "work"), "pass") | statements
        (tmp_path / f"{name}.py").write_text(
            textwrap.dedent("""
            import torch
            from torch import nn
            from study.workloads.base import Data, Workload
            {top}
            def load(folder):
                {load}
                inputs = torch.randn(90, 4)
                return Data(inputs[:60], torch.arange(60) % 3, inputs[60:], torch.arange(30) % 3)
            def build():
                {build}
                return nn.Linear(4, 3)
            def work():
                {work}
                return Workload("w", load, build)
            def other():
                return Workload("o", load, build)
            """).format(**lines)
        )
        return f"{name}:work"

    return write


@pytest.mark.parametrize("place", ["top", "load", "work"])
def test_a_workload_finds_what_its_code_set_earlier_and_another_does_not(write, place):
    name = write(f"sets_in_{place}", **{place: "torch.set_default_dtype(torch.float64)"})
    workload = registry.resolve(name, {})
    data = datasets.load(workload, None, CPU)
    assert data.train_inputs.dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32
    with in_force(kept(workload, workload.load)):
        assert workload.build().weight.dtype == torch.float64
    other = registry.resolve(write("sets_nothing_beside_" + place), {})
    assert datasets.load(other, None, CPU).train_inputs.dtype == torch.float32
    with in_force(kept(other, other.load)):
        assert other.build().weight.dtype == torch.float32


@pytest.mark.parametrize(("place", "shared"), [("top", True), ("load", True), ("work", False)])
def test_workloads_of_one_module_share_what_its_import_and_their_load_set(write, place, shared):
    """Where the data are loaded once for both, what loading them set is in force for the second, too."""
    module, _, function = write(
        f"shares_{place}", **{place: "torch.set_default_dtype(torch.float64)"}
    ).partition(":")
    for each in (function, "other"):
        workload = registry.resolve(f"{module}:{each}", {})
        data = datasets.load(workload, None, CPU)
    with in_force(kept(workload, workload.load)):
        assert workload.build().weight.dtype == data.train_inputs.dtype
    assert (data.train_inputs.dtype == torch.float64) == shared


def test_a_removed_working_folder_is_no_error(tmp_path, monkeypatch):
    here = os.getcwd()
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    try:
        with in_force(kept()):
            pass
    finally:
        os.chdir(here)
