"""The launches of one step with a learned α on a GPU, by Triton's kernels.

A step is three launches, four with granularity "released" (``triton_passes``, ``triton_alpha``). It waits for
no device, and only the first step allocates memory there. The kernels find the tensors by a table of their
addresses, which goes to the device only if one of them has changed. A step that a CUDA graph captures gets a
table of its own, which lives as long as the launcher: the graph copies it again in every replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypergrad.kernels import gpu
from hypergrad.kernels.build import UnavailableError

BLOCK = 1024
"""Elements that a program of the two passes handles at a time: 16 bytes of float32 per thread of 8 warps."""
BLOCKS = 4
"""Blocks of a tile. One program takes one tile."""
CHUNK = 1024
"""Partial sums that a program adds at a time."""
RELEASED_CHUNK = 128
"""Tensors that ``learn_released`` handles at a time, with one warp."""
LAYOUTS = 16
"""Layouts that a launcher keeps. In some models the tensors without a gradient change from step to step."""

Launch = tuple[Any, tuple[int, ...], dict[str, Any]]
"""A kernel, its grid and its arguments by name."""


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


class Launcher:
    """A launcher takes the steps of one group. It keeps tables for the next step, and no gradients."""

    def __init__(self) -> None:
        self._layouts: dict[Any, Layout] = {}
        self._captured: list[Layout] = []
        self._addresses = _Upload(torch.int64)
        self._numbers = _Upload(torch.float64)
        self._compiled: set[Any] = set()

    def renew(self, *_: Any, **__: Any) -> bool:
        """Return false: a step on a CPU cannot use this as its kernel."""
        return False

    def take(
        self,
        given: gpu.Operands,
        spec: gpu.Spec,
        numbers: Sequence[float],
        places: Sequence[int],
        total: int,
    ) -> None:
        """Take a step in place.

        Args:
            given: The tensors of the step, all on one device.
            spec: The settings of the step.
            numbers: The numbers of the step, in the order of ``triton_numbers``.
            places: The index of each row's tensor among the group's T.
            total: The number T of the group's tensors.

        Raises:
            UnavailableError: Triton cannot compile the kernels. Nothing has moved then.
        """
        grads = [
            grad if grad.stride() == param.stride() else torch.empty_like(param).copy_(grad)
            for grad, param in zip(given.grads, given.params, strict=True)
        ]
        table: list[int] = []
        for tensors in (given.params, grads, given.along, given.first, given.second, given.steps):
            column = list(map(Tensor.data_ptr, tensors))
            table += column + [0] * (len(places) - len(column))
        device = given.alpha.device
        layout = self._layout(given, spec, tuple(places), total)
        operands = {
            "addresses": self._addresses.on(device, table),
            "numbers": self._numbers.on(device, numbers),
        }
        launches = _launches(given, spec, layout, operands)
        absent = tuple(value is None for value in given)
        key = (spec, given.params[0].dtype, absent, layout.rows > layout.present)
        with torch.cuda.device_of(given.alpha):  # does nothing on the CPU
            if key not in self._compiled:
                _compile(launches, device)
                self._compiled.add(key)
            for kernel, grid, arguments in launches:
                kernel[grid](**arguments)

    def _layout(self, given: gpu.Operands, spec: gpu.Spec, places: tuple[int, ...], total: int) -> Layout:
        members, present = spec.members or 1, len(given.params)
        resting = [z.numel() for z in given.along[present:]]
        sizes = tuple(size // members for size in (*map(Tensor.numel, given.params), *resting))
        key = (sizes, present, places, total, members, spec.columns, spec.granularity, BLOCK * BLOCKS)
        layout = self._layouts.pop(key, None)
        if layout is None:
            layout = _new_layout(sizes, present, places, total, spec, given.alpha.device)
        self._layouts[key] = layout  # at the end, as the one used last
        while len(self._layouts) > LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        if _is_capturing(given.alpha.device):
            self._captured.append(layout)
        return layout


def _new_layout(
    sizes: Sequence[int],
    present: int,
    places: Sequence[int],
    total: int,
    spec: gpu.Spec,
    device: torch.device,
) -> Layout:
    members, columns = spec.members or 1, spec.columns
    counts = [-(-size // (BLOCK * BLOCKS)) for size in sizes]
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


def _launches(given: gpu.Operands, spec: gpu.Spec, layout: Layout, operands: dict[str, Any]) -> list[Launch]:
    """Return the launches of a step, in their order."""
    from hypergrad.kernels import triton_alpha, triton_passes

    members = spec.members or 1
    # Without tiles every tensor is empty, and there is nothing to sum or to move.
    tiles = (members * layout.tile_count,)
    common = {
        **operands,
        "rows": layout.rows,
        "present": layout.present,
        "members": members,
        "found_inf": given.found_inf,
        "enable_fp_fusion": True,
    }
    of_tiles = {
        "tiles": layout.tiles,
        "starts": layout.starts,
        "sizes": layout.sizes,
        "tile_count": layout.tile_count,
    }
    of_passes = {
        **common,
        **of_tiles,
        **_elementwise(given.params[0].dtype, spec),
        "places": layout.places,
        "grad_scale": given.grad_scale,
        "RESTING": layout.rows > layout.present,
        "num_warps": 8,
    }
    first: Launch = (
        triton_passes.first_pass,
        tiles,
        {**of_passes, "sums": layout.sums, "decays": given.decays, "NORMS": spec.columns > 1},
    )
    by_tensor = spec.granularity != "group"
    second: Launch = (
        triton_passes.second_pass,
        tiles,
        {
            **of_passes,
            "moved": layout.moved,
            "alphas": layout.moved.numel() // 3,
            "alpha_stride": members if by_tensor else 0,
        },
    )
    learning = {**common, **_learning(given, spec), "row_of": layout.row_of, "total": layout.total}
    learning["moved"] = layout.moved
    if spec.granularity == "released":
        between: list[Launch] = [
            (
                triton_alpha.sum_rows,
                (layout.present, members),
                {
                    "starts": layout.starts,
                    "sums": layout.sums,
                    "row_sums": layout.row_sums,
                    "present": layout.present,
                    "tile_count": max(1, layout.tile_count),
                    "members": members,
                    "COLUMNS": spec.columns,
                    "CHUNK": CHUNK,
                    "enable_fp_fusion": True,
                },
            ),
            (
                triton_alpha.learn_released,
                (members,),
                {
                    **learning,
                    "row_sums": layout.row_sums,
                    "BOUNDED": spec.bounded,
                    "CHUNK": RELEASED_CHUNK,
                    "num_warps": 1,
                },
            ),
        ]
    else:
        between = [
            (
                triton_alpha.learn,
                (layout.total if by_tensor else 1, members),
                {
                    **learning,
                    **of_tiles,
                    "sums": layout.sums,
                    "elements": layout.elements,
                    "BY_TENSOR": by_tensor,
                    "TRACED": spec.traced,
                    "NORMS": spec.columns > 1,
                    "HELD": spec.held,
                    "CHUNK": CHUNK,
                    "num_warps": 8,
                },
            )
        ]
    return [first, *between, second] if layout.tile_count else between


def _elementwise(dtype: torch.dtype, spec: gpu.Spec) -> dict[str, Any]:
    import triton.language as tl

    return {
        "OP": spec.op,
        "TRACED": spec.traced,
        "COUPLED": spec.coupled,
        "DTYPE": getattr(tl, str(dtype).removeprefix("torch.")),
        "COMPUTE": tl.float64 if dtype == torch.float64 else tl.float32,
        "BLOCK": BLOCK,
        "BLOCKS": BLOCKS,
    }


def _learning(given: gpu.Operands, spec: gpu.Spec) -> dict[str, Any]:
    states = iter(given.lop_state)
    first, second, count = (None if name is None else next(states) for name in gpu.lop_states(spec.lop))
    # Where β or s is no tensor, the kernels take it from the numbers.
    beta_stride, schedule_stride = (
        0 if value is None or not value.ndim else 1 for value in (given.beta, given.schedule)
    )
    return {
        "alpha": given.alpha,
        "h": given.h,
        "lop_first": first,
        "lop_second": second,
        "lop_count": count,
        "beta": given.beta,
        "beta_stride": beta_stride,
        "schedule": given.schedule,
        "schedule_stride": schedule_stride,
        "gains": given.gains,
        "decays": given.decays,
        "LOP": spec.lop,
        "NORMALIZE": spec.normalize,
        "MULTIPLICATIVE": spec.multiplicative,
        "REMEMBER": spec.remember,
        "COUNTED": spec.op == "adam",
    }


def _compile(launches: Sequence[Launch], device: torch.device) -> None:
    """Compile all kernels of a step, before one of them moves anything.

    Raises:
        UnavailableError: Triton cannot compile the kernels.
    """
    try:
        for kernel, grid, arguments in launches:
            kernel.warmup(grid=grid, **arguments)
    except Exception as error:  # whatever Triton, ptxas or a C compiler raise
        reason = f"Triton could not compile them: {error}".splitlines()[0]
        gpu.FAILED[device.type] = reason
        raise UnavailableError(reason) from error


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _sent(values: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Copy host values to the device without waiting. Return the copy and its source, which must live on."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True, copy=True), values


class _Upload:
    """A copy of numbers on a device, renewed only if they have changed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._values: list[float] | None = None
        self._there: Tensor | None = None
        self._captured: list[tuple[Tensor, Tensor]] = []

    def on(self, device: torch.device, values: Sequence[float]) -> Tensor:
        """Return ``values`` as a tensor on ``device``."""
        values, there = list(values), self._there
        if _is_capturing(device):
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
