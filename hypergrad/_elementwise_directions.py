"""The ops that work element by element: SGD, momentum and Adam.

They also work on stacked members, and torch has fused kernels for them. ``directions.Direction`` describes
their methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad import _step_counts
from hypergrad._cache_blocking import chunks
from hypergrad._skipped_steps import restore_if
from hypergrad.rates import correction

ParamState = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent: u = g."""

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
        with restore_if(found_inf, [value for state in states for value in state.values()]):
            directions = self.update(grads, states)
        # The kernel takes the directions as gradients, so its weight decay is the decoupled one.
        _fused_sgd(params, directions, lr, decay, found_inf)


@dataclass(frozen=True, slots=True)
class Momentum:
    """Momentum: v ← μv + g; u = g + μv with Nesterov momentum (SGDN in Mittal 2019), u = v without.

    Args:
        momentum: The momentum μ, at least 0. Default 0.9.
        nesterov: ``True``, the default, is Nesterov momentum, ``False`` a heavy ball.
    """

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
            # The kernel has its own momentum, which also begins with a buffer of zeros.
            buffers = [state["momentum_buffer"] for state in states]
            _fused_sgd(params, grads, lr, 0.0, found_inf, buffers, self.momentum, self.nesterov)
            return
        with restore_if(found_inf, [value for state in states for value in state.values()]):
            directions = self.update(grads, states)
        # The kernel takes the directions as gradients, so its weight decay is the decoupled one.
        _fused_sgd(params, directions, lr, decay, found_inf)


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam: m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; u = m̂ / (√v̂ + ε).

    Algorithm 1 of D. P. Kingma and J. Ba, ICLR 2015, https://arxiv.org/abs/1412.6980.

    Args:
        betas: β₁ and β₂, each at least 0 and below 1. Default (0.9, 0.999).
        eps: ε, at least 0. Default 1e-8.
        capturable: Count the steps on the parameters' device, where the host does not read them. Default
            ``False``: on the CPU.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    capturable: bool = False

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        if "exp_avg" not in state:
            # As in torch.optim the count stays on the CPU by default: the host reads it in every step.
            device = param.device if self.capturable else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            _step_counts.begin(state["step"])
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        elif self.capturable and state["step"].device != param.device:
            state["step"] = state["step"].to(param.device)

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        steps = [state["step"] for state in states]
        if not _host_counts(steps) and self.eps > 0 and _step_counts.are_equal(steps):
            return self._previous_of_equal_counts(states)
        # m̂ / (√v̂ + ε) = m / (√v·scale + shift). At step 0 m = 0, so any shift but 0 gives u_0 = 0.
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

    def _previous_of_equal_counts(self, states: Sequence[ParamState]) -> list[Tensor]:
        """Return m / ((√v/√c₂ + ε)·c₁) with one c₁ and c₂ for all tensors, which saves a launch for each."""
        beta1, beta2 = self.betas
        moments = [state["exp_avg"] for state in states]
        step = states[0]["step"].to(torch.promote_types(torch.float32, moments[0].dtype))
        started = step > 0
        first = torch.where(started, correction(beta1, step), 1.0)
        second = torch.where(started, correction(beta2, step), 1.0)
        denominators = torch._foreach_sqrt([state["exp_avg_sq"] for state in states])
        torch._foreach_mul_(denominators, second.rsqrt())
        torch._foreach_add_(denominators, self.eps)
        torch._foreach_mul_(denominators, first)
        return list(torch._foreach_div(moments, list(denominators)))

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        beta1, beta2 = self.betas
        _step_counts.grow([state["step"] for state in states])
        torch._foreach_lerp_([state["exp_avg"] for state in states], list(grads), 1 - beta1)
        squares = [state["exp_avg_sq"] for state in states]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, list(grads), list(grads), 1 - beta2)
        return self.previous(states)

    def _corrections(self, states: Sequence[ParamState]) -> tuple[list[Any], list[Any]]:
        """Return each tensor's scale and shift: numbers if the host counts the steps, else 0-d tensors."""
        beta1, beta2 = self.betas
        if _host_counts([state["step"] for state in states]):
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
        _step_counts.grow(steps)
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
            # As in torch.optim: if the kernel did not move the parameters, take the count back.
            torch._foreach_sub_(steps, [found_inf.to(torch.float32)] * len(steps))


def _host_counts(steps: Sequence[Tensor]) -> bool:
    """Return whether the host may read the counts without waiting for a device."""
    return not torch.compiler.is_compiling() and all(map(_step_counts.on_host, steps))


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
