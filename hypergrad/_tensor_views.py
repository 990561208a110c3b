"""Real, local views of parameters that are complex or sharded.

An op works element by element, so it may work on the views. Only a dot product of sharded tensors needs a sum
over the ranks.
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
    """Return whether ``view`` would return every tensor itself."""
    if any(map(Tensor.is_complex, tensors)):
        return False
    return PLAIN.issuperset(map(type, tensors)) or not any(map(is_sharded, tensors))


def view(tensor: Tensor) -> Tensor:
    """Return a real, local view of a tensor. A complex tensor gains a last axis of size 2."""
    if is_sharded(tensor):
        tensor = tensor.to_local()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor


def sum_over_shards(products: Tensor, whole: Sequence[Tensor]) -> Tensor:
    """Sum products over the ranks that hold the other shards, with one all-reduce per mesh axis.

    Args:
        products: The products, one row per tensor, of shape (T, ...). May change in place.
        whole: The T parameters, sharded or not.

    Returns:
        The sums, in the shape of ``products``, equal on all ranks.

    Raises:
        NotImplementedError: The ranks hold partial sums of a parameter.
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
    """Return whether ``tensor`` is a ``DTensor``, of which this rank may hold a part only."""
    if type(tensor) in PLAIN:
        # nn.Parameter(DTensor) has the type DTensor, so a Parameter is a plain tensor.
        return False
    module = sys.modules.get("torch.distributed.tensor")  # until someone imports it, there are no DTensors
    return module is not None and isinstance(tensor, module.DTensor)


def lie_alike(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape keep their elements in the same order in memory."""
    return a.stride() == b.stride() or (a.is_contiguous() and b.is_contiguous())


def is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill memory without gaps, whatever the order of dimensions.

    A tensor without elements has no gaps, whatever its strides.
    """
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return tensor.numel() == 0
            expected *= size
    return True
