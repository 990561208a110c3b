# ruff: noqa: D102  (the methods are documented once, in Direction)
"""What the parameters move along: the direction u_t of the model optimizer (op), for lists of tensors.

Each direction keeps its state per parameter in a dict, under the names that torch.optim uses. A learned
learning rate also needs u_{t-1}: SGD and Nesterov momentum keep it as ``direction``; heavy ball and Adam
have it in their state already.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hypergrad._cache_blocking import chunks
from hypergrad.rates import correction

ParamState = dict[str, Tensor]


class Direction(Protocol):
    """An op. Lists hold one entry per parameter, in one order; u has its parameter's shape."""

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        """Add what ``state`` lacks at t = 0; ``learned`` if ``previous`` will be asked for."""

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        """Return u_{t-1}, before ``update`` moves the states. Not to be written to."""

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        """Move the states by g_t and return u_t. Not to be written to: may be g_t or part of a state."""

    def fused(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[ParamState],
        lr: Tensor | float,
        *,
        decay: float = 0.0,
        found_inf: Tensor | None = None,
    ) -> None:
        """``update`` and θ ← θ − lr·(u + decay·θ) in torch's kernels; nothing if ``found_inf`` is not 0.

        One device, on which Adam counts its steps too; one dtype; ``lr`` 0-d.
        """


@dataclass(frozen=True, slots=True)
class SGD:
    """u = g."""

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        if learned and "direction" not in state:
            state["direction"] = torch.zeros_like(param)

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        return [state["direction"] for state in states]

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        if "direction" in states[0]:
            torch._foreach_copy_([state["direction"] for state in states], list(grads))
        return list(grads)

    def fused(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[ParamState],
        lr: Tensor | float,
        *,
        decay: float = 0.0,
        found_inf: Tensor | None = None,
    ) -> None:
        with _kept_if(found_inf, states):
            directions = self.update(grads, states)
        # What the kernel calls gradients are directions here, so its weight decay is the decoupled one.
        _fused_sgd(params, directions, lr, decay, found_inf)


@dataclass(frozen=True, slots=True)
class Momentum:
    """v ← μv + g; u = g + μv with Nesterov momentum (the report's SGDN), u = v without (heavy ball)."""

    momentum: float = 0.9
    nesterov: bool = True

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        if learned and self.nesterov and "direction" not in state:
            state["direction"] = torch.zeros_like(param)

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        key = "direction" if self.nesterov else "momentum_buffer"
        return [state[key] for state in states]

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        buffers = [state["momentum_buffer"] for state in states]
        torch._foreach_mul_(buffers, self.momentum)
        torch._foreach_add_(buffers, list(grads))
        if not self.nesterov:
            return buffers
        if "direction" not in states[0]:
            return list(torch._foreach_add(list(grads), buffers, alpha=self.momentum))
        directions = [state["direction"] for state in states]
        torch._foreach_copy_(directions, list(grads))
        torch._foreach_add_(directions, buffers, alpha=self.momentum)
        return directions

    def fused(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[ParamState],
        lr: Tensor | float,
        *,
        decay: float = 0.0,
        found_inf: Tensor | None = None,
    ) -> None:
        if not decay and "direction" not in states[0]:
            # The kernel has momentum of its own; a buffer of zeros is what it would begin with.
            buffers = [state["momentum_buffer"] for state in states]
            _fused_sgd(params, grads, lr, 0.0, found_inf, buffers, self.momentum, self.nesterov)
            return
        with _kept_if(found_inf, states):
            directions = self.update(grads, states)
        # What the kernel calls gradients are directions here, so its weight decay is the decoupled one.
        _fused_sgd(params, directions, lr, decay, found_inf)


