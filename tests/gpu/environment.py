"""What this machine has: ``python -m gpu.environment`` prints it as JSON.

The runner asks a process of its own, since CUDA may hang.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NEEDED = {
    "torch": "every part",
    "numpy": "every part",
    "filelock": "every part",
    "pytest": "the part tests",
    "hypothesis": "the part tests",
    "pytest_timeout": "a time limit for each test",
    "PIL": "the pictures of the part vgg",
    "triton": "torch.compile on the GPU, in the part tests",
}
"""Import names, and what goes without them."""
PACKAGES = {"PIL": "pillow", "pytest_timeout": "pytest-timeout"}
"""What to install for an import name, where the two differ."""


def describe() -> dict[str, Any]:
    """Return the card, the driver and the versions, as far as they can be found out."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "missing": [name for name in NEEDED if importlib.util.find_spec(name) is None],
        "driver": _driver(),
        "card": None,
    }
    if "torch" in found["missing"]:
        return found
    import torch

    found |= {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "triton": _version("triton"),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "card": properties.name,
            "memory_gb": properties.total_memory / 1e9,
            "capability": f"{properties.major}.{properties.minor}",
            "processors": properties.multi_processor_count,
            "copy_gb_per_s": copy_bandwidth(),
        }
    return found


def copy_bandwidth() -> float:
    """Return the GB/s of a copy on the device, bytes read plus bytes written: the ceiling of the step."""
    import torch

    from gpu.harness import milliseconds

    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    taken = milliseconds(lambda: target.copy_(source), source.device, turns=5)
    return 2 * source.nbytes / taken / 1e6


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
            return said.split()[0]
        except (OSError, subprocess.SubprocessError, IndexError):
            pass
    file = Path("/proc/driver/nvidia/version")
    return file.read_text().splitlines()[0] if file.exists() else None


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


class UnusableError(RuntimeError):
    """The machine's packages or its GPU are unusable; the message says why."""


def find(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return :func:`describe` from a process with these environment variables.

    Raises:
        UnusableError: The process failed, or did not answer within a minute.
    """
    command = [sys.executable, "-m", "gpu.environment"]
    try:
        found = subprocess.run(
            command, env=dict(variables), capture_output=True, text=True, timeout=60, check=True
        )
    except subprocess.TimeoutExpired:
        raise UnusableError("the GPU did not answer within 60 s") from None
    except subprocess.CalledProcessError as error:
        raise UnusableError(f"torch or its GPU is unusable here:\n{error.stderr[-2000:]}") from None
    described: dict[str, Any] = json.loads(found.stdout)
    return described


def show(found: Mapping[str, Any]) -> None:
    """Print what a machine has, and what each missing package is needed for."""
    for name, value in found.items():
        if name != "missing":
            print(f"{name:<14} {round(value, 1) if isinstance(value, float) else value}")
    for name in found["missing"]:
        print(f"{PACKAGES.get(name, name)} is missing, needed for {NEEDED[name]}")
    if found["missing"]:
        print("tests/gpu/README.md says how missing packages can come along as wheels")
    sys.stdout.flush()


if __name__ == "__main__":
    json.dump(describe(), sys.stdout)
