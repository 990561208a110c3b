"""The device of the tests marked ``gpu``; a dry run takes the CPU for it, to find mistakes in the tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

DRY_VARIABLE = "HYPERGRAD_GPU_DRY"


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The GPU; in a dry run the CPU."""
    if os.environ.get(DRY_VARIABLE):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield torch.device("cpu")
        torch.set_num_threads(threads)
    elif torch.cuda.is_available():
        yield torch.device("cuda", 0)
    else:
        pytest.skip("needs a CUDA device")


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """The GPU, for what a dry run cannot do."""
    if device.type != "cuda":
        pytest.skip("needs a CUDA device, also in a dry run")
    return device
