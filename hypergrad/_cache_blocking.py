"""Cache blocking for elementwise work on large CPU tensors.

If a sequence of operations works chunk by chunk, each operation finds its chunk in the cache, where the one
before left it.
No operation here sums, so the bits are the same as without chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 18
"""Elements per chunk. A handful of chunks fit into the cache that the cores share."""

State = dict[str, Tensor]


def chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield ``tensors``, all of one shape. Yield large ones as flat views, chunk by chunk."""
    large = tensors[0].is_cpu and tensors[0].numel() > CHUNK and not torch.compiler.is_compiling()
    if large and all(tensor.is_contiguous() for tensor in tensors):
        yield from zip(*(tensor.view(-1).split(CHUNK) for tensor in tensors), strict=True)
    else:
        yield tensors


def step_chunks(
    params: Sequence[Tensor], grads: Sequence[Tensor], states: Sequence[State]
) -> Iterator[tuple[list[Tensor], list[Tensor], list[State]]]:
    """Yield the parameters, gradients and states of a step, those of a single tensor chunk by chunk.

    Each chunk's update increments the step count, such as Adam's ``step``. So only the first chunk has the
    tensor's own count, and the others have copies.
    """
    if len(params) > 1:
        yield list(params), list(grads), list(states)
        return
    param, grad, state = params[0], grads[0], states[0]
    names = [name for name, value in state.items() if value.shape == param.shape]
    counts = {name: value for name, value in state.items() if name not in names}
    before: State | None = None
    for theta, g, *own in chunks(param, grad, *(state[name] for name in names)):
        if theta is param:
            yield [param], [grad], [state]
            return
        if before is None:
            before = {name: value.clone() for name, value in counts.items()}
        else:
            counts = {name: value.clone() for name, value in before.items()}
        yield [theta], [g], [dict(zip(names, own, strict=True)) | counts]
