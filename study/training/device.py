"""The device that a process trains on, and its description in the records of trials."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import torch

from hypergrad import kernels
from study.config.trial import FLOAT32
from study.storage import provenance
from study.training.precision import describe

_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")


class BrokenDeviceError(RuntimeError):
    """This process can no longer use a GPU, for example after a failed assertion on it; a new process can."""


def choose_device(gpus: float) -> torch.device:
    """Return the device to train on.

    The device depends on the study's settings, not on the machine: otherwise all workers of a machine would
    share its first GPU unasked, and results would no longer repeat bit for bit. Ray makes only those GPUs
    visible that it has assigned to the worker, so the first is the assigned one.

    Args:
        gpus: The worker's share of a GPU; 0 is the CPU, even if GPUs are visible.
    """
    if gpus > 0 and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")


def gpu_share(gpus: float) -> float:
    """Return the part of a GPU's memory that a process may take, from its share of GPUs, up to the whole."""
    return min(1.0, gpus)


def keep_to_share(device: torch.device, gpus: float) -> None:
    """Limit the GPU memory that this process may allocate to its share; more runs out of memory.

    The share limits the memory that torch allocates. CUDA's context, some hundred MB per process, is extra.

    Args:
        device: The device on which the process trains; nothing is done for a CPU.
        gpus: The process's share of a GPU.
    """
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(gpu_share(gpus), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that a GPU or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # cuDNN, cuBLAS and the CPU's allocator raise errors without their own type.
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


def unused_gpus(asked: float, found: float | None = None) -> str | None:
    """Return a line if a study trains on CPUs although there are GPUs; otherwise None.

    Args:
        asked: GPUs per worker of the study.
        found: GPUs of the cluster. Default: those that this process sees.
    """
    count = torch.cuda.device_count() if found is None else found
    if asked > 0 or count <= 0:
        return None
    there = "1 GPU is" if count == 1 else f"{count:g} GPUs are"
    return f"{there} there but the study asks for none and trains on CPUs; ask with resources: {{gpus: 1}}"


def is_repeatable(device: torch.device) -> bool:
    """Return whether training twice on ``device`` gives the same bits, which cuDNN does not promise."""
    return device.type == "cpu"


def is_broken(device: torch.device) -> bool:
    """Return whether everything that this process runs on ``device`` fails.

    A failed assertion in a kernel, for example for a label out of range, leaves a GPU in that state.
    """
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False


def machine(device: torch.device, precision: str = FLOAT32) -> dict[str, str]:
    """Return the versions, the device and the precision that a trial trains with, as it records them.

    Args:
        device: The device on which the trial trains.
        precision: The trial's precision, one of ``study.config.trial.PRECISIONS``.
    """
    on_gpu = device.type == "cuda"
    described = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hypergrad-study": provenance.release(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "precision": describe(precision, device),
    }
    if on_gpu:
        gpu = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": _driver()}
        described |= {name: str(value) for name, value in gpu.items() if value is not None}
        if torch.backends.cudnn.benchmark:
            described["cudnn autotuning"] = "on"
    else:
        described["kernels"] = "compiled" if kernels.available() else "none"
    return described | ({"commit": commit} if (commit := provenance.commit()) else {})


@cache
def _driver(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return the version of NVIDIA's driver; None if the system does not show it."""
    try:
        found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None