@dataclass(frozen=True, slots=True)
class Adam:
    """m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; u = m̂ / (√v̂ + ε) (Kingma & Ba 2015, Algorithm 1)."""

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    capturable: bool = False
    """Count the steps on the parameters' device, where the host need not read them."""

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        if "exp_avg" not in state:
            # As in torch.optim the count stays on the CPU unless asked for: the host reads it every step.
            device = param.device if self.capturable else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        elif self.capturable and state["step"].device != param.device:
            state["step"] = state["step"].to(param.device)

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        # m̂ / (√v̂ + ε) = m / (√v·scale + shift). At step 0 m = 0, and any shift but 0 makes u_0 = 0.
        scales, shifts = self._corrections(states)
        if len(states) == 1:
            direction = torch.empty_like(states[0]["exp_avg"])
            for u, m, v in chunks(direction, states[0]["exp_avg"], states[0]["exp_avg_sq"]):
                torch.sqrt(v, out=u).mul_(scales[0]).add_(shifts[0])
                torch.div(m, u, out=u)
            return [direction]
        denominators = torch._foreach_sqrt([state["exp_avg_sq"] for state in states])
        torch._foreach_mul_(denominators, scales)
        torch._foreach_add_(denominators, shifts)
        return list(torch._foreach_div([state["exp_avg"] for state in states], list(denominators)))

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        beta1, beta2 = self.betas
        torch._foreach_add_([state["step"] for state in states], 1)
        torch._foreach_lerp_([state["exp_avg"] for state in states], list(grads), 1 - beta1)
        squares = [state["exp_avg_sq"] for state in states]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, list(grads), list(grads), 1 - beta2)
        return self.previous(states)

    def _corrections(self, states: Sequence[ParamState]) -> tuple[list[Any], list[Any]]:
        """Scale and shift of each tensor: numbers where the host counts the steps, else 0-d tensors."""
        beta1, beta2 = self.betas
        if not torch.compiler.is_compiling() and all(state["step"].is_cpu for state in states):
            scales, shifts = [], []
            for state in states:
                step = float(state["step"])
                correction1 = 1 - beta1**step if step else 1.0
                correction2 = 1 - beta2**step if step else 1.0
                scales.append(correction1 / math.sqrt(correction2))
                shifts.append(correction1 * self.eps if step else 1.0)
            return scales, shifts
        dtype = torch.promote_types(torch.float32, states[0]["exp_avg"].dtype)
        steps = torch.stack([state["step"] for state in states]).to(dtype)
        started = steps > 0
        firsts = torch.where(started, correction(beta1, steps), 1.0)
        seconds = torch.where(started, correction(beta2, steps), 1.0)
        shift = torch.where(started, firsts * self.eps, 1.0)
        return list((firsts / seconds.sqrt()).unbind()), list(shift.unbind())

    def fused(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[ParamState],
        lr: Tensor | float,
        *,
        decay: float = 0.0,
        found_inf: Tensor | None = None,
    ) -> None:
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if decay else torch._fused_adam_
        kernel(
            list(params),
            list(grads),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
            found_inf=found_inf,
        )
        if found_inf is not None:
            # As torch.optim does: the kernel leaves the parameters, the count is taken back.
            torch._foreach_sub_(steps, [found_inf.to(torch.float32)] * len(steps))


def _fused_sgd(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    lr: Tensor | float,
    weight_decay: float,
    found_inf: Tensor | None,
    buffers: Sequence[Tensor] = (),
    momentum: float = 0.0,
    nesterov: bool = False,
) -> None:
    torch._fused_sgd_(
        list(params),
        list(grads),
        list(buffers),
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=nesterov,
        maximize=False,
        is_first_step=False,
        found_inf=found_inf,
    )


@contextmanager
def _kept_if(found_inf: Tensor | None, states: Sequence[ParamState]) -> Iterator[None]:
    """Undo at the end what happened to ``states`` if ``found_inf`` is not 0."""
    if found_inf is None:
        yield
        return
    tensors = [value for state in states for value in state.values()]
    before = [tensor.clone() for tensor in tensors]
    yield
    for tensor, kept in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(found_inf != 0, kept, tensor))
