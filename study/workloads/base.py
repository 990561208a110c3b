'''A workload: data, a model, a loss, and how to prepare a batch for the model.

A workload of your own is a function that returns a ``Workload``. This is a complete one, in a file
``spirals.py`` of the folder that the study is started from::

    import math
    from pathlib import Path

    import torch
    from torch import nn

    from study.workloads.base import Data, Workload


    def load(folder: Path) -> Data:
        """Two interleaved spirals of 1000 points each, made up: nothing is read from the folder."""
        random = torch.Generator().manual_seed(0)
        targets = torch.arange(2000) % 2
        angle = 4 * math.pi * torch.rand(2000, generator=random).sqrt()
        turned = angle + math.pi * targets
        inputs = torch.stack([angle * turned.cos(), angle * turned.sin()], dim=1) / 6
        inputs += 0.02 * torch.randn(inputs.shape, generator=random)
        return Data(inputs[:1600], targets[:1600], inputs[1600:], targets[1600:])


    def jitter(inputs: torch.Tensor, random: torch.Generator | None) -> torch.Tensor:
        """Move every training point a little; evaluate on the points as they are."""
        if random is None:
            return inputs
        noise = torch.randn(inputs.shape, generator=random, device=random.device)
        return inputs + 0.01 * noise.to(inputs.device, non_blocking=True)


    def spirals(hidden: int = 32) -> Workload:
        def build() -> nn.Module:
            return nn.Sequential(nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, 2))

        return Workload("spirals", load, build, prepare=jitter)

A study then names it ``spirals:spirals``, and may give ``hidden`` another value as an argument of the
workload. ``load`` need not care about devices or about other trials: ``study.workloads.datasets.load``
calls it once per process, in one process of a machine at a time, and moves the result to the device.
Settings of torch that this code changes, such as the default dtype, are in force for this workload alone;
see ``study.workloads.torch_settings``.'''

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Data", "Workload"]


@dataclass(frozen=True, eq=False)
class Data:
    """Training and validation data as whole tensors: row i of the inputs belongs to row i of the targets.

    Inputs have shape (n, ...) and any dtype that ``Workload.prepare``, or without it the model, takes;
    targets have shape (n, ...) as ``Workload.loss`` takes them: int64 of shape (n,) for classes, a
    floating-point dtype for a regression.

    Raises:
        ValueError: Inputs and targets differ in length, or there are none.
    """

    train_inputs: Tensor
    train_targets: Tensor
    val_inputs: Tensor
    val_targets: Tensor

    def __post_init__(self) -> None:
        for split in ("train", "val"):
            inputs, targets = len(getattr(self, f"{split}_inputs")), len(getattr(self, f"{split}_targets"))
            if inputs != targets or not inputs:
                raise ValueError(f"{split}_inputs has {inputs} rows and {split}_targets has {targets}")

    @property
    def has_classes(self) -> bool:
        """Whether the targets are classes, which are whole numbers: a regression has no accuracy."""
        return not self.val_targets.is_floating_point()

    def to(self, device: torch.device | str) -> Data:
        """Return the data on ``device``; tensors that are already there are shared, not copied."""
        return Data(
            self.train_inputs.to(device),
            self.train_targets.to(device),
            self.val_inputs.to(device),
            self.val_targets.to(device),
        )


@dataclass(frozen=True)
class Workload:
    """A model to train, its data and its loss. The module's docstring has a complete example."""

    name: str
    load: Callable[[Path], Data]
    """Reads the data, as CPU tensors, from the data folder; downloads them into it if they are not there."""
    build: Callable[[], nn.Module]
    """Returns a new model. Initial weights come from torch's global generator, which the trainer seeds."""
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    """Returns the mean loss, a 0-d tensor, for the outputs and targets of a batch."""
    prepare: Callable[[Tensor, torch.Generator | None], Tensor] | None = None
    """Returns the model's inputs for a batch of stored inputs, on the device. In training it gets a generator
    for augmentation, in evaluation None. The generator may be on the CPU for any device: draw on
    ``generator.device``. Default: the model takes the inputs as they are stored."""
    stacks: bool = False
    """Whether ``torch.func.vmap`` can run the model, so that trials train together in packs. A sequence of
    torch's usual layers packs without it, batch norm and dropout included. Set it for your own module if its
    outputs depend only on its parameters, its buffers and its inputs, and if in training only dropout layers
    draw random numbers, each called once in a forward pass. Of recurrent layers, only a GRU in one direction
    without dropout can run."""
