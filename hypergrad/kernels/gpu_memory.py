"""Memory on a GPU that outlives a step: the layout of a group's tensors, and copies of numbers from the host.

Copies do not wait for the device. A CUDA graph that captures a copy repeats it in every replay, so its source
must live as long as the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypergrad.kernels import gpu


class Layout(NamedTuple):
    """The division of rows into tiles, and memory for sums: the same for every step of the same tensors.

    Attributes:
        tiles: The row of each tile, as int32.
        starts: The first tile of each row, then the number of tiles, as int32.
        sizes: The number of elements of each row, of one member, as int64.
        row_of: The row of each of the T tensors, or −1 for none; then ``places``; as int32.
        places: The index of each row's tensor among the T, as int32.
        sums: The sums of each tile, of shape (columns, members, tiles), as float64.
        row_sums: The sums of each of the P rows with a gradient, of shape (columns, members, P), as float64.
            ``None`` unless the granularity is ``"released"``.
        moved: αs, the factor of the trace, and s, of shape (3, T, members), or (3, 1, members) for
            granularity ``"group"``, as float64.
        rows: The number of rows.
        present: The number P of rows with a gradient, which come first.
        total: The number T of the group's tensors.
        tile_count: The number of tiles.
        elements: The number of elements of the P rows with a gradient, of one member.
    """

    tiles: Tensor
    starts: Tensor
    sizes: Tensor
    row_of: Tensor
    places: Tensor
    sums: Tensor
    row_sums: Tensor | None
    moved: Tensor
    rows: int
    present: int
    total: int
    tile_count: int
    elements: int


def new_layout(
    sizes: Sequence[int],
    present: int,
    places: Sequence[int],
    total: int,
    spec: gpu.Spec,
    tile: int,
    device: torch.device,
) -> Layout:
    """Divide a group's rows into tiles, and allocate the memory for sums on the device.

    Args:
        sizes: The number of elements of each row, of one member; those of the rows with a gradient first.
        present: The number of rows with a gradient.
        places: The index of each row's tensor among the group's T.
        total: The number T of the group's tensors.
        spec: The settings of the step.
        tile: The number of elements of a tile.
        device: The device of the tensors.
    """
    members, columns = spec.members or 1, spec.columns
    counts = [-(-size // tile) for size in sizes]
    starts, row_of = [0], [-1] * total
    for row, (count, place) in enumerate(zip(counts, places, strict=True)):
        starts.append(starts[-1] + count)
        row_of[place] = row
    rows = torch.arange(len(sizes), device="cpu")
    tiles = torch.repeat_interleave(rows, torch.tensor(counts, device="cpu"))

    def sent(values: Sequence[int] | Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
        return _sent(torch.as_tensor(values, dtype=dtype, device="cpu"), device)[0]

    def new(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=device)

    return Layout(
        tiles=sent(tiles),
        starts=sent(starts),
        sizes=sent(sizes, torch.int64),
        row_of=sent([*row_of, *places]),
        places=sent(places),
        sums=new(columns, members, max(1, starts[-1])),
        row_sums=new(columns, members, present) if spec.granularity == "released" else None,
        moved=new(3, 1 if spec.granularity == "group" else total, members),
        rows=len(sizes),
        present=present,
        total=total,
        tile_count=starts[-1],
        elements=sum(sizes[:present]),
    )


class Upload:
    """A copy of numbers on a device, renewed only if they have changed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._values: list[float] | None = None
        self._there: Tensor | None = None
        self._captured: list[tuple[Tensor, Tensor]] = []

    def on(self, device: torch.device, values: Sequence[float]) -> Tensor:
        """Return ``values`` as a tensor on ``device``."""
        values, there = list(values), self._there
        if is_capturing(device):
            # A replay copies them again: keep the copy and its source, and let no later step write to them.
            sent = _sent(torch.tensor(values, dtype=self._dtype, device="cpu"), device)
            self._captured.append(sent)
            return sent[0]
        if there is None or there.device != device or len(there) != len(values):
            host = torch.tensor(values, dtype=self._dtype, device="cpu")
            self._there = there = _sent(host, device)[0]
        elif self._values != values:
            host = torch.tensor(values, dtype=self._dtype, device="cpu")
            there.copy_(host.pin_memory() if device.type == "cuda" else host, non_blocking=True)
        self._values = values
        return there


def is_capturing(device: torch.device) -> bool:
    """Return whether a CUDA graph captures what the host launches on the device."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _sent(values: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy host values to the device without waiting. Return the copy and its source, which must live on."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True, copy=True), values
