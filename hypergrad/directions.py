"""Directions (ops): the u_t that the parameters move along, for lists of tensors.

A direction keeps one dict of state per parameter, under the names that ``torch.optim`` uses. A learned α also
needs u_{t−1}. SGD, Nesterov momentum and Muon store it as ``direction``; heavy ball and Adam compute it from
the state that they have anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from hypergrad._elementwise_directions import SGD, Adam, Momentum, ParamState
from hypergrad._muon_direction import Muon, orthogonalized

__all__ = ["SGD", "Adam", "Direction", "Momentum", "Muon", "ParamState", "orthogonalized"]


class Direction(Protocol):
    """An op. All lists have one entry per parameter, in the same order; u has its parameter's shape."""

    def init(self, param: Tensor, state: ParamState, *, learned: bool) -> None:
        """Add the missing entries to a parameter's state.

        Args:
            param: The parameter, for the shape, dtype and device of the entries.
            state: The parameter's state. Changes in place.
            learned: Whether α is learned, so that steps call ``previous``.
        """

    def previous(self, states: Sequence[ParamState]) -> list[Tensor]:
        """Return u_{t−1}. Call it before ``update`` moves the states, and do not write to its tensors.

        Args:
            states: The state of each parameter.
        """

    def update(self, grads: Sequence[Tensor], states: Sequence[ParamState]) -> list[Tensor]:
        """Move the states by g_t in place and return u_t.

        Args:
            grads: The gradient g_t of each parameter. Not changed.
            states: The state of each parameter. Changes in place.

        Returns:
            u_t of each parameter. It may be g_t or part of a state, so do not write to it.
        """

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
        """Move states and parameters, θ ← θ − α·(u + λθ), with torch's fused kernels.

        Args:
            params: The parameters, all of one dtype and on one device, on which Adam counts its steps too.
                Change in place.
            grads: The gradient of each parameter.
            states: The state of each parameter. Changes in place.
            lr: α, a number or a 0-d tensor.
            decay: The decoupled weight decay λ. Default 0.
            found_inf: A 0-d tensor, 0 or 1. If it is 1, nothing changes. ``None``, the default, means 0.

        Raises:
            RuntimeError: torch has no fused kernel for the op.
        """
