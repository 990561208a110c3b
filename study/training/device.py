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
    """A GPU can no longer be used by this process, as after a failed assertion on it; a new process can."""


def choose_device(gpus: float) -> torch.device:
    """Return the device to train on.

    The device follows what the study asks for and not what is there: without that, all workers of a machine
    would share its first GPU unasked, and results would no longer repeat to the bit. Of those asked for, Ray
    makes only the GPUs visible that it has assigned to the worker, so the first is the assigned one.

    Args:
        gpus: the worker's share of a GPU; 0 is the CPU, whatever GPUs are visible.
    """
    if gpus > 0 and torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("cpu")


def gpu_share(gpus: float) -> float:
    """Return the part of a GPU's memory that a process may take, from its share of GPUs, up to the whole."""
    return min(1.0, gpus)


def keep_to_share(device: torch.device, gpus: float) -> None:
    """Let this process allocate no more of its GPU's memory than its share; more runs out of memory.

    A share counts what torch allocates. The context of CUDA, some hundred MB for each process, comes on top.

    Args:
        device: where the process trains; nothing is done for a CPU.
        gpus: its share of a GPU.
    """
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(gpu_share(gpus), device)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that the memory of a GPU or of the machine did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # cuDNN, cuBLAS and the CPU's allocator raise errors of no type of their own.
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in said for words in _OUT_OF_MEMORY)


def unused_gpus(asked: float, found: float | None = None) -> str | None:
    """Return one line that says that a study trains on CPUs beside GPUs; None if it does not.

    Args:
        asked: GPUs that each worker of the study is given.
        found: GPUs of the cluster; None for those that this process sees.
    """
    count = torch.cuda.device_count() if found is None else found
    if asked > 0 or count <= 0:
        return None
    there = "1 GPU is" if count == 1 else f"{count:g} GPUs are"
    return f"{there} there but the study asks for none and trains on CPUs; ask with resources: {{gpus: 1}}"


def is_repeatable(device: torch.device) -> bool:
    """Return whether training twice on ``device`` gives the same bits; cuDNN and atomics promise nothing."""
    return device.type == "cpu"


def is_broken(device: torch.device) -> bool:
    """Return whether ``device`` fails at all that this process asks of it.

    A failed assertion in a kernel, as of a label out of range, leaves a GPU in that state.
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
        device: where it trains.
        precision: the trial's.
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
    """Return the version of NVIDIA's driver; None where it does not say."""
    try:
        found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", path.read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None
