"""The op Muon, which works on whole matrices.

So it takes no stacked members and has no fused kernel. ``directions.Direction`` describes its methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad._elementwise_directions import Adam, ParamState


@dataclass(frozen=True, slots=True)
class Muon:
    """Muon for matrices: v ← μv + g; u = 0.2 √max(rows, columns) · NS(g + μv). Adam for other tensors.

    NS is five Newton–Schulz steps, which take all singular values near 1: K. Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/. With the factor u is as large as Adam's, so that one α serves
    both: J. Liu et al. 2025, https://arxiv.org/abs/2502.16982. Matrices must be whole, without shards or
    members.

    Args:
        momentum: The momentum μ of matrices, at least 0. Default 0.95.
        nesterov: ``True``, the default, is Nesterov momentum, ``False`` a heavy ball.
        rest: The op of all tensors that are no matrices. Default: Adam with betas (0.9, 0.95) and ε 1e-10.
    """

    momentum: float = 0.95
    nesterov: bool = True
    rest: Adam = Adam((0.9, 0.95), 1e-10)  # noqa: RUF009  (Adam is frozen)

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        if param.ndim != 2:
            self.rest.init(param, state, learned=learned)
            return
        for name in ("momentum_buffer", "direction") if learned else ("momentum_buffer",):
            if name not in state:
                state[name] = torch.zeros_like(param)

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        others = iter(self._of_rest(states, self.rest.previous))
        return [state["direction"] if _is_matrix(state) else next(others) for state in states]

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        given = [grad for grad, state in zip(grads, states, strict=True) if not _is_matrix(state)]
        others = iter(self._of_rest(states, lambda rest: self.rest.update(given, rest)))
        return [
            self._matrix(grad, state) if _is_matrix(state) else next(others)
            for grad, state in zip(grads, states, strict=True)
        ]

    def _of_rest(
        self, states: Sequence[ParamState], function: Callable[[list[ParamState]], list[Tensor]]
    ) -> list[Tensor]:
        rest = [state for state in states if not _is_matrix(state)]
        return function(rest) if rest else []

    def _matrix(self, grad: Tensor, state: ParamState) -> Tensor:
        v = state["momentum_buffer"].mul_(self.momentum).add_(grad)
        u = orthogonalized(torch.add(grad, v, alpha=self.momentum) if self.nesterov else v)
        u = u.mul_(0.2 * math.sqrt(max(grad.shape)))
        return state["direction"].copy_(u) if "direction" in state else u.to(grad.dtype)

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
        raise RuntimeError("there is no kernel for Muon: give fused=False")


def _is_matrix(state: ParamState) -> bool:
    return "momentum_buffer" in state


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return five Newton–Schulz steps from ``matrix`` / ‖matrix‖ towards the nearest orthogonal matrix.

    On a CPU the steps run in the matrix's dtype, at least float32; on other devices in bfloat16, as in the
    code of K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
    """
    if matrix.is_cpu:
        x = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    else:
        x = matrix.to(torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = torch.div(x, x.norm().clamp_min(1e-7))
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ x
    return x.T.contiguous() if tall else x
