"""The device that a process trains on, and what is recorded of it."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from hypergrad import kernels
from study.storage import provenance


def choose_device() -> torch.device:
    """Return the device to train on: the first GPU visible to this process, else the CPU.

    Ray makes only the GPUs that it assigned to a worker visible, so the first is the assigned one.
    """
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def is_repeatable(device: torch.device) -> bool:
    """Whether training twice on ``device`` gives the same bits. cuDNN and atomics promise no such thing."""
    return device.type == "cpu"


def machine(device: torch.device) -> dict[str, str]:
    """Say what trains: versions and device, as kept with every trial."""
    on_gpu = device.type == "cuda"
    said = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "hypergrad-study": version("hypergrad-study"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
    }
    if not on_gpu:
        said["kernels"] = "compiled" if kernels.available() else "none"
    return said | ({"commit": commit} if (commit := provenance.commit()) else {})
