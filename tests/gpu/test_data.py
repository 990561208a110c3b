"""Data and augmentation on the GPU."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from study.workloads import cifar, datasets
from study.workloads.base import Workload

from .problems import clusters

pytestmark = pytest.mark.gpu


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randint(256, (64, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def outcomes(picture: torch.Tensor) -> set[bytes]:
    """Return what a picture can become: flipped or not, cropped from itself with four black pixels around."""
    both = [F.pad(one, (4,) * 4) for one in (picture, picture.flip(-1))]
    return {
        padded[:, down : down + 32, right : right + 32].contiguous().numpy().tobytes()
        for padded in both
        for down in range(9)
        for right in range(9)
    }


def as_pixels(prepared: torch.Tensor) -> torch.Tensor:
    """Return pixels from 0 to 255 of normalised pictures."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (cifar.MEAN, cifar.STD))
    return ((prepared.cpu() * std + mean) * 255).round().to(torch.uint8)


@pytest.mark.parametrize("drawn_on", ["cpu", "device"])
def test_augmentation_of_data_flips_and_crops_without_waiting(drawn_on, pictures, device):
    inputs = pictures.to(device)
    random = torch.Generator(device if drawn_on == "device" else "cpu").manual_seed(0)
    cifar.prepare(inputs, random)  # the constants are made
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        made = cifar.prepare(inputs, random)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert made.device == inputs.device
    changed = 0
    for picture, one in zip(pictures, as_pixels(made), strict=True):
        assert one.numpy().tobytes() in outcomes(picture)
        changed += not torch.equal(one, picture)
    assert changed > 32


def test_augmentation_of_data_on_the_gpu_is_that_on_the_cpu(pictures, device):
    """With a generator on the CPU the draws are the same."""
    here, there = (
        cifar.prepare(inputs, torch.Generator().manual_seed(5)) for inputs in (pictures, pictures.to(device))
    )
    torch.testing.assert_close(there.cpu(), here)
    torch.testing.assert_close(cifar.prepare(pictures.to(device), None).cpu(), cifar.prepare(pictures, None))


def test_data_are_loaded_onto_the_device_once(device, tmp_path):
    calls = []

    def load(folder):
        calls.append(folder)
        return clusters(torch.float32)

    work = Workload("clusters", load, torch.nn.Identity)
    first = datasets.load(work, tmp_path, device)
    assert datasets.load(work, tmp_path, device.type) is first
    assert first.train_inputs.device == device
    assert len(calls) == 1
