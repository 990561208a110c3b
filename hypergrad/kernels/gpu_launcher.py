"""The launches of one step with a learned α on a GPU, by Triton's kernels.

A step is three launches, four with granularity "released" (``triton_passes``, ``triton_alpha``). It waits for
no device, and only the first step allocates memory there. The kernels find the tensors by a table of their
addresses, which goes to the device only if one of them has changed. A step that a CUDA graph captures gets a
table of its own, which lives as long as the launcher: the graph copies it again in every replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.kernels import gpu
from hypergrad.kernels.build import UnavailableError
from hypergrad.kernels.gpu_memory import Layout, Upload, is_capturing, new_layout

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


class Launcher:
    """A launcher takes the steps of one group. It keeps tables for the next step, and no gradients."""

    def __init__(self) -> None:
        self._layouts: dict[Any, Layout] = {}
        self._captured: list[Layout] = []
        self._addresses = Upload(torch.int64)
        self._numbers = Upload(torch.float64)
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
        tile = BLOCK * BLOCKS
        key = (sizes, present, places, total, members, spec.columns, spec.granularity, tile)
        layout = self._layouts.pop(key, None)
        if layout is None:
            layout = new_layout(sizes, present, places, total, spec, tile, given.alpha.device)
        self._layouts[key] = layout  # at the end, as the one used last
        while len(self._layouts) > LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        if is_capturing(given.alpha.device):
            self._captured.append(layout)
        return layout


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
