"""The precisions that are compared: float32, TF32, and bfloat16 with channels last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from study.workloads.base import Workload


@dataclass(frozen=True)
class Precision:
    """How products and convolutions are computed.

    Args:
        name: What results call it.
        tf32: Whether float32 products and convolutions may round their factors to TF32.
        bf16: Whether the forward pass is under autocast to bfloat16, pictures and weights in channels-last.
        tuned: Whether cuDNN tries its algorithms and keeps the fastest.
    """

    name: str
    tf32: bool = False
    bf16: bool = False
    tuned: bool = False


PRECISIONS = (
    Precision("fp32"),
    Precision("tf32", tf32=True),
    Precision("tf32, tuned", tf32=True, tuned=True),
    Precision("bf16, channels last, tuned", tf32=True, bf16=True, tuned=True),
)


@contextmanager
def in_use(precision: Precision) -> Iterator[None]:
    """Set torch's switches, and put them back afterwards."""
    before = effective()
    _set(precision)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before["matmul"]
        torch.backends.cudnn.conv.fp32_precision = before["convolution"]
        torch.backends.cudnn.benchmark = before["tuned"]


def effective() -> dict[str, Any]:
    """Return torch's switches as they are."""
    return {
        "matmul": torch.backends.cuda.matmul.fp32_precision,
        "convolution": torch.backends.cudnn.conv.fp32_precision,
        "tuned": torch.backends.cudnn.benchmark,
    }


def _set(precision: Precision) -> None:
    mode = "tf32" if precision.tf32 else "ieee"
    torch.backends.cuda.matmul.fp32_precision = mode
    torch.backends.cudnn.conv.fp32_precision = mode
    torch.backends.cudnn.benchmark = precision.tuned


def adapted(workload: Workload, precision: Precision) -> Workload:
    """Return the workload with its model in the precision.

    Its ``build`` sets the switches, as a user's workload would: a trainer may keep settings per workload.
    """
    return replace(workload, build=partial(Model, workload.build, precision))


class Model(nn.Module):
    """A model in a precision; with bfloat16, weights, gradients and outputs are float32 all the same.

    Args:
        build: Makes the model.
        precision: For its forward and backward passes.
    """

    def __init__(self, build: Callable[[], nn.Module], precision: Precision) -> None:
        super().__init__()
        _set(precision)
        self.model, self._bf16 = build(), precision.bf16
        if self._bf16:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.switches: dict[str, Any] | None = None
        """Torch's switches in the first forward pass."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's outputs."""
        if self.switches is None:
            self.switches = effective()
        if not self._bf16:
            plain: Tensor = self.model(inputs)
            return plain
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs: Tensor = self.model(inputs.contiguous(memory_format=torch.channels_last))
        return outputs.float()
