"""Kernels that take a step with a learned α in two passes over memory. Steps use them where there are some.

``functional.update`` calls them as follows; between the two calls it learns α as without kernels::

    kernel = kernels.choose(direction, params, grads, states, weight_decay=..., maximize=...)
    if kernel is not None:
        products = kernel.products()  # pass 1: ⟨g_t, d_{t−1}⟩ of each tensor; the states move to u_t
        ...                           # products → h → α, in torch
        kernel.move(alpha)            # pass 2: θ ← θ − α u_t

For the paper's three lops with no other options ``kernel.step`` does all that in one call: with ten thousand
parameters, calls take most of the time. The T tensors may stack members, each with its own α.

Kernels take gradients as given: pass 1 applies coupled weight decay and the sign of ``maximize``. A kernel
serves one step: call its two methods once each, in this order. ``None`` means that the caller continues
without a kernel: for tensors on other devices, of other dtypes or subclasses, with gaps, under torch.compile,
for a direction without a kernel, or where nothing can compile the kernels (``why_not`` says why).

========================  ==========================================================================
op                        reads → writes in pass 1;  in pass 2: number of parameter-sized tensors
========================  ==========================================================================
SGD                       g, u → u;  u, θ → θ: 6
heavy ball                g, v → v;  v, θ → θ: 6
Nesterov momentum         g, v, u → v, u;  u, θ → θ: 8
Adam                      g, m, v → m, v;  m, v, θ → θ: 9
========================  ==========================================================================

A step with a trace (``traced_products``, ``move_traced``) also reads z and θ in pass 1, and reads and writes
z in pass 2: 13 for Adam. SGD and Nesterov momentum compute u twice and do not keep it: 8 and 11. A heavy ball
has 10.

Weight decay adds a read of θ to pass 1. The kernels accumulate sums in float64 in an order that depends on
the sizes alone, so a product has the same bits whatever the number of threads and the load of the machine.

These kernels are for CPUs. GPUs have kernels that take the whole step (``gpu``, ``gpu_launcher``) and learn α
on the device; ``hypergrad._device_step`` calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergrad import directions
from hypergrad.kernels import build, cpu, gpu
from hypergrad.kernels.cpu_interface import LOP_STATES, REALS
from hypergrad.rates import Rate, RateState

__all__ = ["Kernel", "at_hand", "available", "choose", "has_rule", "why_not"]


class Kernel(Protocol):
    """The two passes of one step over T tensors, and after ``renew`` those of another step."""

    def renew(
        self,
        direction: directions.Direction,
        params: Sequence[Tensor],
        grads: Sequence[Tensor | None],
        states: Sequence[directions.ParamState],
        *,
        weight_decay: float,
        maximize: bool,
        members: int | None = None,
        traced: bool = False,
    ) -> bool:
        """Take the gradients of another step, if all else is unchanged; return whether it is.

        The arguments are those of ``choose``. A gradient or state that is missing counts as a change.
        """

    def products(self, *, decays: Tensor | None = None, norms: bool = False) -> Tensor:
        """Return ⟨g_t, d_{t−1}⟩ of each tensor, with d = u + λθ, and move the states to u_t.

        Args:
            decays: The decoupled weight decay λ of each tensor's last move, of shape (T,), on the parameters'
                device. ``None``, the default, means 0.
            norms: Whether to return ⟨g, d⟩, ⟨g, g⟩ and ⟨d, d⟩ of each tensor. Default ``False``.

        Returns:
            The products, of shape (T, *members), or (T, 3, *members) with ``norms``, in the parameters' dtype
            and on their device.

        Raises:
            ValueError: ``decays`` has another shape or device.
            MemoryError: There is not enough memory for the sums.
        """

    def step(
        self,
        rate: Rate,
        state: RateState,
        alpha: Tensor,
        *,
        hypergrad_lr: Tensor | float,
        granularity: str,
        out: Tensor | None = None,
    ) -> Tensor | None:
        """Take the whole step in place, instead of ``products`` and ``move``: additive, without bounds.

        Args:
            rate: The lop.
            state: The lop's state: one entry per tensor, but one in all for granularity ``"group"``. Changes
                in place.
            alpha: α, 0-d, or of shape (T,) for granularity ``"tensor"``. Changes in place.
            hypergrad_lr: The learning rate β of α.
            granularity: ``"group"``, ``"tensor"`` or ``"released"``, as in ``hypergrad.functional``.
            out: A tensor like ``alpha`` for h. ``None``, the default, makes a new tensor.

        Returns:
            h in the shape of ``alpha``; ``None``, with nothing moved, if the kernel does not have the lop or
            cannot take its tensors, if ``params`` stack members, or if β is a tensor.

        Raises:
            MemoryError: There is not enough memory for the sums.
        """

    def traced_products(self, *, decay: float) -> Tensor:
        """Return the products of each tensor for a traced step, and move the states to u_t.

        Args:
            decay: The decoupled weight decay λ in e = u_t + λθ.

        Returns:
            ⟨g, z⟩, ⟨g, g⟩, ⟨z, z⟩, ⟨θ, θ⟩ and ⟨e, e⟩, of shape (T, 5, *members), in the parameters' dtype and
            on their device.

        Raises:
            MemoryError: There is not enough memory for the sums.
        """

    def move_traced(self, alpha: Tensor, keep: Tensor, *, decay: float, schedule: float) -> None:
        """Move the traces, z ← keep·z + s·e, and the parameters, θ ← θ − αe, with e = u_t + λθ.

        Args:
            alpha: α times the schedule's factor, of shape (*members) or (T, *members).
            keep: The factor of the trace, of shape (*members) or (T, *members).
            decay: The decoupled weight decay λ, as in the first pass.
            schedule: The schedule's factor s.

        Raises:
            ValueError: ``alpha`` or ``keep`` is on another device.
        """

    def move(self, alpha: Tensor, *, decay: float = 0.0) -> None:
        """Move the parameters, θ ← θ − α (u_t + λθ).

        Args:
            alpha: α times the schedule's factor, of shape (*members) or (T, *members).
            decay: The decoupled weight decay λ. Default 0.

        Raises:
            ValueError: ``alpha`` has another shape or device.
        """


def choose(
    direction: directions.Direction,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: Sequence[directions.ParamState],
    *,
    weight_decay: float = 0.0,
    maximize: bool = False,
    members: int | None = None,
    traced: bool = False,
    last: Kernel | None = None,
) -> Kernel | None:
    """Return a kernel for one step with a learned α, or ``None`` if there is none.

    Args:
        direction: The op.
        params: The T tensors to move, at least one.
        grads: The gradient of each tensor, without weight decay and not negated to maximize. Not changed.
        states: The op's state of each tensor, for a learned α, with the trace for a traced step.
        weight_decay: The coupled weight decay λ. Default 0.
        maximize: Ascend instead of descend. Default ``False``.
        members: N, if the first axis of every tensor stacks N members, with a product and an α each.
            ``None``, the default, means no such axis.
        traced: Whether the step has a trace. Default ``False``.
        last: The kernel of the last step. ``choose`` returns it again if only the gradients have changed.
            ``None``, the default, means that there was none.

    Raises:
        ValueError: A gradient or state has another shape than its parameter, or a parameter lacks the member
            axis.
    """
    if torch.compiler.is_compiling() or not params[0].is_cpu:
        return None
    settings: dict[str, Any] = {
        "weight_decay": weight_decay,
        "maximize": maximize,
        "members": members,
        "traced": traced,
    }
    try:
        if last is not None and last.renew(direction, params, grads, states, **settings):
            return last
        return cpu.CPUKernel(direction, params, grads, states, **settings)
    except build.UnavailableError:
        return None


def at_hand(like: Tensor) -> bool:
    """Return whether there are kernels for plain tensors like ``like``. Compile them if need be."""
    return like.is_cpu and not torch.compiler.is_compiling() and build.is_loadable(REALS.get(like.dtype))


def has_rule(rate: Rate) -> bool:
    """Return whether ``Kernel.step`` has the lop."""
    return type(rate) in LOP_STATES


def available(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> bool:
    """Return whether there are kernels for plain tensors. Compile those for CPUs if need be.

    Args:
        device: The tensors' device. Default ``"cpu"``.
        dtype: The tensors' dtype. Default ``torch.float32``.
    """
    return why_not(device, dtype) is None


def why_not(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str | None:
    """Return why there are no kernels for plain tensors, or ``None`` if there are.

    Args:
        device: The tensors' device. Default ``"cpu"``.
        dtype: The tensors' dtype. Default ``torch.float32``.
    """
    device = torch.device(device)
    if device.type != "cpu":
        reason = gpu.why_not_on(device.type, device.index or 0)
        return f"there are none for {dtype}" if reason is None and dtype not in gpu.DTYPES else reason
    if dtype not in REALS:
        return f"there are none for {dtype}"
    try:
        build.library(REALS[dtype])
    except build.UnavailableError as error:
        return str(error)
    return None
