"""The device follows the study; what is recorded of it is what was in force."""

import pytest
import torch

from study.storage.study_folder import StudyFolder
from study.training import device as module
from study.training.device import (
    choose_device,
    is_broken,
    is_out_of_memory,
    keep_to_share,
    machine,
    unused_gpus,
)
from study.training.worker import WorkerOptions, run_bundle
from study.workloads import torch_settings

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("gpus", "available", "device"),
    [(0, False, CPU), (0, True, CPU), (1, True, GPU), (0.25, True, GPU), (2, True, GPU), (1, False, CPU)],
)
def test_the_device_is_what_the_study_asks_for(monkeypatch, gpus, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert choose_device(gpus) == device


@pytest.mark.parametrize(
    ("asked", "found", "words"),
    [(0, 1, "1 GPU is there"), (0, 8, "8 GPUs are there"), (0, 0, None), (1, 8, None), (0.5, 1, None)],
)
def test_gpus_that_nobody_asked_for_are_told_in_a_line(asked, found, words):
    line = unused_gpus(asked, found)
    assert (line is None) if words is None else (line.startswith(words) and "\n" not in line)


def test_gpus_of_this_process_are_counted_where_nobody_says_how_many(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert unused_gpus(0).startswith("2 GPUs")


def test_a_gpu_is_broken_if_nothing_works_on_it_and_not_if_its_memory_is_full(monkeypatch):
    raised = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: (_ for _ in ()).throw(raised[0]))
    for error, broken in (
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered", 710), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ):
        raised[:] = [error]
        assert is_broken(GPU) is broken
    assert not is_broken(CPU)


@pytest.mark.parametrize(("gpus", "fraction"), [(0.25, 0.25), (0.5, 0.5), (1, 1.0), (4, 1.0)])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch, tmp_path, gpus, fraction):
    """Asked for by a worker, before it trains."""
    limits = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *given: limits.append(given))
    keep_to_share(CPU, gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    list(run_bundle([], StudyFolder(tmp_path, "s"), WorkerOptions(gpus=gpus)))
    assert limits == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    list(run_bundle([], StudyFolder(tmp_path, "s"), WorkerOptions(gpus=gpus)))
    assert limits == [(fraction, GPU)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_says_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_cpu_allocator_says_that_memory_ran_out():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**52)
    assert is_out_of_memory(raised.value)


def test_the_precision_in_force_is_recorded():
    with torch_settings.in_force(torch_settings.kept()):
        assert machine(CPU)["precision"] == "float32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert machine(CPU)["precision"] == "float32 (bf16 in matmul)"


def test_on_a_gpu_the_versions_of_its_libraries_are_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(module, "_driver", lambda: "570.86.15")
    with torch_settings.in_force(torch_settings.kept()):
        described = machine(GPU)
    wanted = {
        "device": "A card",
        "cuda": "13.2",
        "cudnn": "91002",
        "driver": "570.86.15",
        "precision": "float32",
    }
    assert described.items() >= wanted.items()
    assert all(isinstance(value, str) for value in described.values())
    monkeypatch.setattr(module, "_driver", lambda: None)
    assert "driver" not in machine(GPU)


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs@U16)",
    ],
)
def test_the_driver_says_its_version(tmp_path, line):
    file = tmp_path / "version"
    file.write_text(f"{line}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n")
    assert module._driver(file) == "550.54.15"
    assert module._driver(tmp_path / "absent") is None
