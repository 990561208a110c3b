"""The precision of a trial: float32, TF32, or autocast to bfloat16. Needs torch only.

Parameters, their gradients, the loss, α, h and the optimizer's state are always float32.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from study.config.trial import BF16, TF32
from study.workloads import torch_settings
from study.workloads.torch_settings import Changes


def settings(precision: str, device: torch.device, *owners: object) -> Changes:
    """Return torch's settings for a trial; settings that the code of ``owners`` has changed take precedence.

    On a GPU cuDNN tries its algorithms for each shape and keeps the fastest.

    Args:
        precision: The trial's precision, one of ``study.config.trial.PRECISIONS``.
        device: The device on which it trains.
        owners: As for ``torch_settings.kept``.
    """
    base = dict(torch_settings.TF32 if precision == TF32 else torch_settings.FLOAT32)
    if device.type == "cuda":
        base |= torch_settings.AUTOTUNED
    return base | torch_settings.changed(*owners)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for a forward pass."""
    if precision != BF16:
        return nullcontext()
    # Every weight is used once in a pass, and a cache could not be captured in a CUDA graph.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def run(precision: str, model: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the outputs of a model, converted for a loss in float32.

    Args:
        precision: The trial's precision.
        model: The model, a function from inputs to outputs.
        inputs: A batch, as the model takes it.
    """
    if uses_channels_last(precision, inputs):
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    with autocast(precision, inputs.device):
        outputs = model(inputs)
    return for_loss(outputs)


def for_loss(outputs: Tensor) -> Tensor:
    """Return ``outputs``, converted to float32 if they come from autocast."""
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


def uses_channels_last(precision: str, inputs: Tensor) -> bool:
    """Return whether the model gets pictures with their channels last in memory.

    Tensor cores, which compute TF32 and bfloat16, read this layout; cuDNN would transpose others by itself.
    """
    return inputs.device.type == "cuda" and inputs.ndim == 4 and precision in (TF32, BF16)


def describe(precision: str, device: torch.device) -> str:
    """Return a description of how a trial computes on ``device`` with the settings now in force."""
    rest = torch_settings.describe_precision(device)
    return f"bfloat16 autocast, {rest} else" if precision == BF16 else rest
