"""Undo a step whose gradients overflowed, without waiting for the device to say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def restore_if(found_inf: Tensor | None, tensors: Sequence[Tensor]) -> Iterator[None]:
    """Copy ``tensors``, and restore them at the end of the block if ``found_inf`` is not 0.

    Args:
        found_inf: A 0-d tensor. ``None`` copies and restores nothing.
        tensors: The tensors that the block changes.
    """
    if found_inf is None:
        yield
        return
    copies = [tensor.clone() for tensor in tensors]
    yield
    for tensor, copy in zip(tensors, copies, strict=True):
        tensor.copy_(torch.where(found_inf.to(tensor.device) != 0, copy, tensor))
