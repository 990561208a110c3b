"""Track on the host which step counts on a device are equal, so that a step need not read them.

Equal counts need one bias correction instead of one for each tensor. Counts that began together and have
always grown together are equal, however often a CUDA graph has replayed their steps. So each count has a
token, and counts with the same token are equal. A step gives new tokens to the counts that it moves: those
that shared a token share the new one. A count without a token may have any value.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_FRESH = object()
_TOKENS: dict[int, tuple[weakref.ref[Tensor], Any]] = {}
"""A tensor and its token, by the tensor's id. A new tensor may get the id of one that was deleted."""


def _give(step: Tensor, token: object) -> None:
    key = id(step)
    known = _TOKENS.get(key)
    if known is None or known[0]() is not step:
        known = (weakref.ref(step, lambda _: _TOKENS.pop(key, None)), None)
    _TOKENS[key] = (known[0], token)


def _token(step: Tensor) -> Any:
    reference, token = _TOKENS.get(id(step), (None, None))
    return token if reference is not None and reference() is step else None


def on_host(step: Tensor) -> bool:
    """Return whether the host may read a count without waiting for a device."""
    return step.is_cpu


def begin(step: Tensor) -> None:
    """Note that a count is 0."""
    if not torch.compiler.is_compiling() and not on_host(step):
        _give(step, _FRESH)


def load(steps: Sequence[Tensor]) -> None:
    """Read the counts, which waits for their device, and note which are equal."""
    if all(on_host(step) or step.is_meta for step in steps):
        return
    tokens: dict[float, object] = {}
    for step in steps:
        _give(step, tokens.setdefault(float(step), object()))


def grow(steps: Sequence[Tensor]) -> None:
    """Add 1 to the counts."""
    torch._foreach_add_(list(steps), 1)
    note_growth(steps)


def note_growth(steps: Sequence[Tensor]) -> None:
    """Note that the counts have grown by 1."""
    if torch.compiler.is_compiling():
        _forget()  # compiled steps run without noting their growth
        return
    if on_host(steps[0]):
        return
    after: dict[int, object] = {}
    for step in steps:
        token = _token(step)
        if token is not None:
            _give(step, after.setdefault(id(token), object()))


def are_equal(steps: Sequence[Tensor]) -> bool:
    """Return whether the host knows that the counts are equal."""
    if torch.compiler.is_compiling():
        return False
    first = _token(steps[0])
    return first is not None and all(_token(step) is first for step in steps)


def _forget() -> None:
    _TOKENS.clear()


_forget._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compile calls, not traces it
