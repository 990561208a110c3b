"""The launches of one step with a learned α on a GPU, by Triton's kernels.

A step is three launches, four with granularity "released" (``triton_passes``, ``triton_alpha``). It waits for
no device, and after the first one it allocates nothing there. The kernels find the tensors by a table of
their addresses, which goes to the device only if one of them has changed. Under a CUDA graph's capture a step
gets a table of its own, which lives as long as the launcher: the graph copies it again in every replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hypergrad.kernels import gpu
from hypergrad.kernels.build import UnavailableError

BLOCK = 1024
"""Elements at a time: with eight warps, 16 bytes of float32 for each thread."""
BLOCKS = 4
"""Blocks of a tile, which one program takes."""
CHUNK = 1024
"""Partial sums at a time."""
RELEASED_CHUNK = 128
"""Tensors at a time, by one warp."""
LAYOUTS = 16
"""As many are kept of tensors with a gradient: some models leave out others in every step."""

Launch = tuple[Any, tuple[int, ...], dict[str, Any]]
"""A kernel, its grid and its arguments by name."""


class Layout(NamedTuple):
    """How the rows are cut into tiles, and room for sums: the same for every step of the same tensors."""

    tiles: Tensor
    """The row of each tile."""
    starts: Tensor
    """The first tile of each row, and the number of tiles."""
    sizes: Tensor
    """Elements of a row, of one member."""
    row_of: Tensor
    """The row of each of the T tensors, or −1; then the place of each row among the T."""
    places: Tensor
    """The latter alone."""
    sums: Tensor
    row_sums: Tensor | None
    moved: Tensor
    """αs, what is kept of the trace, and s: for each tensor or for all, and for each member."""
    rows: int
    present: int
    total: int
    tile_count: int
    elements: int


class Launcher:
    """Takes steps of one group of parameters. It keeps what the next step can use again, and no gradients."""

    def __init__(self) -> None:
        self._layouts: dict[Any, Layout] = {}
        self._captured: list[Layout] = []
        self._addresses = _Upload(torch.int64)
        self._numbers = _Upload(torch.float64)
        self._compiled: set[Any] = set()

    def renew(self, *_: Any, **__: Any) -> bool:
        """Tell the CPU's steps that this is not their kernel."""
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
            given: its tensors, all on one device.
            spec: what the step is.
            numbers: as in ``triton_numbers``.
            places: of each row, its tensor's place among the T.
            total: T.

        Raises:
            UnavailableError: if Triton cannot compile the kernels. Nothing has moved then.
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
        self._layouts[key] = layout  # at the end, as the last one used
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
    """Return the launches of a step, in order."""
    from hypergrad.kernels import triton_alpha, triton_passes

    members = spec.members or 1
    # Without tiles there is nothing to sum or to move: every tensor is empty.
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
    # Without tensors of their own the kernels take β and s from the numbers.
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
    """Compile all kernels of a step, before one of them moves anything."""
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
    """Copy host values to the device without waiting; return them there, and where they are copied from."""
    if device.type == "cuda":
        values = values.pin_memory()
    return values.to(device, non_blocking=True, copy=True), values


class _Upload:
    """Numbers on a device, which are sent again only if they have changed."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._values: list[float] | None = None
        self._there: Tensor | None = None
        self._captured: list[tuple[Tensor, Tensor]] = []

    def on(self, device: torch.device, values: Sequence[float]) -> Tensor:
        """Return ``values`` on ``device``."""
        values, there = list(values), self._there
        if _is_capturing(device):
            # A replay copies them once more: both ends must stay, and no later step may write to them.
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
