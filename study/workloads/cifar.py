"""VGG-16 on CIFAR-10 or on a folder of pictures, augmented on the device."""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from study.workloads import image_folder, models
from study.workloads.base import Data, Workload
from study.workloads.datasets import open_or_download

__all__ = ["cifar10_vgg16", "imagefolder_vgg16", "load_cifar10", "prepare"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per colour, for pixels from 0 to 1. The paper normalises CIFAR-10 with them."""
PADDING = 4
"""Black pixels on each side of a picture before it is cropped."""


def prepare(inputs: Tensor, generator: torch.Generator | None) -> Tensor:
    """Turn pictures, uint8 (n, 3, height, width), into normalised float32 model inputs of the same shape.

    With a generator, each picture is first flipped left to right with probability 1/2 and cropped at random
    from itself padded with 4 black pixels on each side: in distribution, torchvision's
    ``RandomHorizontalFlip`` and ``RandomCrop(size, padding=4)``. Nothing waits for the device.
    """
    if generator is not None:
        inputs = _flip_and_crop(inputs, generator)
    scale, shift = _normalisation(inputs.device)
    return torch.addcmul(shift, inputs.to(torch.float32), scale)


def _flip_and_crop(inputs: Tensor, generator: torch.Generator) -> Tensor:
    n, colours, height, width = inputs.shape
    offsets = 2 * PADDING + 1
    # One draw per picture selects one of its 2 · 9 · 9 equally likely outcomes.
    outcome = torch.randint(2 * offsets**2, (n, 1), generator=generator, device=generator.device)
    outcome = outcome.to(inputs.device, non_blocking=True)
    flip, down, right = outcome % 2, outcome // 2 % offsets, outcome // 2 // offsets

    column = torch.arange(width, device=inputs.device)
    rows = down + torch.arange(height, device=inputs.device)
    columns = right + torch.where(flip == 1, width - 1 - column, column)
    source = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    padded = F.pad(inputs, (PADDING,) * 4).flatten(2)
    return padded.gather(2, source.view(n, 1, -1).expand(-1, colours, -1)).view_as(inputs)


@lru_cache
def _normalisation(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (scale, shift), once per device, with pixel · scale + shift = (pixel/255 − mean)/std."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (1 / (255 * std)).to(device, torch.float32), (-mean / std).to(device, torch.float32)


def load_cifar10(folder: Path) -> Data:
    """Return CIFAR-10 as uint8 inputs (50000, 3, 32, 32) and (10000, 3, 32, 32); validation is its test set.

    It reads ``cifar-10-batches-py`` in ``folder``, torchvision's layout.

    Raises:
        DataError: The files are not there and cannot be downloaded.
    """
    from torchvision.datasets import CIFAR10

    splits = open_or_download(
        lambda root, download: [CIFAR10(root, train=train, download=download) for train in (True, False)],
        folder,
        what="CIFAR-10",
        files=CIFAR10.base_folder,
        source=CIFAR10.url,
    )
    inputs = [torch.from_numpy(np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))) for split in splits]
    targets = [torch.tensor(split.targets) for split in splits]
    return Data(inputs[0], targets[0], inputs[1], targets[1])


def cifar10_vgg16() -> Workload:
    """Return VGG-16 with batch normalisation on CIFAR-10: 15,253,578 parameters."""
    return Workload("cifar10-vgg16", load_cifar10, partial(models.vgg16, 10), prepare=prepare)


def imagefolder_vgg16(path: str, classes: int = 10, size: int = 32) -> Workload:
    """Return VGG-16 with batch normalisation on a folder of pictures, see ``image_folder.load``.

    Args:
        path: The folder, absolute or relative to the data folder.
        classes: Number of class folders in it; at least 2.
        size: Height and width to which pictures are resized, in pixels; at least 32.

    Raises:
        ValueError: ``path``, ``classes`` or ``size`` is not of that kind.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(f"path must name a folder of pictures, got {path!r}")
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes must be a whole number from 2, got {classes!r}")
    if not isinstance(size, int) or size < 32:
        raise ValueError(f"size must be a whole number from 32, got {size!r}")
    return Workload(
        "imagefolder-vgg16",
        partial(image_folder.load, path=path, classes=classes, size=size),
        partial(models.vgg16, classes, size),
        prepare=prepare,
    )
