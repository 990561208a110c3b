"""Parameters that are not plain real tensors, seen as such: complex ones as pairs, sharded ones as a part.

An op works element by element, so its arithmetic on the views is that on the whole; only a dot product of
sharded tensors must be summed over the ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor

PLAIN = frozenset((Tensor, torch.nn.Parameter))


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether ``view`` would return each of ``tensors`` itself."""
    if any(map(Tensor.is_complex, tensors)):
        return False
    return PLAIN.issuperset(map(type, tensors)) or not any(map(is_sharded, tensors))


def view(tensor: Tensor) -> Tensor:
    """Return a real, local view of ``tensor``: a complex one gains a last axis of size 2."""
    if is_sharded(tensor):
        tensor = tensor.to_local()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor


def sum_over_shards(products: Tensor, whole: Sequence[Tensor]) -> Tensor:
    """Sum ``products`` (T, ...) over the ranks that hold other shards of the T tensors ``whole``.

    One all-reduce per mesh axis over which any are sharded. Ranks that hold copies hold the same sum.

    Raises:
        NotImplementedError: for a tensor whose ranks hold partial sums of it.
    """
    axes: dict[tuple[DeviceMesh, int], list[int]] = {}
    for index, tensor in enumerate(whole):
        if not is_sharded(tensor):
            continue
        for axis, placement in enumerate(tensor.placements):
            if placement.is_partial():
                raise NotImplementedError(f"parameters placed as {placement} are not supported")
            if placement.is_shard():
                axes.setdefault((tensor.device_mesh, axis), []).append(index)
    for (mesh, axis), sharded in axes.items():
        part = products if len(sharded) == len(whole) else torch.stack([products[i] for i in sharded])
        torch.distributed.all_reduce(part, group=mesh.get_group(axis))
        if part is not products:
            torch._foreach_copy_([products[i] for i in sharded], list(part.unbind()))
    return products


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this rank has a part of ``tensor`` only."""
    if type(tensor) in PLAIN:
        # nn.Parameter(DTensor) is a DTensor, so these two types hold what they say.
        return False
    module = sys.modules.get("torch.distributed.tensor")  # without it there are none
    return module is not None and isinstance(tensor, module.DTensor)
