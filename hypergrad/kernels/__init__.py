"""Kernels that take a step with a learned α in two passes over memory: the default where there are some.

The hook, for ``functional.update``: between the two calls α is learned as it always is::

    kernel = kernels.choose(direction, params, grads, states, weight_decay=..., maximize=...)
    if kernel is not None:
        products = kernel.products()  # pass 1: ⟨g_t, d_{t−1}⟩ of each tensor; the states move to u_t
        ...                           # products → h → α, in torch
        kernel.move(alpha)            # pass 2: θ ← θ − α u_t

or, for the paper's three rules with no options, ``kernel.step``, which does it all in one call: at ten
thousand parameters, calls take most of the time. T tensors may stack members, with an α each.

It takes gradients as they come: pass 1 applies coupled weight decay and the sign of ``maximize``. A kernel
serves one step; call its two methods once each, in this order. ``None`` means that the caller continues
without it: for tensors on other devices, of other dtypes or subclasses, with gaps, under
torch.compile, for a direction that has no kernel, or where none can be compiled (``why_not`` says why).

========================  ==========================================================================
what the passes touch     reads + writes of a parameter-sized tensor
========================  ==========================================================================
SGD                       g, u → u;  u, θ → θ: 6
heavy ball                g, v → v;  v, θ → θ: 6
Nesterov momentum         g, v, u → v, u;  u, θ → θ: 8
Adam                      g, m, v → m, v;  m, v, θ → θ: 9
========================  ==========================================================================

A step with a trace (``traced_products``, ``move_traced``) also reads z and θ in pass 1, and reads and writes
z in pass 2: 13 for Adam. SGD and Nesterov momentum compute u twice and do not keep it: 8 and 11. A heavy ball
has 10.

Weight decay adds a read of θ to pass 1. Sums are accumulated in float64 in an order that depends on the sizes
alone, so a product has the same bits whatever the number of threads and the load of the machine.

All this is about CPUs. A GPU has kernels that take the whole step (``gpu``, ``gpu_launcher``) and learn α on
the device: ``hypergrad._device_step`` calls them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergrad import directions
from hypergrad.kernels import build, cpu, gpu
from hypergrad.rates import Rate, RateState

__all__ = ["Kernel", "at_hand", "available", "choose", "has_rule", "why_not"]


class Kernel(Protocol):
    """The two passes of one step over T tensors, and after ``renew`` of another."""

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
        """Take up the gradients of another step if all else is where and as it was; return whether it is.

        Args: as for ``choose``, but a gradient or a state may be missing, and then it is not.
        """

    def products(self, *, decays: Tensor | None = None, norms: bool = False) -> Tensor:
        """Return ⟨g_t, d_{t−1}⟩ of each tensor, d = u + λθ, and move the states to u_t.

        Args:
            decays: λ of each tensor at its last move, shape (T,), in α's dtype; ``None`` for 0.
            norms: return ⟨g, d⟩, ⟨g, g⟩ and ⟨d, d⟩ of each.

        Returns:
            Shape (T, *members), or (T, 3, *members) with ``norms``, in α's dtype, on the parameters' device.
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
        """Take the whole step, in place of ``products`` and ``move``: without members or other options.

        Args:
            rate: the lop.
            state: its state, with an entry for each tensor unless ``"group"``; moves.
            alpha: (), or (T,) for ``"tensor"``; moves.
            hypergrad_lr: β.
            granularity: see ``hypergrad.functional``; the only option.
            out: where h goes; like ``alpha``. ``None`` makes a new tensor.

        Returns:
            h in the shape of ``alpha``; ``None``, and nothing has moved, where the kernel lacks the rule.
        """

    def traced_products(self, *, decay: float) -> Tensor:
        """Return what a traced step needs of each tensor, and move the states to u_t.

        Args:
            decay: λ of e = u_t + λθ.

        Returns:
            ⟨g, z⟩, ⟨g, g⟩, ⟨z, z⟩, ⟨θ, θ⟩ and ⟨e, e⟩, of shape (T, 5, *members), on the parameters' device.
        """

    def move_traced(self, alpha: Tensor, keep: Tensor, *, decay: float, schedule: float) -> None:
        """z ← keep·z + s·e and θ ← θ − αe; ``alpha`` and ``keep`` of shape (), (T,), (*members) or both.

        Args:
            alpha: α, times the schedule's factor.
            keep: what is left of the trace.
            decay: λ, as in the first pass.
            schedule: s.
        """

    def move(self, alpha: Tensor, *, decay: float = 0.0) -> None:
        """θ ← θ − α (u_t + λθ), for α of shape (*members) or (T, *members) and λ = ``decay``."""


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
    """Return a kernel for one step with a learned α, or ``None``.

    Args:
        direction: the op.
        params: T tensors to move, at least one.
        grads: their gradients, without weight decay and sign. Not written to.
        states: what ``direction.init`` made with ``learned=True``.
        weight_decay: coupled.
        maximize: climb instead of descend.
        members: N, if the first axis of every tensor stacks N members with a product and an α each.
        traced: whether the step is one with a trace, which ``states`` then have.
        last: that of the last step, returned again if only the gradients are others.

    Raises:
        ValueError: if a gradient or state has another shape than its parameter.
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
    """Whether there are kernels for plain tensors such as ``like``; compiles them if need be."""
    return like.is_cpu and not torch.compiler.is_compiling() and build.is_loadable(cpu.REALS.get(like.dtype))


def has_rule(rate: Rate) -> bool:
    """Whether ``Kernel.step`` knows the rate rule."""
    return type(rate) in cpu.RULES


def available(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> bool:
    """Whether there are kernels for plain tensors of ``dtype`` on ``device``; compiles them if need be."""
    return why_not(device, dtype) is None


def why_not(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> str | None:
    """Return why there are no kernels for ``dtype`` on ``device``, or ``None`` if there are."""
    device = torch.device(device)
    if device.type != "cpu":
        reason = gpu.why_not_on(device.type, device.index or 0)
        return f"there are none for {dtype}" if reason is None and dtype not in gpu.DTYPES else reason
    if dtype not in cpu.REALS:
        return f"there are none for {dtype}"
    try:
        build.library(cpu.REALS[dtype])
    except build.UnavailableError as error:
        return str(error)
    return None
